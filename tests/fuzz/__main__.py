"""Fuzz what reads files, guided by the coverage that inputs reach (atheris), one target after the other.

    uv run --with atheris python -m tests.fuzz [TARGET ...] [--seconds=60] [--folder=runs/fuzz]

FOLDER/TARGET holds the inputs found, from which the next call goes on, and those that break a promise (crash-*,
timeout-*, oom-*); then the exit code is 1. `--again=FILE` runs a target on such an input alone.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

INSTRUMENTED = ["rgjax.data", "rgjax.models", "rgjax.report", "rgjax.config", "rgjax.command", "json", "PIL", "csv"]
MEMORY = Path("/dev/shm")  # where there is one, files that are soon overwritten need no disk
LIMITS = ["-timeout=20", "-rss_limit_mb=3000", "-max_len=200000"]  # seconds and memory of one input, its length


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, where none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--again", type=Path, help="an input to run one target on")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        return fuzz(given.targets[0], given.folder, given.seconds, given.inside)
    from tests.fuzz.targets import TARGETS

    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"there is no target {', '.join(unknown)}: the targets are {', '.join(TARGETS)}")
    if given.again:
        with TemporaryDirectory() as place:
            target = TARGETS[given.targets[0]]
            target.prepare(Path(place))
            print("accepted" if target.run(given.again.read_bytes(), Path(place)) else "refused")
        return 0
    print("| target | executions | seconds | coverage | inputs | broken |\n|---|--:|--:|--:|--:|---|", flush=True)
    return max([in_process_of_its_own(name, given.folder / name, given.seconds) for name in given.targets or TARGETS])


def in_process_of_its_own(name: str, folder: Path, seconds: int) -> int:
    """libFuzzer ends the process that it runs in."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place, open(folder / "log", "w+b") as log:
        options = [f"--inside={place}", f"--folder={folder}", f"--seconds={seconds}"]
        command = [sys.executable, "-m", "tests.fuzz", name, *options]
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        log.seek(0)
        told = log.read().decode(errors="replace")
    executions, coverage, inputs = (re.findall(r"^#(\d+)\s.*?cov: (\d+).*?corp: (\d+)", told, re.M) or ["000"])[-1]
    done, lasted = (re.findall(r"^Done (\d+) runs in (\d+)", told, re.M) or [(executions, "-")])[-1]
    broken = [path.name for path in sorted(folder.iterdir()) if path.name.startswith(("crash", "timeout", "oom"))]
    verdict = ", ".join(broken) or ("-" if code == 0 else f"see {folder / 'log'}")
    print(f"| {name} | {done} | {lasted} | {coverage} | {inputs} | {verdict} |", flush=True)
    return int(code != 0)


def fuzz(name: str, folder: Path, seconds: int, place: Path) -> int:
    """Never returns: libFuzzer leaves by itself."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: uv run --with atheris python -m tests.fuzz")
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    target, corpus, seeds = TARGETS[name], folder / "corpus", folder / "seeds"
    for inputs in (corpus, seeds):
        inputs.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(content)
    target.prepare(place)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", *LIMITS]
    atheris.Setup(["fuzz", str(corpus), str(seeds), *options], lambda content: target.run(content, place) and None)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
