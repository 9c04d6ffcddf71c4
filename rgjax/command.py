"""What the commands that take a config share: the config on the command line, and how they end."""

import difflib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from rgjax import config as settings
from rgjax.console import configure_logging, exit_codes, listen_for_sigterm
from rgjax.errors import UserError, first_line

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py, optionally with :METHOD")


def parse(argv: list[str], doc: str) -> list[str]:
    """Parse the command line of the command that `doc` describes; every mistake in it becomes a UserError that names
    the way out."""
    if any(word in ("-h", "--help", "-help", "--helpfull") for word in argv):
        print(doc, describe(), sep="\n")
        sys.exit(0)
    config_file = None
    argv = [argv[0], *map(with_underscores, argv[1:])]
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
        raise UserError(first_line(error)) from error
    except Exception as error:  # the file is the user's own program
        raise UserError(f"{config_file} cannot be read: {type(error).__name__}: {error}") from error
    if rest[1:]:
        raise UserError(f"unexpected argument '{rest[1]}'; --help lists what is understood")
    return rest


def with_underscores(word: str) -> str:
    """A flag as absl knows it: `--dry-run` is `--dry_run`."""
    name, sign, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{sign}{value}" if name.startswith("--") else word


def unknown_field(field: str) -> UserError:
    """The nearest field is looked for by the whole name and by its last part."""
    leaves = {name.rpartition(".")[2]: name for name in settings.FIELDS}
    near = difflib.get_close_matches(field, list(settings.FIELDS), n=1)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(field.rpartition(".")[2], list(leaves), n=1)]
    guess = f" (did you mean '{near[0]}'?)" if near else ""
    siblings = [n for n in settings.FIELDS if n.partition(".")[0] == field.partition(".")[0]] or settings.FIELDS
    return UserError(f"unknown field 'config.{field}'{guess}; valid: {', '.join(siblings)}")


def run(main: Callable[[list[str]], None], doc: str, *, interrupted: str) -> None:
    """Run `main` as the command that `doc` describes; exit 2 with one line for what the user can mend, 130 for an
    interruption, 143 for SIGTERM."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    configure_logging()
    listen_for_sigterm()
    with exit_codes(interrupted=interrupted):
        app.run(main, flags_parser=partial(parse, doc=doc))


def describe() -> str:
    """All methods and settings, for `--help`."""
    lines = [
        "Methods: " + " ".join(settings.METHODS),
        "",
        "Settings (--config.NAME=VALUE; a config file changes some defaults):",
        "",
    ]
    for name, field in settings.FIELDS.items():
        default = "unset" if field.default is None else repr(field.default)
        choices = f" [{', '.join(field.choices)}]" if field.choices is not None else ""
        lines.append(f"  {name:<26} {default:<12} {field.help}{choices}")
    return "\n".join(lines)
