"""The limits on queued and running jobs for users, groups and all together, from the admin's settings or a
hook."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import traitlets
from traitlets import Dict, Float, Integer, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from ..bytesize import ByteSize
from ..errors import Forbidden, InvalidRequest, Unavailable
from ..models.job import JobSpec
from .fairshare import Accounting
from .rules import (
    CPU,
    HOURS,
    MEMORY,
    QUEUED,
    RUNNING,
    TOTAL,
    Bounds,
    choose_limits,
    describe,
    find_group,
    make_demand,
    make_group_owner,
    read_limits,
)

MAX_KEPT = 10_000
"""Maximum number of cached answers of the hook; a new one replaces the oldest."""

FIELDS = {CPU: "cpu_limit", MEMORY: "mem_limit"}
"""The field of a request that sets a resource; the profile sets the others."""


class Limits(LoggingConfigurable):
    """Determines the limits of a user, and rejects jobs that could never start within them."""

    user_limits = Dict(
        help="""The limits of each user, by resource. Groups may set others: see ``group_limits``.

        The resources are ``queued`` (jobs that wait; one more gets 429), ``running`` (jobs that were
        started and have not ended), ``cpu``, ``memory`` (bytes, or with a unit of 1024 like ``64G``),
        ``job_hours_per_month`` and names of extended resources. A job that exceeds one of the other limits
        waits. Default: no limits. Example::

            c.Limits.user_limits = {"queued": 1000, "running": 4, "cpu": 16, "memory": "64G",
                                    "nvidia.com/gpu": 1, "job_hours_per_month": 500}
        """,
        config=True,
    )

    max_queued = Integer(
        10_000,
        min=0,
        help="""The maximum number of queued jobs of a user without a limit for ``queued``; one more gets 429.
        0: no limit.
        """,
        config=True,
    )

    max_record_bytes = ByteSize(
        2**30,
        help="""The maximum size, in bytes, of all jobs of one user in the database, including jobs that have
        ended.

        It counts their environments, commands and descriptions. An integer, or a string like ``1G``. One more
        job gets 403 until the user deletes some. 0: no limit. Most jobs take one or two thousand bytes; a job
        with the largest environment takes 400,000.
        """,
        config=True,
    )

    group_limits = Dict(
        help="""The limits of each member of a hub group, by group, in the form of ``user_limits``. They
        replace these.

        None means no limit. If a user is in several groups, the most generous limit applies, for each
        resource separately. Resources that no group sets follow ``user_limits``. Example:
        ``{"staff": {"running": 20, "queued": None}}``.
        """,
        config=True,
    )

    group_totals = Dict(
        help="""The limits of all members of a group together, by group, in the form of ``user_limits``.

        They apply in addition to the limits of each member. Example:
        ``{"course-101": {"cpu": 64, "running": 40}}``.
        """,
        config=True,
    )

    total_limits = Dict(
        help="""The limits of all users together, in the form of ``user_limits``, without ``queued`` and
        ``job_hours_per_month``.

        When jobs use all of it, the user with the lowest recent usage is next. Example:
        ``{"running": 100, "cpu": 400, "memory": "2T"}``.
        """,
        config=True,
    )

    limits_hook: Any = traitlets.Callable(
        None,
        allow_none=True,
        help="""A function that returns the limits of a user, in the form of ``user_limits``, or None to leave
        them as they are. It may be async. Its arguments are the user's name, the names of the user's groups
        (a tuple) and the limits that the traits define (a dict). Example::

            def limits_hook(user, groups, limits):
                return limits | {"running": 50} if user.endswith("@example.org") else limits

            c.Limits.limits_hook = limits_hook
        """,
        config=True,
    )

    hook_max_age_seconds = Float(
        60,
        min=0,
        help="""Seconds for which the service caches the hook's answer about a user.""",
        config=True,
    )

    hook_timeout_seconds = Float(
        10,
        min=0.1,
        help="""Seconds that an async hook may take. After that, a submit gets 503, and queued jobs continue
        to wait.
        """,
        config=True,
    )

    half_life_seconds = Float(
        7 * 86400,
        min=60,
        help="""Seconds after which a user's recent usage counts half as much in the scheduling order.
        Default: a week.
        """,
        config=True,
    )

    use_weights = Dict(
        value_trait=Float(min=0),
        key_trait=Unicode(),
        default_value={"running": 1.0, "cpu": 1.0},
        help="""The weights of resources in a user's recent usage, which decides the scheduling order.

        Each second, a running job adds the sum of its resources, multiplied by their weights. Default: one
        for the job and one for each CPU. Example, by the price of a node:
        ``{"cpu": 1, "memory": 1e-10, "nvidia.com/gpu": 20}``.
        """,
        config=True,
    )

    @validate("user_limits")
    def _validate_user_limits(self, proposal: Any) -> dict[str, float]:
        return _checked(proposal, proposal["value"])

    @validate("total_limits")
    def _validate_total_limits(self, proposal: Any) -> dict[str, float]:
        return _checked(proposal, proposal["value"], without=(QUEUED, HOURS))

    @validate("group_limits", "group_totals")
    def _validate_group_limits(self, proposal: Any) -> dict[str, dict[str, float]]:
        return {group: _checked(proposal, limits, group) for group, limits in proposal["value"].items()}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], tuple[float, dict[str, float]]] = OrderedDict()
        self.accounting = Accounting(self.half_life_seconds, dict(self.use_weights))

    @property
    def is_set(self) -> bool:
        """Whether any limit is set: without limits, each job is started as soon as it comes."""
        return bool(
            self.user_limits
            or self.group_limits
            or self.group_totals
            or self.total_limits
            or self.limits_hook
        )

    async def find(self, user: str, groups: Iterable[str]) -> dict[str, float]:
        """Return the limits of a user, without unlimited resources; raises Unavailable.

        It raises if the hook fails: the log has the error, and the failure is not cached.
        """
        groups = tuple(groups)
        limits = choose_limits(self.user_limits, self.group_limits, groups)
        return limits if self.limits_hook is None else await self._ask(user, groups, limits)

    async def _ask(self, user: str, groups: tuple[str, ...], limits: dict[str, float]) -> dict[str, float]:
        key = (user, groups)
        at, kept = self._kept.get(key, (float("-inf"), {}))
        if time.monotonic() - at < self.hook_max_age_seconds:
            return kept
        try:
            async with asyncio.timeout(self.hook_timeout_seconds):
                said: Any = self.limits_hook(user, groups, dict(limits))
                if inspect.isawaitable(said):
                    said = await said
            found = limits if said is None else choose_limits(read_limits(said), {}, ())
        except Exception as error:  # the hook is a program of the admin's: it may raise anything
            self.log.exception("Limits.limits_hook failed for %s", user)
            raise Unavailable("Your limits cannot be read now. Try again in a moment.") from error
        self._kept[key] = (time.monotonic(), found)
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return found

    def check(self, spec: JobSpec, limits: Mapping[str, float], groups: Iterable[str]) -> None:
        """Reject a job that could never start.

        That is a job that requests more than a limit as a whole, or that sets no size for a limited resource.
        Raises InvalidRequest with the field, or Forbidden.
        """
        demand = make_demand(spec)
        owners = [("user", limits)]
        owners += [(make_group_owner(group), self.group_totals[group]) for group in self.find_counted(groups)]
        if spec.queue_name is None:  # Kueue itself gives its jobs their part of the total
            owners.append((TOTAL, self.total_limits))
        for owner, owned in owners:
            for name, field in FIELDS.items():
                if name in owned and owned[name] != float("inf") and name not in demand:
                    raise InvalidRequest.of_field(
                        field, f"is required, because a limit of {describe(name, owned[name])} applies"
                    )
            resource = Bounds(owner, owned).find_impossible(demand)
            if resource is not None:
                raise _make_refusal(owner, resource, owned[resource], spec)

    def find_queue(self, limits: Mapping[str, float]) -> float | None:
        """Return the maximum number of queued jobs of a user with these limits; None: no maximum."""
        return limits.get(QUEUED, self.max_queued or None)

    def find_group_queues(self, groups: Iterable[str]) -> dict[str, float]:
        """Return the maximum number of queued jobs of each of these groups that has one."""
        limited = {group: self.group_totals[group].get(QUEUED) for group in self.find_counted(groups)}
        return {
            group: limit for group, limit in limited.items() if limit is not None and limit != float("inf")
        }

    def find_counted(self, groups: Iterable[str]) -> list[str]:
        """Return the groups that have limits for all members together."""
        return [group for group in groups if group in self.group_totals]


def _make_refusal(owner: str, resource: str, limit: float, spec: JobSpec) -> InvalidRequest | Forbidden:
    if resource in (RUNNING, HOURS):
        own = {"user": "your limit", TOTAL: "the limit of all users together"}.get(owner)
        own = own or f"the limit of the group {find_group(owner)!r}"
        what = "running jobs" if resource == RUNNING else "job-hours"
        return Forbidden(f"The job can never start: {own} for {what} is 0.", reason="QuotaExceeded")
    whose = {"user": "your jobs", TOTAL: "all jobs"}.get(owner)
    whose = whose or f"the jobs of the group {find_group(owner)!r}"
    field = FIELDS.get(resource, "profile")
    # other resources come from the profile, or from the default one
    what = "" if field != "profile" else f"{spec.profile!r} " if spec.profile else "the default of every job "
    most = f"more than {whose} may use together: {describe(resource, limit)}"
    return InvalidRequest.of_field(field, f"{what}requests {most if limit else _none_of(whose, resource)}")


def _none_of(whose: str, resource: str) -> str:
    return f"{describe(resource, 0)}, of which {whose} may use none"


def _checked(proposal: Any, value: Any, *parts: str, without: Iterable[str] = ()) -> dict[str, float]:
    try:
        return read_limits(value, without=without)
    except ValueError as error:
        where = "".join(f"[{part!r}]" for part in parts)
        raise TraitError(f"Limits.{proposal['trait'].name}{where}: {error}") from None
