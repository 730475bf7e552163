"""Checks a part of a pod that an admin wrote, against the models of the Kubernetes client.

KubeSpawner takes the keys of such a part in both forms, ``mountPath`` and ``mount_path``, and so does this.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


class WrongShape(ValueError):
    """It is no such part: the message says where and why."""


def check_part(kind: str, part: Any, *, is_whole: bool = True) -> dict[str, Any]:
    """Return a part of a pod in the form that Kubernetes takes: with keys in camelCase.

    ``kind`` is the name of the client's model, such as ``V1Volume``. Without ``is_whole``, keys that
    Kubernetes requires may be missing: they come from elsewhere. Raises WrongShape.
    """
    # imported only now: it is large, and a service without Kubernetes, or without such settings, needs none
    model: type[BaseModel] = getattr(importlib.import_module("kubernetes.aio.client.models"), kind)
    part = copy.deepcopy(part)
    if not isinstance(part, Mapping):
        raise WrongShape(f"{part!r} is no dict")
    given = dict(part)
    absent: set[str] = set()
    # quantities may be numbers, which the model wants as strings
    for _ in range(3):
        try:
            return _dump(model.model_validate(given), absent)
        except ValidationError as error:
            # a misspelled key comes first: because of it, another may be missing
            problems = sorted(error.errors(include_url=False), key=lambda each: each["type"] == "missing")
            for problem in problems:
                path = _find_path(problem["loc"])
                if problem["type"] == "string_type" and _is_number(problem["input"]):
                    _set(given, path, str(problem["input"]))
                elif problem["type"] == "missing" and not is_whole and len(path) == 1:
                    absent.add(str(path[0]))
                    given[path[0]] = _make_stand_in(model, str(path[0]))
                else:
                    raise WrongShape(_explain(model, path, problem)) from None
    raise WrongShape("it cannot be read")


def _dump(value: BaseModel, absent: set[str]) -> dict[str, Any]:
    dumped = value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {key: each for key, each in dumped.items() if key not in absent}


def _find_path(location: tuple[int | str, ...]) -> list[int | str]:
    """Return where a problem is, as keys of the dicts and positions of the lists."""
    return [each for each in location if not (isinstance(each, str) and each.startswith("function-"))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _set(target: Any, path: list[int | str], value: Any) -> None:
    for step in path[:-1]:
        target = target[step if not isinstance(target, dict) or step in target else _to_snake(step)]
    last = path[-1]
    target[last if not isinstance(target, dict) or last in target else _to_snake(last)] = value


def _to_snake(key: Any) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in str(key))


def _make_stand_in(model: type[BaseModel], key: str) -> Any:
    kinds: Mapping[str, str] = getattr(model, "openapi_types")  # noqa: B009 - the client's own models have it
    kind = kinds.get(_to_snake(key), "str")
    return [] if kind.startswith("List") else "x"


def _explain(model: type[BaseModel], path: list[int | str], problem: Any) -> str:
    where = ".".join(str(step) for step in path)
    if problem["type"] == "extra_forbidden":
        known = _find_keys(model, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        return f"{where} is unknown to Kubernetes{f'; did you mean {close[0]}?' if close else ''}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"].startswith("model"):
        return f"{where} is {problem['input']!r}; it must be a dict"
    return f"{where} is {problem['input']!r}: {problem['msg'].lower()}"


def _find_keys(model: Any, path: list[int | str]) -> list[str]:
    """Return the keys that the part at a path may have."""
    models = importlib.import_module("kubernetes.aio.client.models")
    for step in path:
        if isinstance(step, int):
            continue
        kinds = model.openapi_types
        kind = next((kinds[name] for name, key in model.attribute_map.items() if step in (name, key)), "")
        model = getattr(models, kind.removeprefix("List[").rstrip("]"), None)
        if model is None:
            return []
    return list(model.attribute_map.values())
