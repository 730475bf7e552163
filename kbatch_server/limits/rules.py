"""Decides whether a job may start now, and words the reason if not: limits and their usage. Pure.

Limits and amounts are mappings by resource: ``queued`` and ``running`` (jobs), ``cpu``, ``memory`` (bytes),
``job_hours_per_month``, or the name of an extended resource, like ``nvidia.com/gpu``. A resource that is not
in a mapping of limits is unlimited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..models.job import JobSpec
from ..quantities import parse_quantity

QUEUED, RUNNING, CPU, MEMORY = "queued", "running", "cpu", "memory"
HOURS = "job_hours_per_month"
PLAIN = (QUEUED, RUNNING, CPU, MEMORY, HOURS)

TOTAL = "total"
"""The owner of the limits that all users share."""

_GROUP = "group:"

EPSILON = 1e-9
"""Tolerance for sums of fractions such as 0.1 CPU, which are not exact."""

Amounts = Mapping[str, float]


def read_limits(value: Any, *, without: Iterable[str] = ()) -> dict[str, float]:
    """Return the limits in an admin's setting, or raise ValueError with the problem.

    None means no limit, and becomes infinity, so that it is greater than any number. ``memory`` may have a
    unit of 1024.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a dict of limits, not {value!r}")
    return {name: _read_limit(name, amount, set(without)) for name, amount in value.items()}


def _read_limit(name: Any, amount: Any, without: set[str]) -> float:
    if not isinstance(name, str) or name in without or not (name in PLAIN or "/" in name):
        known = ", ".join(each for each in PLAIN if each not in without)
        raise ValueError(f"{name!r} cannot be limited; known: {known}, and resources like nvidia.com/gpu")
    if amount is None:
        return float("inf")
    if name == MEMORY and isinstance(amount, str):
        text = amount if amount[-1:] in "0123456789i" else f"{amount}i"
        return float(parse_quantity(text))
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not amount >= 0:
        raise ValueError(f"{name} must be a number of at least 0, or None for no limit, not {amount!r}")
    return float(amount)


def choose_limits(
    default: Amounts, by_group: Mapping[str, Amounts], groups: Iterable[str]
) -> dict[str, float]:
    """Return a user's limits: for each resource the most generous of the groups', else the default."""
    chosen: dict[str, float] = {}
    for group in groups:
        for name, amount in by_group.get(group, {}).items():
            chosen[name] = max(amount, chosen.get(name, 0.0))
    return {name: amount for name, amount in {**default, **chosen}.items() if amount != float("inf")}


def make_demand(spec: JobSpec) -> dict[str, float]:
    """Return the resources that a job takes while it runs: its limits, or else its guarantees."""
    demand: dict[str, float] = {RUNNING: 1.0}
    for name, limit, guarantee in (
        (CPU, spec.cpu_limit, spec.cpu_guarantee),
        (MEMORY, spec.mem_limit, spec.mem_guarantee),
    ):
        amount = limit if limit is not None else guarantee
        if amount is not None:
            demand[name] = float(amount)
    for name, text in {**spec.extra_resource_guarantees, **spec.extra_resource_limits}.items():
        demand[name] = float(parse_quantity(text))
    return demand


def make_group_owner(group: str) -> str:
    """Return the name of a group as an owner of limits; ``TOTAL`` and users are owners, too."""
    return f"{_GROUP}{group}"


def find_group(owner: str) -> str | None:
    """Return the group's name if the owner is a group, else None."""
    return owner.removeprefix(_GROUP) if owner.startswith(_GROUP) else None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one owner (a user, a group, all together) and their current usage."""

    owner: str
    """``user``, TOTAL, or the result of ``make_group_owner``."""
    limits: Amounts
    used: Amounts = field(default_factory=dict)

    def find_short(self, demand: Amounts) -> str | None:
        """Return the first resource that has too little left for ``demand``, or None."""
        for name, limit in self.limits.items():
            used = self.used.get(name, 0.0)
            if name == HOURS:
                if used >= limit - EPSILON:
                    return name
            elif name in demand and used + demand[name] > limit + EPSILON:
                return name
        return None

    def find_impossible(self, demand: Amounts) -> str | None:
        """Return the first resource whose whole limit is less than ``demand``, or None."""
        for name, limit in self.limits.items():
            amount = EPSILON * 2 if name == HOURS else demand.get(name, 0.0)
            if amount > limit + EPSILON:
                return name
        return None


@dataclass(frozen=True, slots=True)
class Wait:
    """Why the first of a user's queued jobs does not start: one word, and a sentence."""

    reason: str
    why: str
    owner: str = ""
    resource: str = ""
    """The resource that is short, and ``owner``, whose limit it is. Later jobs may not use a short shared
    resource."""

    def make_message(self, place: int | None, queued_before: int = 0) -> str:
        """Return the sentence for a job at this place of its user's queue (1 is the first).

        Without a place, it gives the minimum number of jobs ahead.
        """
        if place is None:
            return f"{self.why} More than {queued_before} of your queued jobs are ahead of this one."
        return f"{self.why} This job is {format_ordinal(place)} in your queue."


UNDECIDED = Wait("WaitingForTurn", "Waiting for the scheduler.")
LIMITS_UNKNOWN = Wait("LimitsUnknown", "Your limits cannot be read now. The service will try again.")


def make_wait(bounds: Bounds, resource: str, demand: Amounts) -> Wait:
    """Return why a job waits for a resource that its owner has too little left of."""
    if bounds.owner == TOTAL:
        limit = bounds.limits[resource]
        if resource == RUNNING:
            slots = (
                "The only job slot is" if limit == 1 else f"All {format_usage(resource, limit)} job slots are"
            )
            return Wait("WaitingForTurn", f"{slots} in use.", TOTAL, resource)
        why = f"All jobs share {describe(resource, limit)}, and not enough is left."
        return Wait("WaitingForTurn", why, TOTAL, resource)
    return Wait("QuotaExceeded", _explain(bounds, resource, demand), bounds.owner, resource)


def make_too_large_wait(bounds: Bounds, resource: str) -> Wait:
    """Return why a job waits that exceeds a shared limit, which was lowered since its submit.

    No resources are reserved for it, because it would block others forever.
    """
    of = "all jobs" if bounds.owner == TOTAL else f"the group {find_group(bounds.owner)!r}"
    what = describe(resource, bounds.limits[resource])
    return Wait("QuotaExceeded", f"The job requests more than {of} may use together: {what}.")


@lru_cache(maxsize=256)  # called for each waiting user, mostly with the same arguments
def make_turn_wait(owner: str, resource: str) -> Wait:
    """Return why a job waits for a resource that another user's job needs first."""
    of = "" if owner == TOTAL else f" of the group {find_group(owner)!r}"
    what = "job slots" if resource == RUNNING else describe(resource, 0)
    return Wait("WaitingForTurn", f"Waiting for {what}: users{of} with lower recent usage go first.")


def _explain(bounds: Bounds, resource: str, demand: Amounts) -> str:
    used, limit = bounds.used.get(resource, 0.0), bounds.limits[resource]
    group = find_group(bounds.owner)
    if resource == RUNNING and group is not None:
        return f"The group {group!r} has {used:g} of {limit:g} jobs running."
    if resource == RUNNING:
        return (
            f"You have {used:g} of {limit:g} jobs running."
            if limit != 1
            else "You may run one job at a time."
        )
    jobs = "Your jobs" if group is None else f"The jobs of the group {group!r}"
    if resource == HOURS:
        return f"{jobs} have used {used:.1f} of {limit:g} job-hours this month."
    has, needs = (format_usage(resource, amount) for amount in (used, demand[resource]))
    return f"{jobs} use {has} of {describe(resource, limit)}, and the next one requests {needs}."


def describe(resource: str, amount: float) -> str:
    """Return a resource in words, with its amount if it is not 0: ``16 CPUs``, ``64 GiB of memory``."""
    words = {CPU: "CPUs", MEMORY: "memory", RUNNING: "jobs", HOURS: "job-hours a month"}.get(
        resource, resource
    )
    if not amount:
        return words
    return f"{format_usage(resource, amount)}{' of' if resource == MEMORY else ''} {words}"


def format_usage(resource: str, amount: float) -> str:
    """Return a number in a readable form: memory in GiB or MiB, others as they are."""
    if resource != MEMORY:
        return f"{round(amount, 3):g}"
    return f"{amount / 2**30:.4g} GiB" if amount >= 2**30 else f"{amount / 2**20:.4g} MiB"


def format_ordinal(number: int) -> str:
    """Return ``1st``, ``2nd``, ``11th``."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
