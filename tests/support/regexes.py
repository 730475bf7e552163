"""Finds the regular expressions of the package, and the texts that each of them is slowest with."""

from __future__ import annotations

import ast
import gc
import itertools
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
SEARCHES = FUNCTIONS - {"compile", "match", "fullmatch"}
"""Those that try each place of the text as a beginning."""

ADMINS = "profiles/patterns.py"
"""The module for expressions of the admin's, which may be slow: each use of them has a time limit."""

HANG_SECONDS = 30


@dataclass(frozen=True)
class Regex:
    """An expression, how it is used, and where."""

    where: str
    pattern: str | bytes
    flags: int
    ways: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {self.pattern!r}"

    def run(self, text: str) -> None:
        """Use it on a text, in each way in which the package does."""
        compiled = re.compile(self.pattern, self.flags)
        given: Any = text.encode() if isinstance(self.pattern, bytes) else text
        for way in self.ways:
            if way in {"match", "fullmatch"}:
                getattr(compiled, way)(given)
            else:
                for _ in compiled.finditer(given):
                    pass


def find_regexes(package: Path) -> list[Regex]:
    """Return every expression of a package that is written in a call of ``re``, or as a ``pattern`` argument.

    Raises AssertionError for one that is not written out there, or where ``re`` has another name.
    """
    found = []
    trees = {path: _parse(path) for path in sorted(package.rglob("*.py"))}
    for path, tree in trees.items():
        if path.relative_to(package).as_posix() == ADMINS:
            continue
        name = path.relative_to(package).as_posix()
        named = {
            id(node.value): target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom):
                assert node.module not in {"re", "regex"}, f"{where}: import re, and call re.compile"
            if isinstance(node, ast.Import):
                bad = [
                    each.name
                    for each in node.names
                    if (each.name == "re" and each.asname) or each.name == "regex"
                ]
                assert not bad, f"{where}: import re, and call re.compile"
            if isinstance(node, ast.Call):
                found += _read_call(node, where, named.get(id(node)), trees.values())
    return found


def _parse(path: Path) -> ast.Module:
    # Python 3.11.7 may fail here when the collector runs meanwhile: https://github.com/python/cpython/issues/106905
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def _read_call(node: ast.Call, where: str, name: str | None, trees: Iterable[ast.Module]) -> Iterator[Regex]:
    function = node.func
    for keyword in node.keywords:
        if keyword.arg == "pattern" and isinstance(keyword.value, ast.Constant):
            yield Regex(where, keyword.value.value, 0, ("search",))
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return
    if function.value.id != "re" or function.attr not in FUNCTIONS:
        return
    pattern = node.args[0]
    assert isinstance(pattern, ast.Constant), f"{where}: write the expression out, so that it can be tried"
    flags = re.NOFLAG
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "re":
            flags |= getattr(re, each.attr) if each.attr.isupper() else re.NOFLAG
    if function.attr != "compile":
        yield Regex(where, pattern.value, flags, (function.attr,))
        return
    yield Regex(where, pattern.value, flags, tuple(_find_ways(name, trees)) or ("search",))


def _find_ways(name: str | None, trees: Iterable[ast.Module]) -> Iterator[str]:
    """Yield the methods that are called of an expression with a name."""
    for tree in trees:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in FUNCTIONS
                and isinstance(node.value, ast.Name)
                and node.value.id == name
            ):
                yield node.attr


# What an expression is slow with


def make_attacks(pattern: str | bytes) -> list[tuple[str, str, str]]:
    """Return beginnings, parts to repeat, and ends: texts that may have an expression try again and again."""
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    tree = re._parser.parse(text)  # type: ignore[attr-defined]  # there is no other way to it
    samples = sorted(set(_list_samples(tree)), key=lambda each: (len(each), each))
    chars = sorted({char for sample in samples for char in sample} | set("a0 \n/"))
    pairs = ["".join(pair) for pair in itertools.permutations(chars[:5], 2)]
    pumps = list(dict.fromkeys([*chars, *filter(None, samples), *pairs]))
    begins = list(dict.fromkeys(["", *_list_beginnings(tree)]))[:6]
    return list(itertools.product(begins, pumps, ["", "\x00", "\n\x00"]))


def _list_samples(tree: Any) -> Iterator[str]:
    """Yield a text for each part of an expression that matches it."""
    for operator, value in tree:
        yield _make_sample([(operator, value)])
        for child in _list_children(operator, value):
            yield _make_sample(child)
            yield from _list_samples(child)


def _list_beginnings(tree: Any) -> Iterator[str]:
    nodes = list(tree)
    for count in range(1, len(nodes)):
        yield _make_sample(nodes[:count])


def _list_children(operator: Any, value: Any) -> list[Any]:
    kind = str(operator)
    if kind == "BRANCH":
        return list(value[1])
    if kind in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
        return [value[2]]
    if kind == "SUBPATTERN":
        return [value[3]]
    if kind in {"ASSERT", "ASSERT_NOT"}:
        return [value[1]]
    return [value] if kind == "ATOMIC_GROUP" else []


_CATEGORIES = {"DIGIT": "0", "WORD": "a", "SPACE": " ", "NOT_DIGIT": "a", "NOT_WORD": "-", "NOT_SPACE": "a"}


def _make_sample(nodes: Any) -> str:
    return "".join(_make_one(str(operator), operator, value) for operator, value in nodes)


def _make_one(kind: str, operator: Any, value: Any) -> str:
    if kind == "LITERAL":
        return chr(value)
    if kind == "NOT_LITERAL":
        return "a" if value != ord("a") else "b"
    if kind == "ANY":
        return "a"
    if kind == "IN":
        return _choose(value)
    if kind.endswith("REPEAT"):
        return _make_sample(value[2]) * max(1, value[0])
    if kind in {"SUBPATTERN", "ATOMIC_GROUP", "BRANCH"}:
        return _make_sample(_list_children(operator, value)[0])
    return ""  # AT, ASSERT, ASSERT_NOT, GROUPREF


def _choose(members: Any) -> str:
    """Return a character of a class."""
    tried = [chr(number) for number in (*range(97, 123), *range(48, 58), *range(32, 127))]
    inside = re.compile(f"[{_write_class(members)}]")
    return next((char for char in tried if inside.match(char)), "\u00e9")


def _write_class(members: Any) -> str:
    parts = []
    for operator, value in members:
        kind = str(operator)
        if kind == "NEGATE":
            parts.append("^")
        elif kind == "LITERAL":
            parts.append(re.escape(chr(value)))
        elif kind == "RANGE":
            parts.append(f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}")
        else:
            letter = {"DIGIT": "d", "WORD": "w", "SPACE": "s"}[
                str(value).removeprefix("CATEGORY_").removeprefix("NOT_")
            ]
            parts.append("\\" + (letter.upper() if "NOT_" in str(value) else letter))
    return "".join(parts)


# How long something takes


@contextmanager
def no_hang(what: str) -> Iterator[None]:
    """Raise AssertionError where something takes so long that it would never end."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"{what} does not end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(run: Callable[[str], object], text: str, times: int = 1) -> float:
    """Return the seconds of this thread that a call takes, the least of some."""

    def once() -> float:
        began = time.thread_time()
        run(text)
        return time.thread_time() - began

    return min(once() for _ in range(times))


def grow(run: Callable[[str], object], make: Callable[[int], str], size: int) -> float:
    """Return how many times as long something takes with a text four times as long as one of some size.

    4 is in proportion to the length, 16 to its square. What is over in no time is 4.
    """
    if measure(run, make(4 * size)) < 0.001:
        return 4
    ratio = 99.0
    for _ in range(4):  # whatever else the machine does makes it longer now and then, never shorter
        short, long = measure(run, make(size), 5), measure(run, make(4 * size), 3)
        ratio = min(ratio, long / max(short, 1e-7))
        if ratio < 8:
            break
    return ratio
