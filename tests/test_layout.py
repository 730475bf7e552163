"""The form of the package: what imports what, how long things are, that each says what it is."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kbatch_server"

LAYERS = [
    ["__main__"],
    ["forgetcommand", "gccommand", "upgradedb"],
    ["app"],
    ["handlers"],
    ["compat"],
    ["operations"],
    ["gauges"],
    ["configurables", "engine"],
    ["leader"],
    ["health", "janitor", "jobs", "reconciler"],
    ["jobwatch"],
    ["retention"],
    ["logfollower"],
    ["harvest", "logreader", "standing", "turns"],
    ["lines"],
    ["departures", "launchpad", "logrecorder", "outputs", "relaunch", "uploads"],
    ["logtext", "logwriter", "diskspace"],
    ["launchers"],
    ["kube"],
    ["storage", "store"],
    ["audit"],
    ["archive", "auth", "commandline", "plugins", "profiles", "settings", "zipstream", "webserver"],
    ["config", "configcheck", "limits", "linecutter", "throttle", "webserver", "zipcontent", "ziprewrite"],
    ["fairshare", "outputfiles"],
    ["quota"],
    ["choices", "guarantees", "jobrequest", "logsearch", "podconfig", "zipdirectory"],
    ["garbage", "listing", "looplag", "timeline", "traffic", "ziptree", "logmemory", "login", "connector"],
    [
        "connections",
        "forwarded",
        "keyring",
        "log",
        "models",
        "places",
        "quantities",
        "rates",
        "slugs",
        "summary",
        "tarindex",
        "terminal",
        "ticks",
        "validation",
        "workqueue",
        "zipnames",
    ],
    ["errors", "failpoints", "metrics", "notebooks", "results", "private", "scrub"],
    ["__init__"],
]
"""Each imports from those below it only, and never from its own row."""

PURE = {
    "errors",
    "models",
    "validation",
    "jobrequest",
    "quantities",
    "quota",
    "fairshare",
    "slugs",
    "summary",
    "terminal",
    "choices",
    "config",
    "guarantees",
    "podconfig",
    "compat.flat",
    "compat.kbatch",
    "compat.manifests",
    "audit",
    "handlers.openapi",
    "handlers.schemas",
    "linecutter",
    "logsearch",
    "notebooks.launch",
    "notebooks.request",
    "outputfiles",
    "results",
    "tarindex",
    "timeline",
    "kube.events",
    "kube.fetch",
    "kube.home",
    "kube.kueue",
    "kube.gates",
    "kube.notebook",
    "kube.logplace",
    "kube.objects",
    "kube.pods",
    "kube.podtimes",
    "kube.resources",
    "kube.sentences",
    "kube.sidecar",
    "kube.status",
    "listing",
    "zipdirectory",
    "zipnames",
    "ziptree",
    "kube.volumes",
}
"""Values in, values out: no files, no network, no clock to wait for."""

IO = {
    "aiohttp", "aiosqlite", "alembic", "asyncio", "azure", "concurrent", "httpx", "kubernetes", "os",
    "pathlib", "psycopg", "shutil", "signal", "socket", "sqlalchemy", "sqlite3", "subprocess", "tempfile",
    "threading", "tornado",
}  # fmt: skip

MAX_FUNCTION_LINES = 60


def find_modules() -> dict[str, Path]:
    """Return every module but the migrations, by its name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if "migrations" not in parts:
            found[".".join(parts)] = path
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
    """Yield what a module imports: ``.kube.status`` for our own, the plain name for others, and the line."""
    package = name.split(".")[:-1]
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
                full = ".".join([*base, alias.name])
                yield "." + (full if full in MODULES else ".".join(base) or "__init__"), node.lineno


def layer_of(name: str) -> int:
    top = name.split(".")[0]
    found = [number for number, names in enumerate(LAYERS) if top in names]
    assert found, f"{name} is in no layer: add it to LAYERS, where it belongs"
    return found[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards_only(name):
    top = name.split(".")[0]
    for target, line in find_imports(name):
        assert not target.startswith("kbatch_server"), f"{name}:{line} import within the package with a dot"
        if target.startswith(".") and target[1:].split(".")[0] != top:
            assert layer_of(name) < layer_of(target[1:]), f"{name}:{line} imports {target[1:]} from above"


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_do_no_io(name):
    for target, line in find_imports(name):
        if target.startswith("."):
            own = target[1:]
            assert own in PURE or own == "__init__", f"{name}:{line} imports {own}, which is not pure"
        else:
            assert target.split(".")[0] not in IO, f"{name}:{line} imports {target}"


def test_nothing_of_sql_is_outside_the_store():
    for name in MODULES:
        libraries = {target.split(".")[0] for target, _ in find_imports(name)}
        assert name.startswith("store.") or not libraries & {"sqlalchemy", "alembic", "psycopg"}, name


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


def test_the_layers_are_those_of_the_design():
    design = (PACKAGE.parent / "docs" / "design.md").read_text()
    said = [
        {word.strip().strip("`/") for word in row.split("|")[2].split(",")}
        for row in design.partition("| layer | modules |")[2].splitlines()[2:]
        if row.startswith("|")
    ]
    assert said[-1] >= set(LAYERS[-2])
    ranks = {name: number for number, names in enumerate(said) for name in names}
    ours = [name for names in LAYERS for name in names if not name.startswith("__")]
    assert set(ranks) == set(ours)
    assert [ranks[name] for name in ours] == sorted(ranks[name] for name in ours)
