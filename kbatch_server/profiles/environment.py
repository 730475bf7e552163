"""The environment variables that an admin sets for all jobs, as KubeSpawner reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from traitlets import TraitError

from ..launchers.kube.shapes import WrongShape, check_part
from ..templates import OF_USER, expand, find_problem
from .spawner import JobSpawner, resolve

Setting = str | dict[str, Any] | Callable[[JobSpawner], Any]
"""A variable's value, as the admin set it: a template, an EnvVar of Kubernetes, or a function."""

_KNOWN = (*OF_USER, "pvc_name")
"""The fields of a template. The namespace is known only to Kubernetes, which a dict may ask for it."""

_ANYWHERE = re.compile(r"\$(?:\$|\(([A-Za-z0-9_.-]{1,253})\))")
"""``$$`` and ``$(NAME)``, which Kubernetes replaces in the value of a variable."""


def check_environment(environment: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the variables, with EnvVars in the form that Kubernetes takes; raises TraitError."""
    return {name: _check(name, value) for name, value in environment.items()}


def _check(name: str, value: Setting) -> Setting:
    if isinstance(value, dict):
        try:
            value = check_part("V1EnvVar", {"name": name} | value)
        except WrongShape as error:
            raise TraitError(f"JobConfig.environment[{name!r}]: {error}") from None
        problem = find_problem(value)
    elif isinstance(value, str):
        problem = find_problem(value, _KNOWN)
    else:
        problem = None
    if problem:
        raise TraitError(f"JobConfig.environment[{name!r}]: {problem}")
    return value


def list_sources(environment: Mapping[str, Setting]) -> list[dict[str, Any]]:
    """Return the EnvVars among the variables, each after those that it refers to."""
    sources = {each["name"]: each for each in environment.values() if isinstance(each, dict)}
    return [sources[name] for name in _sort({name: each.get("value") for name, each in sources.items()})]


async def make_environment(
    environment: Mapping[str, Setting], spawner: JobSpawner, *, scheme: str, pvc_name_template: str
) -> dict[str, str]:
    """Return the values of the other variables, the strings and the functions', for a user's job.

    A function's result is no template. Raises TypeError if it is no string, and whatever a function raises.
    """
    user = spawner.user.name
    place = {"pvc_name": expand(pvc_name_template, user, scheme=scheme)}
    values = {}
    for name, setting in environment.items():
        if isinstance(setting, str):
            values[name] = str(expand(setting, user, scheme=scheme, place=place))
        elif not isinstance(setting, dict):
            value = await resolve(setting, spawner)
            if not isinstance(value, str | int | float | None):
                raise TypeError(
                    f"JobConfig.environment[{name!r}]: the function must return a string, "
                    f"not {type(value).__name__}"
                )
            values[name] = "" if value is None else str(value)
    return _replace_references(values, {"JUPYTERHUB_USER": user})


def _replace_references(values: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the values with ``$(NAME)`` replaced, as Kubernetes does it for a server."""
    replaced = dict(known)

    def find(part: re.Match[str]) -> str:
        return "$" if part[1] is None else replaced.get(part[1], part[0])

    for name in _sort(values):
        replaced[name] = _ANYWHERE.sub(find, values[name])
    return {name: replaced[name] for name in values}


def _sort(values: Mapping[str, str | None]) -> list[str]:
    """Return the names in KubeSpawner's order: by name, but each after those that its value refers to."""
    left = {
        name: {each for each in _ANYWHERE.findall(value or "") if each} - {name}
        for name, value in values.items()
    }
    ordered: list[str] = []
    while ready := sorted(name for name, needed in left.items() if not needed & left.keys()):
        ordered += ready
        left = {name: needed for name, needed in left.items() if name not in ready}
    # they refer to each other, or to what is not there
    return ordered + sorted(left)
