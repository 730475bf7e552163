"""Reduces the memory that the process keeps after use: Python's garbage collector and glibc's allocator."""

from __future__ import annotations

import ctypes
import gc
import os

GC_THRESHOLDS = (10_000, 10, 10)
"""The number of new objects before Python's garbage collector checks the youngest, and how often it does so
before it checks older ones. A request creates a hundred: with Python's 700, it ran after every second
request."""

MAX_ARENAS = 2
"""glibc allows a process eight arenas per CPU, in which threads allocate memory, and each keeps freed memory.
With two, a service that received a lot keeps half as much (measured with ``make soak``)."""

_M_ARENA_MAX = -8  # malloc.h


def limit_arenas() -> None:
    """Let all threads share a few of glibc's arenas, unless MALLOC_ARENA_MAX sets their number.

    It must be called before any thread starts: an existing arena stays. Other C libraries have no arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, MAX_ARENAS)


def settle_garbage() -> None:
    """Exclude all existing objects from garbage collection; called when all parts are started."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
