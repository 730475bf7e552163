"""Fills in an admin's templates for a user, with KubeSpawner's names: ``claim-{user_server}``. Pure.

What the hub made for a user (a claim, a folder, a namespace) is found only under the name that KubeSpawner
gave it, so these names are KubeSpawner's to the letter, with its hash of 32 bits:
https://jupyterhub-kubespawner.readthedocs.io/en/latest/templates.html (7.1.0; the tests compare both).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from .slugs import MAX_LABEL

MAX_NAME = 48
"""The longest name of a user in a template."""

_HASH_LENGTH = 8
MIN_NAME = _HASH_LENGTH + 4
"""The shortest room for a name: one character, three hyphens and the hash."""

_SAFE = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_PARTS = re.compile(r"\{\{|\}\}|\{([a-z_]{1,30})\}|[{}]")


def make_safe_name(name: str, *, max_length: int = MAX_NAME) -> str:
    """Return KubeSpawner's name for a user by its scheme ``safe``: always a valid label."""
    if "--" not in name and len(name) <= max_length and _SAFE.fullmatch(name):
        return name
    return f"{_make_stem(name, max_length - _HASH_LENGTH - 3)}---{_hash(name)}"


def make_escaped_name(name: str) -> str:
    """Return KubeSpawner's name for a user by its older scheme ``escape``, which may be no valid label."""
    return "".join(
        each if each in _PLAIN else "".join(f"-{byte:x}" for byte in each.encode("utf-8", "surrogatepass"))
        for each in name
    )


def fill_label(template: str, user: str) -> str:
    """Return a template of a label, such as a namespace or a queue, with ``{username}`` filled in.

    Where the label would be too long, the name is shortened, and stays unique.
    """
    if "{username}" not in template:
        return template
    room = max(MAX_LABEL - len(template.replace("{username}", "")), MIN_NAME)
    return template.replace("{username}", make_safe_name(user, max_length=min(room, MAX_NAME)))


@lru_cache(maxsize=1024)
def make_fields(user: str, server: str = "", *, scheme: str = "safe") -> Mapping[str, str]:
    """Return what each field of a template stands for: a job is like the user's server without a name.

    ``scheme`` is KubeSpawner's ``slug_scheme``: ``safe``, or ``escape`` for the names of older versions.
    """
    safe, safe_server = make_safe_name(user), make_safe_name(server) if server else ""
    # KubeSpawner joins the names of user and server where they fit, which leaves room for two hyphens
    is_short = len(safe) + len(safe_server) + 2 <= MAX_NAME
    joined = f"{safe}--{safe_server}" if server else safe
    safe_user_server = joined if is_short else _join_names(user, server)
    escaped, escaped_server = make_escaped_name(user), make_escaped_name(server)
    escaped_user_server = f"{escaped}--{escaped_server}" if server else escaped
    is_safe = scheme == "safe"
    return {
        "username": safe if is_safe else escaped,
        "user_server": safe_user_server if is_safe else escaped_user_server,
        "servername": safe_server if is_safe else escaped_server,
        "unescaped_username": user,
        "unescaped_servername": server,
        "safe_username": safe,
        "safe_servername": safe_server,
        "safe_user_server": safe_user_server,
        "escaped_username": escaped,
        "escaped_servername": escaped_server,
        "escaped_user_server": f"{escaped}--{escaped_server}",
    }


FIELDS = tuple(make_fields("user"))
"""The fields that a template may have."""


def expand(template: Any, user: str, server: str = "", *, scheme: str = "safe") -> Any:
    """Return the template with the fields in all its strings filled in for a user, or for a named server.

    As for KubeSpawner, ``{{`` stands for ``{``, and a hyphen that an empty field leaves at the end goes.
    What is no field stays as it is: ``find_problem`` reports it when the service starts.
    """
    if isinstance(template, str):
        fields = make_fields(user, server, scheme=scheme)
        filled = _PARTS.sub(lambda part: _fill(part, fields), template)
        return filled if template.endswith("-") else filled.rstrip("-")
    if isinstance(template, Mapping):
        return {key: expand(value, user, server, scheme=scheme) for key, value in template.items()}
    if isinstance(template, list):
        return [expand(value, user, server, scheme=scheme) for value in template]
    return template


def find_problem(template: Any) -> str | None:
    """Return what is wrong with a template, as a sentence; None if nothing is."""
    for text in _find_strings(template):
        for part in _PARTS.finditer(text):
            if part[0] not in ("{{", "}}") and part[1] not in FIELDS:
                known = ", ".join(f"{{{field}}}" for field in FIELDS)
                return f"{text!r} has a brace without a known field; known: {known}; write {{{{ for a brace"
    return None


def _fill(part: re.Match[str], fields: Mapping[str, str]) -> str:
    if part[0] in ("{{", "}}"):
        return part[0][0]
    return fields.get(part[1], part[0])


def _find_strings(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from _find_strings(value)
    elif isinstance(template, list):
        for value in template:
            yield from _find_strings(value)


def _join_names(*names: str) -> str:
    """Return one name for several, each with its part of the room, and one hash."""
    room = (MAX_NAME - _HASH_LENGTH - 1) // len(names) - 2
    stems = "--".join(_make_stem(name, room) for name in names)
    return f"{stems}---{_hash(*names)}"


def _make_stem(name: str, room: int) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-")[:room].rstrip("-")
    if stem and not stem[0].isalpha():
        stem = f"x-{stem[: room - 2]}"
    return stem or "x"


def _hash(*names: str) -> str:
    text = b"\xff".join(name.encode("utf-8", "surrogatepass") for name in names)
    return hashlib.sha256(text).hexdigest()[:_HASH_LENGTH]
