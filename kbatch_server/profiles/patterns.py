"""Regular expressions of the admin's, which texts of users must match: each use ends in time.

Python's ``re`` holds the interpreter's lock and has no time limit, so a text and an expression that it is
slow with could stop the service. RE2 is linear, but lacks what an existing expression may use. The module
``regex`` reads the same expressions as ``re``, releases the lock in a thread, and ends in time.
"""

from __future__ import annotations

import regex

MATCH_SECONDS = 0.2
"""The longest time for one text: slow ones take more than a lifetime."""


def check_pattern(pattern: str) -> str:
    """Return an expression, or raise ValueError if it is none."""
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return pattern


def matches(pattern: str, text: str) -> bool | None:
    """Return whether the whole text matches; None if that takes too long. For a thread."""
    try:
        return regex.fullmatch(pattern, text, timeout=MATCH_SECONDS, concurrent=True) is not None
    except TimeoutError:
        return None
