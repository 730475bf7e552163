"""The profiles that an admin offers, and the jobs that they allow."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from traitlets import Callable, Dict, List, TraitError, Union, validate
from traitlets.config import LoggingConfigurable

from ..errors import InvalidRequest
from ..models.job import JobSpec, Profile
from ..models.request import JobRequest
from ..models.user import User
from .config import JobConfig

ProfileEntry = dict[str, Any]
"""One profile, in the admin's form."""


class Profiles(LoggingConfigurable):
    """Turns a request into the spec of a job, through the profile that it names or the default one."""

    profile_list = Union(
        [List(Dict()), Callable()],
        default_value=[],
        help="""The profiles, like KubeSpawner's ``profile_list``: a list, or a function (which may be async)
        that takes the user (with ``name`` and ``groups``) and returns one.

        Each profile is a dict with ``display_name`` and, optionally, ``slug`` (the name that users type; by
        default derived from ``display_name``), ``description``, ``default`` (True for the profile of jobs
        that name none) and ``kbatch_override``: values for traits of JobConfig, for the jobs with this
        profile::

            c.Profiles.profile_list = [
                {"display_name": "Small", "slug": "small", "default": True,
                 "kbatch_override": {"cpu_limit": 1, "mem_limit": "2G"}},
                {"display_name": "GPU", "slug": "gpu", "description": "One A100",
                 "kbatch_override": {"image": "quay.io/jupyter/pytorch-notebook:cuda12-latest",
                                     "extra_resource_limits": {"nvidia.com/gpu": "1"},
                                     "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}},
            ]
        """,
        config=True,
    )

    @validate("profile_list")
    def _validate_profile_list(self, proposal: Any) -> Any:
        if isinstance(proposal["value"], list):
            for entry in proposal["value"]:
                self._check_entry(entry)
            slugs = [_slug(entry) for entry in proposal["value"]]
            if len(set(slugs)) < len(slugs):
                raise TraitError(f"Profiles.profile_list: two profiles have the same slug; slugs: {slugs}")
        return proposal["value"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._configs: dict[str | None, JobConfig] = {}

    async def list(self, user: User | None) -> Sequence[Profile]:
        """Return the profiles that this user may choose; without a user, those of all users."""
        entries = await self._entries(user)
        return [self._make_profile(entry) for entry in entries]

    async def make_spec(self, user: User, request: JobRequest) -> JobSpec:
        """Return the spec of the requested job, or raise InvalidRequest with the field."""
        entry = self._find_entry(await self._entries(user), request.profile)
        slug = None if entry is None else _slug(entry)
        return self._get_config(entry).make_spec(request, user=user.name, profile=slug)

    async def get_environment(self, user: User, slug: str | None) -> dict[str, str]:
        """Return the environment variables that the admin sets for the jobs of a profile.

        They may be secret, so the service reads them when a job starts, and stores them nowhere. If the admin
        has removed the profile since, it returns none.
        """
        entries = await self._entries(user) if slug is not None else ()
        entry = next((entry for entry in entries if _slug(entry) == slug), None)
        return dict(self._get_config(entry).environment)

    async def may_have_home(self, user: User) -> bool:
        """Return whether a user's job may have the home of a server, with some profile or without one."""
        entries = await self._entries(user)
        return any(self._get_config(entry).home != "none" for entry in (None, *entries))

    async def _entries(self, user: User | None) -> Sequence[ProfileEntry]:
        if not callable(self.profile_list):
            return tuple(self.profile_list)
        if user is None:
            return ()
        entries: Any = self.profile_list(user)
        if inspect.isawaitable(entries):
            entries = await entries
        return tuple(entries)

    def _find_entry(self, entries: Sequence[ProfileEntry], slug: str | None) -> ProfileEntry | None:
        if slug is None:
            return next((entry for entry in entries if entry.get("default")), None)
        for entry in entries:
            if _slug(entry) == slug:
                return entry
        names = ", ".join(_slug(entry) for entry in entries) or "none"
        raise InvalidRequest.of_field("profile", f"profile {slug!r} does not exist; available: {names}")

    def _get_config(self, entry: ProfileEntry | None) -> JobConfig:
        """Return the JobConfig of a profile; cached if the profiles are a list, as making it is slow."""
        if callable(self.profile_list) and entry is not None:
            return self._make_config(entry)
        slug = None if entry is None else _slug(entry)
        if slug not in self._configs:
            self._configs[slug] = self._make_config(entry)
        return self._configs[slug]

    def _make_config(self, entry: ProfileEntry | None) -> JobConfig:
        return JobConfig(parent=self, **({} if entry is None else entry.get("kbatch_override", {})))

    def _make_profile(self, entry: ProfileEntry) -> Profile:
        config = self._get_config(entry)
        return Profile(
            slug=_slug(entry),
            display_name=entry["display_name"],
            description=entry.get("description", ""),
            default=bool(entry.get("default")),
            image=config.image,
            cpu_limit=config.get_default("cpu_limit"),
            mem_limit=config.get_default("mem_limit"),
            extra_resource_limits=config.extra_resource_limits,
        )

    def _check_entry(self, entry: ProfileEntry) -> None:
        """Reject at the start what would fail at a submit: a misspelled key, a value of the wrong type."""
        unknown = set(entry) - {"display_name", "slug", "description", "default", "kbatch_override"}
        if unknown or not isinstance(entry.get("display_name"), str):
            raise TraitError(
                "Profiles.profile_list: an entry must have display_name, and may have slug, description, "
                "default and kbatch_override; unknown keys: "
                f"{', '.join(sorted(map(str, unknown))) or 'none'}"
            )
        override = entry.get("kbatch_override", {})
        strange = [name for name in override if not JobConfig.class_traits(config=True).get(name)]
        if strange:
            raise TraitError(
                f"Profiles.profile_list: {entry['display_name']!r}: JobConfig has no trait {strange[0]!r}"
            )
        self._make_config(entry)


def _slug(entry: ProfileEntry) -> str:
    derived = re.sub(r"[^a-z0-9]+", "-", entry["display_name"].lower()).strip("-")
    return str(entry.get("slug") or derived)
