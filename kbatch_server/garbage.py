"""How often Python's garbage collector comes: seldom enough that no request notices it."""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 10, 10)
"""Objects that may be made before it looks at the youngest, and how often it does so before it looks at older
ones. A request makes some hundred: with Python's 700 it came with each second one."""


def settle() -> None:
    """Call it when all parts are started: what is there then stays, and is not looked at again."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
