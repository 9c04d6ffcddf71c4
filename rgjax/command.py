"""The command line of all seven commands: help, options, errors and exit codes.

Commands with a config (main, sweep, preflight, encoders) take absl flags and ml_collections' `--config.NAME=VALUE`,
through `run_with_config`. The others (report, predict, data.inspect) use `Parser`. In both, `--help` prints the
command's docstring, hyphens and underscores are equal, `--no-NAME` negates a switch, and a
mistake is a UserError of one line.
"""

import argparse
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from rgjax import config as settings
from rgjax.console import configure_logging, exit_codes, table
from rgjax.errors import UserError, did_you_mean, first_line, nearest

_log = logging.getLogger(__name__)

_words: list[str] = []  # the command line that ml_collections searches for fields of the config
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py, optionally with :METHOD", sys_argv=_words)

_HELP = ("-h", "--help", "-help", "--helpfull")
_SEE_HELP = "--help lists all options"
_BOOLEANS = ("true", "false", "1", "0", "t", "f")  # absl's


class Parser(argparse.ArgumentParser):
    """The parser of a command without a config; its docstring `doc` is the help."""

    def __init__(self, doc: str | None):
        super().__init__(add_help=False, allow_abbrev=False)
        self.doc = doc

    def switch(self, name: str) -> None:
        """Add an option `--NAME`, off by default, that `--no-NAME` negates."""
        self.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the command's name. Raises UserError for a mistake."""
        print_help_if_asked(argv, self.doc)
        options, rest = self.parse_known_intermixed_args([_with(word, "-") for word in argv])
        if rest and rest[0].startswith("-"):
            raise _unknown_option(rest[0], self._option_string_actions)
        if rest:
            raise _surplus(rest[0])
        return options

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; {_SEE_HELP}")


def run(main: Callable[[list[str]], int | None], *, interrupted: str = "") -> None:
    """Run `main` as a command: on the words after its name, exiting with its code.

    Exits with 2 and one line for a user's error, 130 after an interruption, 143 after SIGTERM.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    configure_logging()
    with exit_codes(interrupted=interrupted):
        sys.exit(main(sys.argv[1:]))


def run_with_config(main: Callable[[list[str]], None], doc: str | None, *, interrupted: str = "") -> None:
    """Run `main` as the command with a config that `doc` describes, as `run` does."""
    run(lambda _: app.run(main, flags_parser=partial(parse, doc=doc)), interrupted=interrupted)


def parse(argv: list[str], doc: str | None = None) -> list[str]:
    """Parse the flags of a command with a config; return the command's name.

    Raises UserError for a mistake.
    """
    print_help_if_asked(argv, doc, describe)
    words = _joined([_negated(_with(word, "_")) for word in argv[1:]])
    config_file, method = _config_file(words)
    for word in words:
        _require_valid(word)
    options = [word for word in words if not _is_config(word)]
    # ml_collections reads the fields that the command line sets from a list of its own.
    _words[:] = [argv[0], f"--config={config_file}{method}", *options]
    try:
        rest = flags.FLAGS(_words)
    except UserError:
        raise
    except flags.UnrecognizedFlagError as error:
        raise _unknown_option(f"--{error.flagname}", _options()) from error
    except flags.Error as error:
        raise UserError(first_line(error).removeprefix("flag ")) from error
    except Exception as error:  # the file is the user's own program
        raise UserError(f"--config={config_file}: cannot be read: {type(error).__name__}: {error}") from error
    if rest[1:]:
        raise _surplus(rest[1])
    return rest


def read_config() -> settings.Config:
    """The config of the command line, validated. Raises UserError."""
    flag: Any = flags.FLAGS["config"]
    config, fields = CONFIG.value, dict(config_flags.get_override_values(flag))
    if fields.get("model.name") in (*settings.FROZEN, "pretrained"):
        file, _, method = config_flags.get_config_filename(flag).partition(":")
        network = load_file(file).get_config(*filter(None, [method])).model.name
        if changes := settings.prepare_training(config, network, fields):
            defaults = {name: setting.default for name, setting in settings.FIELDS.items()}
            chosen = ", ".join(f"{name}={value}" for name, value in changes.items() if value != defaults[name])
            _log.info(f"config.model.name={config.model.name}: is trained by its settings, not the file's: {chosen}")
    settings.validate(config)
    return config


def print_help_if_asked(argv: Sequence[str], doc: str | None, more: Callable[[], str] | None = None) -> None:
    """Print the help and exit if the command line asks for it."""
    if any(word in _HELP for word in argv):
        print((doc or "").strip(), *([more()] if more else []), sep="\n\n")
        sys.exit(0)


def describe() -> str:
    """All methods and settings, for `--help`."""
    rows = []
    for name, field in settings.FIELDS.items():
        default = "unset" if field.default is None else repr(field.default)
        choices = f" [{', '.join(field.choices)}]" if field.choices is not None else ""
        rows.append((name, default, field.help + choices))
    return "\n".join(
        [
            "Methods: " + " ".join(settings.METHODS),
            "",
            "Settings (--config.NAME=VALUE; a config file changes some defaults):",
            "",
            table(rows, "<<<"),
        ]
    )


def _joined(words: Sequence[str]) -> list[str]:
    """Each option of the config as one word: `--config FILE` as `--config=FILE`."""
    joined, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        field = settings.FIELDS.get(word.removeprefix("--config."))
        following = rest[0] if rest and not rest[0].startswith("--") else None
        if word == "--config" or field:
            if field and field.kind is bool:
                following = following if (following or "").lower() in _BOOLEANS else "true"
            if following is None:
                raise UserError(f"{word}: a value is missing; write {word}={'FILE' if not field else 'VALUE'}")
            if rest and following == rest[0]:
                rest.pop(0)
            word = f"{word}={following}"
        joined.append(word)
    return joined


def _is_config(word: str) -> bool:
    return word.startswith("--config=")


def _config_file(words: Sequence[str]) -> tuple[str, str]:
    """The path of the config file, and ":METHOD" or "".

    Raises UserError if there is no such file.
    """
    name, colon, method = next((word.partition("=")[2] for word in words if _is_config(word)), "").partition(":")
    if not name:
        raise UserError(f"--config=FILE is missing, e.g. --config=configs/digits.py; {_SEE_HELP}")
    return find_config_file(name), colon + method


def find_config_file(name: str) -> str:
    """Find a config file: at the path `name`, or else in rgjax's own `configs/`.

    So `configs/digits.py` and `digits.py` work in any folder. Raises UserError if there is neither.
    """
    if Path(name).is_file():
        return name
    root = Path(__file__).parent
    # A wheel has them inside of the package, a checkout beside it.
    ours = next((folder for folder in (root / "configs", root.parent / "configs") if folder.is_dir()), root)
    if Path(name).parent in (Path(), Path("configs")) and (ours / Path(name).name).is_file():
        return str(ours / Path(name).name)
    names = sorted(path.name for path in ours.glob("*.py"))
    near = did_you_mean(nearest(Path(name).name, names))
    raise UserError(f"--config={name}: no such file{near}; give a path, or one of {', '.join(names)}")


class _SourceLoader(SourceFileLoader):
    """Reads no bytecode, which may be that of a file of the same second and size."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_file(path: str) -> Any:
    """Load a config file as a module. Raises UserError if it is not valid."""
    loader = _SourceLoader(Path(path).stem, path)
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    if spec is None or spec.loader is None or Path(path).suffix != ".py" or not Path(path).is_file():
        raise UserError(f"--config={path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's own program
        raise UserError(f"--config={path}: cannot be read: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={path}: it has no get_config(method)")
    return module


def _with(word: str, separator: str) -> str:
    """Spell an option with "-" or "_" between words; return other words unchanged."""
    word = re.sub(r"^-(?=config\b)", "--", word)  # absl takes a single hyphen too
    name, sign, value = word.partition("=")
    return f"--{name[2:].replace('-', separator).replace('_', separator)}{sign}{value}" if name[:2] == "--" else word


def _negated(word: str) -> str:
    """Turn `--no_NAME` into absl's `--noNAME` if NAME is a switch or config field."""
    name = word.removeprefix("--no_")
    known = name in flags.FLAGS and flags.FLAGS[name].boolean
    return f"--no{name}" if name != word and (known or name.startswith("config.")) else word


def _require_valid(word: str) -> None:
    """Raise UserError if the word sets an unknown field, or one to a wrong type."""
    name, _, value = word.partition("=")
    _, is_field, field = name.lstrip("-").removeprefix("no").rpartition("config.")
    if not is_field:
        return
    if field in settings.FIELDS:
        _require_type(field, value, settings.FIELDS[field])
        return
    leaves = {name.rpartition(".")[2]: name for name in settings.FIELDS}
    near = nearest(field, settings.FIELDS) or leaves.get(nearest(field.rpartition(".")[2], leaves), "")
    siblings = [n for n in settings.FIELDS if n.partition(".")[0] == field.partition(".")[0]] or settings.FIELDS
    raise UserError(f"unknown field 'config.{field}'{did_you_mean(near)}; valid: {', '.join(siblings)}")


def _require_type(field: str, value: str, setting: settings.Field) -> None:
    kind = setting.kind
    if setting.automatic and value == settings.AUTO:
        return
    if kind is bool and value.lower() not in ("", *_BOOLEANS):
        raise UserError(f"config.{field}={value}: must be true or false")
    if kind in (int, float):
        try:
            kind(value)
        except ValueError as error:
            what = ("a whole number" if kind is int else "a number") + (", or auto" if setting.automatic else "")
            raise UserError(f"config.{field}={value}: must be {what}") from error


def _options() -> list[str]:
    """The options of the commands that are loaded, without those of absl itself."""
    modules = flags.FLAGS.flags_by_module_dict()
    ours: list[Any] = [flag for module, defined in modules.items() if not module.startswith("absl") for flag in defined]
    return [f"--{flag.name.replace('_', '-')}" for flag in ours]


def _unknown_option(word: str, known: Any) -> UserError:
    name = _with(word.partition("=")[0], "-")
    return UserError(f"unknown option '{word}'{did_you_mean(nearest(name, known))}; {_SEE_HELP}")


def _surplus(word: str) -> UserError:
    return UserError(f"unexpected argument '{word}'; {_SEE_HELP}")
