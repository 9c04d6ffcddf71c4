"""Input is never executed: what ruff's rules (pyproject.toml) cannot express about the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("rgjax", "configs", "launch") for path in (ROOT / name).rglob("*.py"))
BUILTINS = {"eval", "exec", "compile", "__import__"}  # by any name; ruff sees calls alone
METHODS = {"extract", "extractall", "read_pickle"}  # of any object
# Reads two published files, held to their SHA-256, in which it resolves four names (tests/models/test_torch_file.py).
EXCEPTION = ROOT / "rgjax/models/torch_file.py"
FALSE = {"shell", "allow_pickle", "trust_remote_code"}  # arguments that are False or not passed


def offences(source):
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) if name in BUILTINS:
                yield f"{node.lineno}: {name}"
            case ast.Attribute(attr=name) if name in METHODS:
                yield f"{node.lineno}: .{name}"
            case ast.Import(names=names) if any(alias.name == "pickle" for alias in names):
                yield f"{node.lineno}: pickle"
            case ast.keyword(arg=name, value=value) if name in FALSE and getattr(value, "value", None) is not False:
                yield f"{value.lineno}: {name} is not False"


def test_no_source_executes_its_input():
    assert len(SOURCES) > 50
    offending = {path: list(offences(path.read_text())) for path in SOURCES if any(offences(path.read_text()))}
    assert list(offending) == [EXCEPTION]
    assert [line.partition(" ")[2] for line in offending[EXCEPTION]] == ["pickle"]


@pytest.mark.parametrize(
    "source",
    ["run = eval", "compile('1', '', 'eval')", "subprocess.run('ls', shell=flag)", "np.load('a', allow_pickle=True)",
     "AutoModel.from_pretrained(name, trust_remote_code=x)", "archive.extract('a', path)", "archive.extractall()",
     "import json, pickle as p"],
)  # fmt: skip
def test_each_offence_is_found(source):
    assert list(offences(source))
