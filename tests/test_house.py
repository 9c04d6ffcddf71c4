"""The floors of the house and the limits of its rooms, read from the source."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in ROOT.glob("rgjax/**/*.py")}

# A room imports rooms of the floors below its own alone.
FLOORS = [
    {"edges", "errors"},
    {"console", "losses", "metrics", "regroup"},
    {"config", "decision", "sharding", "storage"},
    {"command"},
    {"data", "models"},
    {"encoders", "sampling"},
    {"report", "training"},
    {"artifacts", "predict", "preflight"},
    {"experiment"},
    {"main", "sweep"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

LONGEST_FUNCTION, LONGEST_FILE, MOST_PARAMETERS, MOST_ROOT_MODULES = 60, 400, 7, 10
BANNED_NAMES = {"found", "lost", "others", "own", "told", "wanted"}


def room_of(name: str) -> str:
    """The room of a file rgjax/ROOM/... or of a module rgjax.ROOM...."""
    return name.replace("/", ".").removesuffix(".py").split(".")[1]


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file) for file in FILES}


def imports(tree: ast.Module) -> Iterator[str]:
    """The modules of rgjax that a file imports anywhere, except for type checkers."""
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in typing for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES - {"rgjax"})
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in MODULES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES
            if not names <= MODULES:
                yield node.module


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The variables, parameters and attributes that a file binds, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno


def test_every_room_has_a_floor():
    assert {room_of(file) for file in FILES if file != "rgjax/__init__.py"} == set(FLOOR)


def test_imports_go_down():
    upward = [
        f"{file} imports {module}"
        for file, tree in FILES.items()
        for module in imports(tree)
        if file != "rgjax/__init__.py"
        and room_of(module) != room_of(file)
        and FLOOR[room_of(module)] >= FLOOR[room_of(file)]
    ]
    assert upward == []


def test_no_circle_of_imports():
    graph = {module_of(file): set(imports(tree)) - {module_of(file)} for file, tree in FILES.items()}
    TopologicalSorter(graph).prepare()


def test_first_docstring_lines_are_short():
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [
        (file, ast.get_docstring(node) or "")
        for file, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, documented)
    ]
    firsts = [(file, docstring.partition("\n")[0]) for file, docstring in docstrings]
    assert [f"{file}: {first}" for file, first in firsts if len(first) > 80] == []


def test_packages_only_reexport():
    """A docstring and imports; a package that imports on first use has `__getattr__` and its table besides."""
    for file, tree in FILES.items():
        if not file.endswith("__init__.py"):
            continue
        lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
        for node in tree.body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            table = lazy and isinstance(node, ast.FunctionDef | ast.Assign)
            assert docstring or typing or table or isinstance(node, ast.Import | ast.ImportFrom), (
                f"{file}:{node.lineno}"
            )


def test_few_modules_at_the_root():
    assert len([file for file in FILES if file.count("/") == 1 and file != "rgjax/__init__.py"]) <= MOST_ROOT_MODULES


def offenders(file: str, tree: ast.Module) -> Iterator[str]:
    if (lines := len((ROOT / file).read_text().splitlines())) > LONGEST_FILE:
        yield f"{file}: {lines} lines"
    for function in functions(tree):
        place = f"{file}:{function.lineno} {function.name}"
        if (length := (function.end_lineno or 0) - function.lineno + 1) > LONGEST_FUNCTION:
            yield f"{place}: {length} lines"
        estimator = function.name == "__init__" and "BaseEstimator" in (ROOT / file).read_text()
        if (count := len(parameters(function))) > MOST_PARAMETERS and not estimator:  # scikit-learn reads its settings
            yield f"{place}: {count} parameters"
    yield from (f"{file}:{line} name {name}" for name, line in names(tree) if name in BANNED_NAMES)


def test_sizes_and_names():
    assert [offender for file, tree in FILES.items() for offender in offenders(file, tree)] == []
