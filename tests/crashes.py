"""Kill a run repeatedly in each of its phases, let it finish, and compare it with an undisturbed one.

    uv run python -m tests.crashes --kills=54 --seed=0

A run on 84 images goes through every phase: prepare records, decode images, encode features, cluster, make synthetic
images, train, save checkpoints, evaluate, write the result. It is killed equally often in each, by SIGKILL or
SIGTERM, at a random moment. The exit code is 1 if anything differs in the end.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.support.downloads import write_ham

ROOT = Path(__file__).parents[1]
_LIMIT = 300.0  # seconds that a run may take
SETTINGS = {
    "data.image_size": 16, "data.split": "stratified", "data.test_fraction": 0.3, "encoder.name": "projection",
    "model.name": "resnet10", "model.width": 8, "sampler": "deepsmote", "deepsmote.epochs": 20, "train.batch_size": 16,
    "deepsmote.width": 8, "deepsmote.latent": 32, "train.steps": 60, "train.checkpoint_steps": 5,
    "train.eval_steps": 10, "train.steps_per_call": 5,
}  # fmt: skip


def under_way(folder: str) -> Callable[[Path], bool]:
    """Whether an entry of a cache folder is being computed."""

    def phase(place: Path) -> bool:
        return any(not lock.with_suffix(".npz").exists() for lock in place.glob(f"cache/{folder}/*.lock"))

    return phase


# Recognized by the files on disk.
PHASES: dict[str, Callable[[Path], bool]] = {
    "prepare": lambda place: any(place.glob("prepared/**/*incomplete*")),
    "decode": under_way("images"),
    "encode": under_way("features"),
    "K-means": under_way("groups"),
    "DeepSMOTE": under_way("deepsmote"),
    "train": lambda place: (place / "run" / "metrics.jsonl").exists(),
    "checkpoint": lambda place: any(place.glob("run/checkpoints/*tmp*")),
    "evaluate": lambda place: (place / "run" / "checkpoints" / "60").exists(),
    "result": lambda place: any(place.glob("run/.predictions-*")) or any(place.glob("run/.result-*")),
}


def start(place: Path) -> multiprocessing.process.BaseProcess:
    """The command in its own process, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rgjax.main"])
    arguments = ["--config=configs/ham10000.py:rg", f"--workdir={place / 'run'}"]
    settings = SETTINGS | {"data.manual_dir": place / "ham", "data.data_dir": place / "prepared"}
    arguments += [f"--config.{name}={value}" for name, value in settings.items()]
    process = context.Process(target=_run, args=(arguments, str(place)))
    process.start()
    return process


def _run(arguments: list[str], place: str) -> None:
    os.chdir(ROOT)
    os.environ |= {"RGJAX_CACHE": f"{place}/cache"}
    log = os.open(f"{place}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["rgjax.main", *arguments]
    from rgjax.edges.start import guard_command
    from rgjax.main import cli

    guard_command()
    cli()


def end(place: Path) -> None:
    process = start(place)
    process.join(_LIMIT)
    if process.exitcode != 0:
        raise SystemExit(f"a run did not end: exit {process.exitcode}: {(place / 'log.txt').read_text()[-2000:]}")


def kill(place: Path, phase: str, number: int, rng: random.Random) -> float | None:
    """Start the run and send it a signal during a phase.

    Returns the seconds until it ended, or None if the phase was over before the signal arrived.
    """
    process = start(place)
    deadline = time.monotonic() + _LIMIT
    while process.is_alive() and not PHASES[phase](place):
        if time.monotonic() > deadline:
            raise SystemExit(f"{phase} was not reached: {(place / 'log.txt').read_text()[-2000:]}")
        time.sleep(0.001)
    time.sleep(rng.choice([0.0, 0.005, 0.05, 0.3]) * rng.random())
    sent = time.monotonic()
    if process.is_alive():
        os.kill(process.pid or 0, number)
    process.join(_LIMIT)
    seconds = time.monotonic() - sent
    if process.exitcode == 0:
        return None
    expected = {-signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM}  # the last: before the command has begun
    if process.exitcode not in expected:
        raise SystemExit(f"exit {process.exitcode} in {phase}: {(place / 'log.txt').read_text()[-2000:]}")
    return seconds


def outcome(place: Path) -> tuple[bytes, dict]:
    """Predictions and result of a run, without its times."""
    result = json.loads((place / "run" / "result.json").read_text())
    del result["timing"]
    return (place / "run" / "predictions.npz").read_bytes(), result


def crash(folder: Path, kills: int, seed: int, say: Callable[[str], None] = print) -> Counter:
    """Kill runs `kills` times in total, each phase equally often, and compare their outcomes.

    Returns the counts of (phase, signal). Raises SystemExit if an outcome differs.
    """
    rng, survived, slowest = random.Random(seed), Counter(), 0.0
    undisturbed = folder / "undisturbed"
    write_ham(undisturbed / "ham")
    end(undisturbed)
    expected, chain = outcome(undisturbed), 0
    while sum(survived.values()) < kills:
        chain += 1
        place = folder / f"chain{chain}"
        write_ham(place / "ham")
        shutil.copytree(undisturbed / "cache" / "programs", place / "cache" / "programs")
        for i, phase in enumerate(PHASES):
            number = (signal.SIGKILL, signal.SIGTERM)[(chain + i) % 2]
            seconds = kill(place, phase, number, rng)
            if seconds is None:
                break  # it has ended
            survived[phase, number.name] += 1
            if number is signal.SIGTERM:
                slowest = max(slowest, seconds)
                if seconds > 10:
                    raise SystemExit(f"SIGTERM in {phase}: it took {seconds:.1f} s to end")
        end(place)
        if outcome(place) != expected:
            raise SystemExit(f"{place}: predictions or result differ from the undisturbed run's")
        say(f"{sum(survived.values())} kills, {chain} runs equal to the undisturbed one bit for bit")
    for phase in PHASES:
        say(f"{phase:<12}{survived[phase, 'SIGKILL']:>4} SIGKILL{survived[phase, 'SIGTERM']:>4} SIGTERM")
    say(f"slowest end after SIGTERM: {slowest:.1f} s")
    return survived


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=54)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        crash(Path(name), asked.kills, asked.seed)
        print(f"{time.monotonic() - begun:.0f} s")
