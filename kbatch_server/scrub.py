"""Cuts secrets out of URLs, and out of words with URLs in them, before they are logged.

No regular expression: what is cut here was written by strangers, and takes time in proportion to its length.
"""

from __future__ import annotations

import string
from urllib.parse import unquote

SECRET = "[secret]"  # noqa: S105 - what stands for one

MAX_URL = 2048
"""Characters of a URL that are logged: enough for any of ours, with all of its query."""

MAX_TEXT = 64 * 1024
"""Characters of a text that are logged: enough for any traceback, without the values that libraries add."""

_SECRET_WORDS = ("token", "auth", "key", "code", "state", "xsrf", "sig")
"""A query parameter is secret if one of these is a part of its name."""

_SIGNED = ("/code/", "/outputs/")
"""What comes before the signed part of a path. Below ``api/v1`` it is a file of a job's."""

_ENDS_A_URL = str.maketrans(dict.fromkeys("'\"<>", " "))
_SCHEME = frozenset(string.ascii_letters + string.digits + "+.-")


def scrub_url(url: str) -> str:
    """Return a URL without its secrets: a job's signature in the path, tokens and the like in the query.

    It may be anything that a client sends. Of one that is very long the beginning is returned.
    """
    path, mark, query = url[:MAX_URL].partition("?")
    more = f"[... {len(url) - MAX_URL} characters]" if len(url) > MAX_URL else ""
    return _scrub_path(path) + mark + "&".join(map(_scrub_parameter, query.split("&"))) + more


def scrub_text(text: str) -> str:
    """Return a text without the secrets of the URLs in it: as ``scrub_url``, and names with passwords.

    Of one that is very long the beginning and the end are returned, without a word that the cut would halve.
    """
    if len(text) <= MAX_TEXT:
        return _scrub_words(text)
    begin, end = text[: MAX_TEXT // 2], text[-MAX_TEXT // 2 :]
    words = end.translate(_ENDS_A_URL).split(maxsplit=1)
    end = end[-len(words[1]) :] if len(words) > 1 else ""
    left_out = len(text) - len(begin) - len(end)
    return f"{_scrub_words(begin)}[... {left_out} characters ...]{_scrub_words(end)}"


def _scrub_words(text: str) -> str:
    scrubbed: list[str] = []
    at = 0
    for word in text.translate(_ENDS_A_URL).split():
        start = text.index(word, at)
        scrubbed += (text[at:start], _scrub_word(word))
        at = start + len(word)
    return "".join(scrubbed) + text[at:]


def _scrub_word(word: str) -> str:
    start = _find_url(word)
    return word if start is None else word[:start] + scrub_url(_scrub_authorities(word[start:]))


def _find_url(word: str) -> int | None:
    """Return where in a word a URL, or a path from the root, begins."""
    slash = word.find("/")
    while slash > 0 and (word[slash - 1].isalnum() or word[slash - 1] == "_"):
        slash = word.find("/", slash + 1)  # as in "and/or"
    if slash < 0:
        return None
    start = slash
    if word[slash - 1 : slash + 2] == "://":
        start -= 1
        while start and word[start - 1] in _SCHEME:
            start -= 1
    return start


def _scrub_authorities(url: str) -> str:
    """Return a URL with the name and password of ``//name:password@host`` cut out, wherever that stands."""
    before, *parts = url.split("//")
    for number, part in enumerate(parts):
        authority, slash, path = part.partition("/")
        name, at, host = authority.rpartition("@")
        parts[number] = f"{SECRET if name else ''}{at}{host}{slash}{path}"
    return "//".join([before, *parts])


def _scrub_path(path: str) -> str:
    ours, api, rest = path.partition("/api/v1/")
    starts = [found + len(mark) for mark in _SIGNED if (found := ours.find(mark)) >= 0]
    if not starts:
        return path
    start = min(starts)
    signed, slash, after = ours[start:].partition("/")
    return f"{ours[:start]}{SECRET if signed else ''}{slash}{after}{api}{rest}"


def _scrub_parameter(parameter: str) -> str:
    """Return ``name=value`` of a query, with the value cut out where the name says that it is secret."""
    name, equals, value = parameter.partition("=")
    while equals:
        # as it will be read: "%74oken" is "token"
        plain = unquote(name).lower()
        if any(word in plain for word in _SECRET_WORDS):
            return f"{parameter[: len(parameter) - len(value)]}{SECRET}"
        name, equals, value = value.partition("=")
    return parameter
