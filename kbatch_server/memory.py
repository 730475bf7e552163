"""What the process keeps of the memory that it once had: Python's garbage collector and glibc's allocator."""

from __future__ import annotations

import ctypes
import gc
import os

GC_THRESHOLDS = (10_000, 10, 10)
"""Objects that may be made before Python's garbage collector looks at the youngest, and how often it does so
before it looks at older ones. A request makes a hundred: with Python's 700 it came with each second one."""

MAX_ARENAS = 2
"""Of glibc's arenas, in which threads allocate, a process may have eight for each processor, and each keeps
what was freed in it. With two, a service that was sent a lot keeps half as much (seen with ``make soak``)."""

_M_ARENA_MAX = -8  # malloc.h


def limit_arenas() -> None:
    """Let all threads share few of glibc's arenas, unless MALLOC_ARENA_MAX says how many.

    To be called before there are threads: an arena that was made stays. Other C libraries have none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, MAX_ARENAS)


def settle_garbage() -> None:
    """Tell the garbage collector that what is there now stays; called when all parts are started."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
