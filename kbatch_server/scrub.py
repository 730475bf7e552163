"""Removes secrets from URLs, and from texts with URLs, before they are logged.

It uses no regular expressions: the input comes from strangers, and this takes time in proportion to its
length.
"""

from __future__ import annotations

import string
from urllib.parse import unquote

SECRET = "[secret]"  # noqa: S105 - what stands for one

MAX_URL = 2048
"""The maximum length of a logged URL: enough for any of ours with its query."""

MAX_TEXT = 64 * 1024
"""The maximum length of a logged text: enough for any traceback, without the values that libraries add."""

_SECRET_WORDS = ("token", "auth", "key", "code", "state", "xsrf", "sig")
"""A query parameter is secret if its name contains one of these."""

_SIGNED = ("/code/", "/outputs/")
"""The part of a path before a signature. Below ``api/v1`` it belongs to the path of a job's file."""

_ENDS_A_URL = str.maketrans(dict.fromkeys("'\"<>", " "))
_SCHEME = frozenset(string.ascii_letters + string.digits + "+.-")


def scrub_url(url: str) -> str:
    """Return a URL without secrets: without a signature in the path, tokens and the like in the query.

    The URL may be anything that a client sends; a very long one is shortened.
    """
    path, mark, query = url[:MAX_URL].partition("?")
    more = f"[... {len(url) - MAX_URL} characters]" if len(url) > MAX_URL else ""
    return _scrub_path(path) + mark + "&".join(map(_scrub_parameter, query.split("&"))) + more


def scrub_text(text: str) -> str:
    """Return a text without secrets in URLs: those of ``scrub_url``, and names with passwords.

    A very long text is reduced to its beginning and end, without a word that the cut would divide.
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
    """Return where a URL, or a path from the root, begins in a word."""
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
    """Return a URL without name and password in ``//name:password@host``, wherever that occurs."""
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
    """Return ``name=value`` of a query without the value if the name is that of a secret."""
    name, equals, value = parameter.partition("=")
    while equals:
        # as it will be read: "%74oken" is "token"
        plain = unquote(name).lower()
        if any(word in plain for word in _SECRET_WORDS):
            return f"{parameter[: len(parameter) - len(value)]}{SECRET}"
        name, equals, value = value.partition("=")
    return parameter
