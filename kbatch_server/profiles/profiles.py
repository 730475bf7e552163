"""The profiles that an admin offers, and the jobs that they allow."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from collections.abc import Callable as Function
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from traitlets import Callable, Dict, List, TraitError, Union, observe, validate
from traitlets.config import LoggingConfigurable

from ..errors import InvalidRequest
from ..models.job import JobSpec, Profile
from ..models.request import JobRequest
from ..models.user import User
from .choices import Chosen, TextChecks, choose, recall
from .config import JobConfig
from .entries import (
    UNLISTED,
    ProfileEntry,
    Unlisted,
    WrongProfile,
    find_default,
    list_parts,
    read_profiles,
)
from .kubespawner import drop_mounts, take_traits
from .overrides import fill_value, override
from .spawner import FUNCTIONS_SECONDS, JobSpawner, make_spawner, resolve

MAX_CACHED = 256
"""The number of profiles with choices of which the settings are kept."""


@dataclass(frozen=True)
class ServerChoice:
    """What a server's ``user_options`` say, as a request has it, and in sentences what of it is gone."""

    profile: str | None
    profile_options: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _limit_functions(
    method: Function[_Parameters, Awaitable[_Result]],
) -> Function[_Parameters, Coroutine[Any, Any, _Result]]:
    """Return a method that raises TimeoutError if the admin's functions take too long."""

    @functools.wraps(method)
    async def limited(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        async with asyncio.timeout(FUNCTIONS_SECONDS):
            return await method(*args, **kwargs)

    return limited


class Profiles(LoggingConfigurable):
    """Turns a request into the spec of a job, through the profile that it names or the default one."""

    profile_list = Union(
        [List(Dict()), Dict(), Callable()],
        default_value=[],
        help="""The profiles: KubeSpawner's ``profile_list``, which can be used as it is.

        A list; a dict, whose values are taken in the order of its keys; or a function, which may be async,
        that takes a spawner (with ``user.name``, ``user.groups`` and ``user_options``) and returns one of
        both. See also ``KBatchServer.spawner_config``.

        Each profile is a dict with ``display_name`` and, optionally, ``slug`` (the name that users type; by
        default derived from ``display_name``), ``description``, ``default`` (True for the profile of jobs
        that name none; by default the first one), ``kubespawner_override`` (values for traits of
        KubeSpawner; those that only a server needs are ignored), ``profile_options`` (what users choose:
        see docs/profiles.md) and ``kbatch_override``: values for traits of JobConfig, for the jobs with this
        profile::

            c.Profiles.profile_list = [
                {"display_name": "Small", "slug": "small", "default": True,
                 "kbatch_override": {"cpu_limit": 1, "mem_limit": "2G"}},
                {"display_name": "GPU", "slug": "gpu", "description": "One A100",
                 "kbatch_override": {"image": "quay.io/jupyter/pytorch-notebook:cuda12-latest",
                                     "extra_resource_limits": {"nvidia.com/gpu": "1"},
                                     "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}},
            ]

        A dict is merged into the value of its trait, and None in it removes a key. Any other value replaces
        the trait's. A value may be a function that takes the spawner.
        """,
        config=True,
    )

    @validate("profile_list")
    def _validate_profile_list(self, proposal: Any) -> Any:
        if not callable(proposal["value"]):
            try:
                self._check_values(read_profiles(proposal["value"]))
            except WrongProfile as error:
                raise TraitError(f"Profiles.profile_list: {error}") from None
        return proposal["value"]

    def __init__(self, **kwargs: Any) -> None:
        self._told: set[str] = set()
        super().__init__(**kwargs)
        self._base = JobConfig(parent=self)
        self._texts = TextChecks()
        self._read_list()

    @observe("profile_list")
    def _read_list(self, change: Any = None) -> None:
        self._configs: dict[Any, JobConfig] = {}
        self._entries = () if callable(self.profile_list) else read_profiles(self.profile_list)

    @_limit_functions
    async def list(self, user: User | None) -> Sequence[Profile]:
        """Return the profiles that this user may choose; without a user, those of all users."""
        spawner = None if user is None else make_spawner(user)
        entries = await self._list_entries(spawner)
        default = find_default(entries)
        return [await self._describe(entry, spawner, entry is default) for entry in entries]

    @_limit_functions
    async def make_spec(self, user: User, request: JobRequest) -> JobSpec:
        """Return the spec of the requested job, or raise InvalidRequest with the field."""
        spawner = make_spawner(user, make_user_options(request.profile, request.profile_options))
        entry = _find_entry(await self._list_entries(spawner), request)
        if entry is None:
            return await self._base.call_functions(self._base.make_spec(request, user=user.name), spawner)
        chosen = choose(entry, request.profile_options)
        await self._texts.check(user.name, chosen)
        try:
            config = await self._get_config(entry, chosen, spawner)
        except TraitError as error:
            own = [each for each in chosen if each.own_text is not None]
            if not own:
                raise  # the admin's mistake, in what a function has returned
            self.log.warning("profile %s: %s", entry.slug, error)
            message = "is not valid for this profile"
            raise InvalidRequest.of_field(f"profile_options.{own[-1].key}", message) from error
        spec = config.make_spec(request, user=user.name, profile=entry.slug)
        spec = spec.model_copy(update={"profile_options": {each.key: each.value for each in chosen}})
        return await config.call_functions(spec, spawner)

    @_limit_functions
    async def get_environment(self, user: User, spec: JobSpec) -> dict[str, str]:
        """Return the environment variables that the admin sets for a job, by its profile and its choices.

        They may be secret, so the service reads them when a job starts, and stores them nowhere. If the admin
        has removed the profile since, these are the variables of all jobs.
        """
        spawner = make_spawner(user, make_user_options(spec.profile, spec.profile_options))
        entries = await self._list_entries(spawner) if spec.profile is not None else ()
        entry = next((entry for entry in entries if entry.slug == spec.profile), None)
        if entry is None:
            return await self._base.make_environment(spawner)
        config = await self._get_config(entry, recall(entry, spec.profile_options), spawner)
        return await config.make_environment(spawner)

    @_limit_functions
    async def read_user_options(self, user: User, user_options: Mapping[str, Any]) -> ServerChoice:
        """Return the profile and the choices of a user's server, from its ``user_options`` on the hub.

        They are checked again: anyone may send any to the hub, and the admin may have changed the profiles
        since. What is gone is replaced by the default, and said in ``problems``.
        """
        entries = await self._list_entries(make_spawner(user, dict(user_options)))
        slug = user_options.get("profile")
        entry = next((each for each in entries if each.slug == slug), None) if slug else find_default(entries)
        if entry is None:
            problem = [f"The server's profile {str(slug)[:100]!r} no longer exists."] if slug else []
            return ServerChoice(None, problems=problem)
        options: dict[str, str] = {}
        problems = []
        for name, option in entry.options.items():
            wanted = {
                key: user_options[key] for key in (f"{name}--{UNLISTED}", name) if user_options.get(key)
            }
            one = entry.model_copy(update={"options": {name: option}})
            try:
                if not all(isinstance(value, str) for value in wanted.values()):
                    raise InvalidRequest("is not text")
                chosen = choose(one, wanted)
                await self._texts.check(user.name, chosen)
            except InvalidRequest as error:
                label = option.display_name or name
                problems.append(f"The server's choice for {label!r} is no longer possible: {error.message}.")
                continue
            options |= {each.key: each.value for each in chosen}
        return ServerChoice(entry.slug, options, problems)

    async def may_have_home(self, user: User) -> bool:
        """Return whether a user's job may have the home of a server, with some profile or without one."""
        spawner = make_spawner(user)
        entries = await self._list_entries(spawner)
        configs = [await self._get_config(entry, recall(entry, {}), spawner) for entry in entries]
        return any(config.home != "none" for config in (self._base, *configs))

    async def _list_entries(self, spawner: JobSpawner | None) -> Sequence[ProfileEntry]:
        if not callable(self.profile_list):
            return self._entries
        return () if spawner is None else read_profiles(await resolve(self.profile_list, spawner))

    async def _get_config(
        self, entry: ProfileEntry, chosen: Sequence[Chosen], spawner: JobSpawner | None
    ) -> JobConfig:
        """Return the JobConfig of a profile with choices; cached if it is always the same, as it is slow.

        Without a spawner, functions among the values are left out.
        """
        is_fixed = not callable(self.profile_list) and not any(
            each.own_text is not None or _has_functions(each.part) for each in chosen
        )
        key = (entry.slug, *((each.key, each.value) for each in chosen))
        if is_fixed and not _has_functions(entry) and key in self._configs:
            return self._configs[key]
        values = await self._make_values(entry, chosen, spawner)
        config = JobConfig(parent=self, **values)
        if is_fixed and not _has_functions(entry):
            if len(self._configs) >= MAX_CACHED:
                self._configs.clear()
            self._configs[key] = config
        return config

    async def _make_values(
        self, entry: ProfileEntry, chosen: Sequence[Chosen], spawner: JobSpawner | None
    ) -> dict[str, Any]:
        """Return the traits that a profile and choices override: the profile's first, then each choice's."""
        values: dict[str, Any] = {}
        homes: set[str] = set()
        for part, text in [(entry, None), *((each.part, each.own_text) for each in chosen)]:
            theirs = take_traits(part.kubespawner_override, homes=homes)
            self._tell_ignored(theirs.ignored)
            for name, value in [*theirs.values.items(), *part.kbatch_override.items()]:
                if callable(value) and spawner is None:
                    continue
                value = value if text is None else fill_value(value, text)
                value = await resolve(value, spawner) if spawner is not None else value
                current = values[name] if name in values else getattr(self._base, name)
                values[name] = override(current, value)
        if homes and "volumes" in values:
            mounts = values.get("volume_mounts", self._base.volume_mounts)
            values["volume_mounts"] = drop_mounts(mounts, values["volumes"], homes)
        return values

    async def _describe(self, entry: ProfileEntry, spawner: JobSpawner | None, is_default: bool) -> Profile:
        config = await self._get_config(entry, recall(entry, {}), spawner)
        return Profile(
            slug=entry.slug,
            display_name=entry.display_name,
            description=entry.description or "",
            default=is_default,
            image=config.image,
            cpu_limit=config.get_default("cpu_limit"),
            mem_limit=config.get_default("mem_limit"),
            extra_resource_limits=config.extra_resource_limits,
            profile_options=[option.describe(name) for name, option in entry.options.items()],
        )

    def _check_values(self, entries: Sequence[ProfileEntry]) -> None:
        """Reject at the start what would fail at a submit: a value of the wrong type for its trait."""
        base = JobConfig(parent=self)
        for entry in entries:
            own: dict[str, Any] = {}
            homes: set[str] = set()
            for path, part in list_parts(entry):
                values = dict(own)
                theirs = take_traits(part.kubespawner_override, homes=homes)
                self._tell_ignored(theirs.ignored)
                for name, value in [*theirs.values.items(), *part.kbatch_override.items()]:
                    if callable(value) or isinstance(part, Unlisted):
                        continue
                    values[name] = override(values.get(name, getattr(base, name)), value)
                try:
                    JobConfig(parent=self, **values)
                except TraitError as error:
                    where = f"profile {entry.display_name!r}: {path}".removesuffix(": ").removesuffix(".")
                    raise WrongProfile(f"{where}: {error}") from None
                own = own if path else values

    def _tell_ignored(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._told:
                self._told.add(name)
                self.log.info("Profiles.profile_list: a job has no use for KubeSpawner's %s: ignored", name)


def _find_entry(entries: Sequence[ProfileEntry], request: JobRequest) -> ProfileEntry | None:
    """Return the profile of a request, or the default one; None if there are none. Raises InvalidRequest."""
    if request.profile is None:
        if not entries and request.profile_options:
            raise InvalidRequest.of_field("profile_options", "cannot be set: there are no profiles")
        return find_default(entries)
    for entry in entries:
        if entry.slug == request.profile:
            return entry
    names = ", ".join(entry.slug for entry in entries) or "none"
    raise InvalidRequest.of_field(
        "profile", f"profile {request.profile!r} does not exist; available: {names}"
    )


def make_user_options(profile: str | None, options: Mapping[str, str]) -> dict[str, str]:
    """Return a choice in the form that KubeSpawner gives to an admin's functions."""
    return {**({} if profile is None else {"profile": profile}), **options}


def _has_functions(part: Any) -> bool:
    values = [*part.kubespawner_override.values(), *part.kbatch_override.values()]
    return any(callable(value) for value in values)
