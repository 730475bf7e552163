"""The form of the package: what imports what, how long things are, that each says what it is."""

from __future__ import annotations

import ast
import gc
import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "kbatch_server"

DESIGN = PACKAGE.parent / "docs" / "design.md"


def read_layers() -> list[list[str]]:
    """Return each layer's folders, and modules beside them: the table in docs/design.md is the rule."""
    rows = DESIGN.read_text().partition("| layer | what is in it |\n")[2].splitlines()[1:]
    layers = []
    for row in rows:
        if not row.startswith("|"):
            break
        layers.append([name.rstrip("/") for name in re.findall(r"`([^`]+)`", row.split("|")[1])])
    return layers


LAYERS = read_layers()
"""Each imports from those below it only, and never from its own row. A folder's modules import each other."""

MAX_MODULES = 20
"""How many modules a folder may have: beyond that nobody sees at a glance what is in it."""

PURE = {
    "audit",
    "errors",
    "handlers/compat/answers",
    "handlers/compat/first_client",
    "handlers/compat/requests",
    "handlers/openapi",
    "profiles/config",
    "profiles/environment",
    "profiles/homeconfig",
    "profiles/podconfig",
    "profiles/podparts",
    "profiles/spawner",
    "jobs/timeline",
    "launchers/kube/logcursor",
    "launchers/kube/manifests/",
    "launchers/kube/shapes",
    "launchers/kube/status/",
    "limits/fairshare",
    "limits/rules",
    "logs/lines",
    "logs/terminal",
    "models/",
    "notebooks/launch",
    "notebooks/request",
    "outputs/selection",
    "outputs/tarindex",
    "quantities",
    "hub/claims",
    "hub/pods",
    "slugs",
    "templates",
    "uploads/zipdirectory",
    "uploads/zipnames",
    "uploads/ziptree",
    "validation",
}
"""Values in, values out: no files, no network, no clock to wait for. A folder is all that it has."""

IO = {
    "aiohttp", "aiosqlite", "alembic", "asyncio", "azure", "concurrent", "httpx", "kubernetes", "os",
    "pathlib", "psycopg", "shutil", "signal", "socket", "sqlalchemy", "sqlite3", "subprocess", "tempfile",
    "threading", "tornado",
}  # fmt: skip

MAX_FUNCTION_LINES = 60


def find_modules() -> dict[str, Path]:
    """Return every module but the migrations, by its path below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if "migrations" not in parts:
            found["/".join(parts)] = path
    return found


MODULES = find_modules()


def parse(name: str) -> ast.Module:
    # Python 3.11.7 may fail here when the collector runs meanwhile: https://github.com/python/cpython/issues/106905
    gc.disable()
    try:
        return ast.parse(MODULES[name].read_text())
    finally:
        gc.enable()


def find_imports(name: str) -> Iterator[tuple[str, int]]:
    """Yield what a module imports: ``./engine/leader`` for our own, the plain name for others; the line."""
    package = name.split("/")[:-1]
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)] + (
                node.module.split(".") if node.module else []
            )
            for alias in node.names:
                tries = ["/".join([*base, alias.name]), "/".join(base), "/".join([*base, "__init__"])]
                yield "./" + next(each for each in tries if each in MODULES), node.lineno


def own_imports(name: str) -> Iterator[tuple[str, int]]:
    yield from ((target[2:], line) for target, line in find_imports(name) if target.startswith("./"))


def room_of(name: str) -> str:
    """Return the folder of a module, or the module itself where the table names it."""
    if any(name in names for names in LAYERS):
        return name
    return name.rpartition("/")[0] or name


def layer_of(name: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if room_of(name) in names]
    assert found, f"{name} is in no layer: add its folder to the table in docs/design.md, where it belongs"
    return found[0]


def is_pure(name: str) -> bool:
    return name in PURE or f"{name.rpartition('/')[0]}/" in PURE


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards_only(name):
    for target, line in find_imports(name):
        assert not target.startswith("kbatch_server"), f"{name}:{line} import within the package with a dot"
    for target, line in own_imports(name):
        if room_of(target) != room_of(name):
            assert layer_of(name) < layer_of(target), f"{name}:{line} imports {target} from above"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {target for target, _ in own_imports(name)} for name in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_each_folder_has_few_modules():
    folders = Counter(name.rpartition("/")[0] for name in MODULES if not name.endswith("__init__"))
    assert not {folder: count for folder, count in folders.items() if count > MAX_MODULES}


def test_the_layers_name_what_is_there():
    named = [name for names in LAYERS for name in names]
    assert sorted(named) == sorted(set(named))
    assert set(named) == {room_of(name) for name in MODULES}


@pytest.mark.parametrize("name", [name for name in MODULES if is_pure(name)])
def test_pure_modules_do_no_io(name):
    for target, line in find_imports(name):
        if target.startswith("./"):
            own = target[2:]
            assert is_pure(own) or own == "__init__", f"{name}:{line} imports {own}, which is not pure"
        else:
            assert target.split(".")[0] not in IO, f"{name}:{line} imports {target}"


def test_what_is_pure_is_there():
    folders = {f"{name.rpartition('/')[0]}/" for name in MODULES}
    assert MODULES.keys() | folders >= PURE


def test_nothing_of_sql_is_outside_the_store():
    for name in MODULES:
        libraries = {target.split(".")[0] for target, _ in find_imports(name)}
        assert name.startswith("store/") or not libraries & {"sqlalchemy", "alembic", "psycopg"}, name


@pytest.mark.parametrize("name", MODULES)
def test_each_module_says_what_it_is(name):
    assert ast.get_docstring(parse(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short(name):
    for node in ast.walk(parse(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{name}.{node.name} has {lines} lines"


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_has_a_docstring(name):
    lacking = [
        found
        for found, node in find_public(parse(name))
        # the tree of errors is drawn, with each of them, at the module's beginning
        if not ast.get_docstring(node) and not (name == "errors" and isinstance(node, ast.ClassDef))
    ]
    assert not lacking, f"{name}: {', '.join(lacking)}"


def find_public(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield the public classes, functions and methods, without those in a function or a private class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if child.name.startswith("_"):
                continue
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from find_public(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try)):
            yield from find_public(child, prefix)
