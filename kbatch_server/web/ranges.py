"""The one range of bytes that a request may ask for (RFC 9110, section 14)."""

from __future__ import annotations

import re

from ..errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def read_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and end of the range that a Range header names, or None for the whole.

    A header that is not understood, or that names several ranges, may be passed over. Raises
    RangeNotSatisfiable where nothing of what is asked for is there.
    """
    match = _ONE_RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if first and last and int(last) < int(first):
        return None  # it is no range at all
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end
