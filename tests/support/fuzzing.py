"""Archives that were damaged on purpose, and limits on the steps and the memory that reading may take.

Steps are counted, not seconds: a machine that is busy does not fail a test, and a loop without an end does.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import kbatch_server

PACKAGE = str(Path(kbatch_server.__file__).parent)

fuzzed = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""As many examples as take a few seconds; the same ones in each run."""


class TooManySteps(BaseException):
    """What was read took more steps than allowed; no ``except Exception`` of the reader catches it."""


@contextmanager
def at_most_steps(limit: int, *, also: tuple[str, ...] = ()) -> Iterator[Callable[[], int]]:
    """Raise TooManySteps when more than ``limit`` lines of the package run, or of the modules in ``also``.

    Yields a function that returns how many lines have run.
    """
    files = tuple(str(sys.modules[name].__file__) for name in also)
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) and name not in files:
            return None
        if event == "line":
            count += 1
            if count > limit:
                raise TooManySteps(f"more than {limit} steps, in {name}:{frame.f_lineno}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """See that no more than so many bytes are held at any moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / 2**20:.1f} MiB"


Change = tuple[str, int, bytes]

_PIECES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([bytes(4), b"\xff" * 4, b"\xff" * 8, b"0" * 8, b"7" * 11, b"-1", b"/", b"..", b"\\"]),
)


def changes(*, most: int = 6) -> st.SearchStrategy[list[Change]]:
    """Return lists of changes: a kind, a place, and bytes."""
    kinds = st.sampled_from(["set", "set", "set", "insert", "delete", "repeat", "cut"])
    return st.lists(st.tuples(kinds, st.integers(0, 2**16), _PIECES), min_size=1, max_size=most)


def damage(data: bytes, made: list[Change]) -> bytes:
    """Return an archive with the changes made to it."""
    result = bytearray(data)
    for kind, place, piece in made:
        at = place % (len(result) + 1)
        if kind == "set":
            result[at : at + len(piece)] = piece
        elif kind == "insert":
            result[at:at] = piece
        elif kind == "delete":
            del result[at : at + len(piece)]
        elif kind == "repeat":
            result[at:at] = result[at : at + 64 * len(piece)]
        else:
            del result[at:]
    return bytes(result)
