"""Overrides of traits, as KubeSpawner applies those of a profile. Pure.

A dict is merged into the trait's own, at all depths, and a None in it removes a key; any other value replaces
the trait's. The rules are those of KubeSpawner 7.1, and the tests compare both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def override(current: Any, value: Any) -> Any:
    """Return the value of a trait that has one, after an override. Changes neither."""
    if isinstance(current, Mapping) and isinstance(value, Mapping):
        return merge(current, value)
    return value


def merge(target: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict with some keys changed, at all depths. A None removes its key."""
    merged = dict(target)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            inner = merged.get(key)
            merged[key] = merge(inner if isinstance(inner, Mapping) else {}, value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


class _Known(dict[str, str]):
    """Leaves fields that it does not know as they are: they are filled in later, or by the job's shell."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def fill_value(template: Any, value: str) -> Any:
    """Return an override with ``{value}`` filled in, in all strings at all depths, keys included.

    Raises ValueError (or another error of ``str.format``) for a template that is none.
    """
    if isinstance(template, str):
        return template.format_map(_Known(value=value))
    if isinstance(template, Mapping):
        return {fill_value(key, value): fill_value(each, value) for key, each in template.items()}
    if isinstance(template, list):
        return [fill_value(each, value) for each in template]
    if isinstance(template, set):
        return {fill_value(each, value) for each in template}
    return template
