"""The one part of a body that a Range header asks for."""

from __future__ import annotations

import re

from ..errors import RangeNotSatisfiable


def find_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and end of the one range that a Range header names, or None for the whole.

    A header that is not understood, or that names several ranges, may be passed over (RFC 9110, 14.2). Raises
    RangeNotSatisfiable for a range of which there is nothing.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header or "", re.ASCII)
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if first and last and int(first) > int(last):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end
