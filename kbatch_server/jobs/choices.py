"""What a user may choose of what the admin allows; each error names the field and says what is allowed."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRequest
from ..slugs import MAX_LABEL, make_slug


def check_image(wanted: str | None, default: str, allowed: Sequence[str]) -> str:
    """Return the image of a job: the default, or one that a pattern allows. Raises InvalidRequest."""
    if wanted is None or wanted == default:
        if not default:
            raise InvalidRequest.of_field("image", "must be given: there is no default image here")
        return default
    if not any(_matches(wanted, pattern) for pattern in allowed):
        known = ", ".join([*allowed, *([default] if default else [])])
        raise InvalidRequest.of_field(
            "image", f"{wanted!r} is not allowed here; allowed: {known or 'only a profile'}"
        )
    return wanted


def _matches(image: str, pattern: str) -> bool:
    if "@" in image and "@" not in pattern and ":" in pattern.rpartition("/")[2]:
        return False
    allowed_registry, allowed_name = _split_registry(pattern)
    if pattern.startswith("*") and not allowed_registry:
        return fnmatch.fnmatchcase(image, pattern)
    registry, name = _split_registry(image)
    return fnmatch.fnmatchcase(registry, allowed_registry) and fnmatch.fnmatchcase(name, allowed_name)


def _split_registry(image: str) -> tuple[str, str]:
    """Return the registry that an image, or a pattern, names, and the rest: no registry is Docker Hub.

    https://github.com/distribution/reference/blob/main/normalize.go: what stands before the first slash is
    one if it has a dot or a port, or is localhost.
    """
    first, slash, rest = image.partition("/")
    return (first, rest) if slash and (first == "localhost" or set(first) & set(".:")) else ("", image)


def check_queue(wanted: str | None, default: str | None, allowed: Sequence[str]) -> str | None:
    """Return the queue of a job: the default, or one that a pattern allows. Raises InvalidRequest."""
    if wanted is None or wanted == default:
        return default
    if not any(fnmatch.fnmatchcase(wanted, pattern) for pattern in allowed):
        raise InvalidRequest.of_field(
            "queue_name", f"{wanted!r} cannot be chosen here; allowed: {', '.join(allowed) or 'none'}"
        )
    return wanted


def fill_queue_name(template: str, user: str, profile: str | None) -> str:
    """Return the name of a queue, which is a label's value: a long one is cut, and stays the user's own."""
    name = template.replace("{profile}", profile or "default")
    room = MAX_LABEL - len(name.replace("{username}", ""))
    return name.replace("{username}", make_slug(user, max_length=room)) if "{username}" in name else name


def check_at_most(wanted: Any, maximum: Any, field: str) -> Any:
    """Return a number that is not more than the most that is allowed (None: any). Raises InvalidRequest."""
    if maximum is not None and wanted > maximum:
        raise InvalidRequest.of_field(field, f"is {wanted}, the most that is allowed is {maximum}")
    return wanted
