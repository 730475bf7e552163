"""A job as the admin's functions for KubeSpawner see a spawner: ``profile_list``, ``uid`` and others."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..models.user import User

FUNCTIONS_SECONDS = 30.0
"""How long the admin's functions may take, together, for a request or for a launch."""


class GroupName(str):
    """The name of a user's group, with the attribute ``name`` of the hub's own groups."""

    @property
    def name(self) -> str:
        """The name itself."""
        return str(self)


@dataclass(frozen=True)
class SpawnerUser:
    """The user of a job, with the attributes of a spawner's ``user`` that a job knows."""

    name: str
    groups: tuple[GroupName, ...] = ()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a job's spawner.user has no {name!r}; it has: name, groups")


@dataclass(frozen=True)
class JobSpawner:
    """What a function of the admin's gets as its ``spawner``: a job is like a server without a name."""

    user: SpawnerUser
    user_options: dict[str, Any] = field(default_factory=dict)
    """The profile and its options that the user chose, in KubeSpawner's form."""
    name: str = ""
    job_id: str = ""
    """The id of the job, once it has one."""
    namespace: str = ""
    """The namespace of the job on Kubernetes, when it is launched."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("kbatch_server"))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a job's spawner has no {name!r}; it has: user, user_options, name, job_id, namespace, log"
        )


def make_spawner(user: User, user_options: dict[str, Any] | None = None, *, job_id: str = "") -> JobSpawner:
    """Return the spawner of a user's job."""
    groups = tuple(GroupName(group) for group in user.groups)
    return JobSpawner(SpawnerUser(user.name, groups), dict(user_options or {}), job_id=job_id)


async def resolve(value: Any, spawner: JobSpawner) -> Any:
    """Return a setting's value: itself, or what it returns if it is a function, which may be async."""
    if not callable(value):
        return value
    result = value(spawner)
    return await result if inspect.isawaitable(result) else result
