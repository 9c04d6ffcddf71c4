"""Train and judge one method on one data set.

    python -m rgjax.main --config=configs/FILE.py[:METHOD] [--config.NAME=VALUE ...] [--workdir=DIR]

The same command goes on with an interrupted run, and prints the result of a finished one.
Without --workdir the run goes to runs/DATASET-METHOD-HASH.
"""

import difflib
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from rgjax import config as settings
from rgjax import experiment
from rgjax.config import Config
from rgjax.errors import UserError
from rgjax.storage import cache_dir, digest, write_json

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py, optionally with :METHOD")
_WORKDIR = flags.DEFINE_string("workdir", "", "where the run is kept")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax tells its settings at length
    config = _CONFIG.value
    settings.validate(config)
    workdir = Path(_WORKDIR.value or default_workdir(config))
    claim(workdir, config)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    result = experiment.run(config, workdir, say=lambda text: print(text, file=sys.stderr))
    print(readable(result))
    print(f"\nall files: {workdir}")


def default_workdir(config: Config) -> Path:
    name = "_".join(filter(None, (config.data.name, config.data.positive)))
    return Path("runs") / f"{name}-{config.method}-{digest(json.dumps(settings.identity(config)))[:8]}"


def claim(workdir: Path, config: Config) -> None:
    """Write config.json into the workdir; refuse one where a run with other settings has begun."""
    path = workdir / "config.json"
    ours = settings.identity(config)
    try:
        if (workdir / "provenance.json").exists():
            theirs = settings.identity(json.loads(path.read_text()))
            if name := next((name for name in ours if ours[name] != theirs[name]), None):
                raise UserError(
                    f"{workdir} holds a run with config.{name}={theirs[name]!r}, not {ours[name]!r}: "
                    "use another --workdir"
                )
        write_json(path, json.loads(config.to_json()))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error.strerror}") from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: remove it or use another --workdir") from error


def readable(result: dict) -> str:
    """The result of a run as a table for people."""
    test, other = result["test"], result["test_by_aggregation"]
    lines = [
        f"\n{result['dataset']}, {result['method']}, seed {result['seed']}: "
        f"{result['num_classes']} classes, {result['num_pseudo_classes']} pseudo-classes, "
        f"{result['aggregate']} aggregation; test set of {test['n']}",
        "",
        f"  {'class':<16}{'train':>8}{'test':>8}{'AP %':>8}{'95 % interval':>18}{'chance':>9}",
    ]
    for name, ap in test["ap"].items():
        counts = f"{result['train_counts'][name]:>8}{test['counts'][name]:>8}"
        lines.append(f"  {name:<16}{counts}{figures(ap, test['ap_ci'][name], test['chance_ap'][name])}")
    lines.append(f"  {'macro AP':<32}{figures(test['macro_ap'], test['macro_ap_ci'])}")
    lines.append(f"  {'balanced accuracy':<32}{figures(test['ba'], test['ba_ci'], 1 / result['num_classes'])}")
    both = ", ".join(f"{how}: BA {percent(s['ba'])}, macro AP {percent(s['macro_ap'])}" for how, s in other.items())
    timing = result["timing"]
    lines += [
        "",
        f"  by aggregation: {both}",
        f"  validation: BA {percent(result['val']['ba'])}, macro AP {percent(result['val']['macro_ap'])}",
        f"  time: {timing['total_s']:.1f} s in all, {timing['train_s']:.1f} s training, "
        f"{timing['compile_s']:.1f} s compiling",
    ]
    return "\n".join(lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def figures(value: float | None, bounds: list | None, chance: float | None = None) -> str:
    """A value, its interval and its chance level, as columns."""
    spread = "-" if not bounds or bounds[0] is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"
    return f"{percent(value):>8}{spread:>18}" + ("" if chance is None else f"{percent(chance):>9}")


def parse(argv: list[str]) -> list[str]:
    """Parse the command line; every mistake in it becomes a UserError that names the way out."""
    if any(word in ("-h", "--help", "-help", "--helpfull") for word in argv):
        print(__doc__, settings.describe(), sep="\n")
        sys.exit(0)
    config_file = None
    for word in argv[1:]:
        name, _, value = word.partition("=")
        if name.lstrip("-").startswith("config."):
            field = name.lstrip("-").removeprefix("config.")
            if field not in settings.FIELDS:
                raise unknown_field(field)
        elif name.lstrip("-") == "config":
            config_file = value.partition(":")[0]
    if not config_file:
        raise UserError("--config=FILE is missing, e.g. --config=configs/digits.py; --help lists everything")
    if not Path(config_file).is_file():
        raise UserError(f"--config: there is no file {config_file}")
    try:
        rest = flags.FLAGS(argv)
    except UserError:
        raise
    except flags.Error as error:
        raise UserError(str(error).splitlines()[0]) from error
    except Exception as error:  # the file is the user's own program
        raise UserError(f"{config_file} cannot be read: {type(error).__name__}: {error}") from error
    if rest[1:]:
        raise UserError(f"unexpected argument '{rest[1]}'; --help lists what is understood")
    return rest


def unknown_field(field: str) -> UserError:
    """The nearest field is looked for by the whole name and by its last part."""
    leaves = {name.rpartition(".")[2]: name for name in settings.FIELDS}
    near = difflib.get_close_matches(field, list(settings.FIELDS), n=1)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(field.rpartition(".")[2], list(leaves), n=1)]
    guess = f" (did you mean '{near[0]}'?)" if near else ""
    siblings = [n for n in settings.FIELDS if n.partition(".")[0] == field.partition(".")[0]] or settings.FIELDS
    return UserError(f"unknown field 'config.{field}'{guess}; valid: {', '.join(siblings)}")


def refuse(reason: str) -> NoReturn:
    print(f"rgjax: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)


def cli() -> None:
    """Run `main`; exit 2 with one line for what the user can mend, 130 for an interruption."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app.run(main, flags_parser=parse)
    except UserError as error:
        refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("\nrgjax: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    cli()
