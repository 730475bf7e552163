"""Computes recent usage, and usage by month: sums over the running times of jobs. Pure.

A job has a rate, the sum of its resources multiplied by their weights, and each second adds its rate. A
charge loses half of its weight in each half-life ``H``, as in Slurm's multifactor priority
(``PriorityDecayHalfLife``, https://slurm.schedmd.com/priority_multifactor.html): a job that ran from ``a`` to
``b`` now counts ``rate * H / ln 2 * (2**((b - now) / H) - 2**((a - now) / H))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .rules import Amounts

LEAST_SECONDS = 60
"""A running job counts for at least this time; otherwise the first user would get all free job slots."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """The rules for counting usage."""

    half_life_seconds: float = 7 * 86400.0
    weights: Mapping[str, float] = field(default_factory=lambda: {"running": 1.0})

    def get_rate(self, demand: Amounts) -> float:
        """Return the charge per second of a job with these resources."""
        return sum(weight * demand.get(name, 0.0) for name, weight in self.weights.items())

    def decay(self, use: float, seconds: float) -> float:
        """Return the remaining weight of a charge after some seconds."""
        return use * math.exp2(-max(0.0, seconds) / self.half_life_seconds)

    def charge(self, rate: float, *, start: datetime, end: datetime, now: datetime) -> float:
        """Return the current charge of a job that ran, or has been running, from ``start`` to ``end``."""
        began = max(0.0, (now - start).total_seconds())
        ended = min(began, max(0.0, (now - end).total_seconds()))
        half_life = self.half_life_seconds
        # expm1: the difference of two numbers close to 1 would lose precision for a short job
        share = -math.expm1(-(began - ended) / half_life * math.log(2))
        return rate * half_life / math.log(2) * share * math.exp2(-ended / half_life)


def get_month(moment: datetime) -> str:
    """Return the month of a moment in UTC, like ``2026-11``."""
    return moment.astimezone(UTC).strftime("%Y-%m")


def get_next_month(moment: datetime) -> datetime:
    """Return the beginning of the month after that of a moment, in UTC."""
    at = moment.astimezone(UTC)
    year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return datetime(year, month, 1, tzinfo=UTC)


def get_month_end(month: str) -> datetime:
    """Return the end of a month like ``2026-11``, in UTC."""
    return get_next_month(datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC))


def split_months(start: datetime, end: datetime) -> dict[str, float]:
    """Return the seconds between two moments by month."""
    seconds: dict[str, float] = {}
    while start < end:
        until = min(end, get_next_month(start))
        seconds[get_month(start)] = (until - start).total_seconds()
        start = until
    return seconds


def count_in_month(start: datetime | None, now: datetime) -> float:
    """Return the seconds of this month that a job which began at ``start`` has been running."""
    return 0.0 if start is None else split_months(start, now).get(get_month(now), 0.0)
