"""Who waits and what runs, as the process that leads has it in memory, and whose turn is next. No I/O."""

from __future__ import annotations

import bisect
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ..limits.fairshare import LEAST_SECONDS, Accounting, count_in_month
from ..limits.rules import (
    HOURS,
    LIMITS_UNKNOWN,
    RUNNING,
    TOTAL,
    Bounds,
    Wait,
    find_group,
    make_group_owner,
    make_too_large_wait,
    make_turn_wait,
    make_wait,
)
from ..store.queues import Head, Share
from ..store.usage import Use

HOUR_SECONDS = 3600

MAX_SHARES, KEPT_SHARES = 200, 50
"""Jobs of one user that are in memory, and how many stay when there are more: others can be read again."""


@dataclass(slots=True)
class Line:
    """The jobs of one user that wait: the first of them, and what decides when their turn is."""

    shares: list[Share] = field(default_factory=list)
    is_whole: bool = False
    """Whether no others wait but these."""
    is_stale: bool = True
    """Whether it must be read again before it is decided on."""
    use: Use = field(default_factory=Use)
    limits: Mapping[str, float] | None = None
    """None where they cannot be found out."""
    arrivals: list[Share] | None = None
    """While it is read, the jobs that came in meanwhile, which may not be among what is read."""

    def insert(self, share: Share) -> None:
        """Put a job into its place, unless it comes after those that are known."""
        if self.arrivals is not None:
            self.arrivals.append(share)
        if any(share.id == each.id for each in self.shares):
            return
        at = bisect.bisect(self.shares, share.order, key=lambda each: each.order)
        if at < len(self.shares) or self.is_whole:
            self.shares.insert(at, share)
        if len(self.shares) > MAX_SHARES:
            del self.shares[KEPT_SHARES:]
            self.is_whole = False


@dataclass(slots=True)
class Decision:
    """What was decided: who starts, why each other user waits, and whose line must be read first."""

    started: list[Share] = field(default_factory=list)
    waits: dict[str, Wait] = field(default_factory=dict)
    unread: str | None = None
    is_full: bool = False
    """Whether it ended because as many were started as are started at once."""


class Lines:
    """Adds up what runs, by user, by group and in all, and chooses from the lines of those who wait.

    The order: the user who has used the least lately, and of his jobs that with the highest priority, then
    the oldest. A job that does not fit holds up those of the same user. One that does not fit into what
    several share holds up, of the others, those that need the same: else a large job would wait for ever.
    """

    def __init__(self, accounting: Accounting) -> None:
        self.accounting = accounting
        self.group_totals: Mapping[str, Mapping[str, float]] = {}
        self.total_limits: Mapping[str, float] = {}
        self.group_seconds: dict[str, float] = {}
        """For how long jobs of each group that has a limit ran in this month, as far as they are over."""
        self.lines: dict[str, Line] = {}
        self._clear()

    def _clear(self) -> None:
        self.running: dict[str, Share] = {}
        self._of_user: defaultdict[str, dict[str, Share]] = defaultdict(dict)
        self._of_group: defaultdict[str, dict[str, Share]] = defaultdict(dict)
        self._sums: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def replace_running(self, shares: Iterable[Share]) -> None:
        """Take these for all that runs."""
        self._clear()
        for share in shares:
            self.start(share)

    def start(self, share: Share) -> None:
        """Count a job as running."""
        if share.id in self.running:
            return
        self.running[share.id] = share
        self._of_user[share.user][share.id] = share
        for owner in self._owners(share):
            self._sums[owner].update(share.demand)
            if find_group(owner) is not None:
                self._of_group[owner][share.id] = share

    def stop(self, job_id: str) -> Share | None:
        """Count it no more, and return it if it was."""
        share = self.running.pop(job_id, None)
        if share is None:
            return None
        _remove(self._of_user, share.user, job_id)
        for owner in self._owners(share):
            _remove(self._of_group, owner, job_id)
            self._sums[owner].subtract(share.demand)
            if not self._sums[owner][RUNNING]:
                del self._sums[owner]  # and with it what is left of sums that are not exact
        return share

    def _owners(self, share: Share) -> Iterator[str]:
        yield f"user:{share.user}"
        for group in dict.fromkeys(share.groups):
            if group in self.group_totals:
                yield make_group_owner(group)
        if not share.is_handed_over:
            yield TOTAL

    def get_line(self, user: str) -> Line:
        """Return the line of a user, a new one where there is none."""
        return self.lines.setdefault(user, Line())

    def begin_reading(self, user: str) -> None:
        """Note what comes in from now on, until ``fill``."""
        line = self.get_line(user)
        line.is_stale, line.arrivals = False, []

    def fill(
        self, user: str, head: Head, limits: Mapping[str, float] | None, *, without: Collection[str] = ()
    ) -> None:
        """Take what was read of a user, without what has been let go, or has left, since."""
        line = self.get_line(user)
        arrivals, line.arrivals = line.arrivals or [], None
        line.shares = [share for share in head.shares if self._is_waiting(share, without)]
        line.is_whole, line.use, line.limits = head.is_whole, head.use, limits
        for share in arrivals:
            if self._is_waiting(share, without):
                line.insert(share)
        if not line.shares and line.is_whole and not line.is_stale:
            del self.lines[user]

    def _is_waiting(self, share: Share, left: Collection[str]) -> bool:
        return share.id not in self.running and share.id not in left

    def drop(self, job_id: str, user: str, *, has_run: bool) -> bool:
        """Take a job out of its user's line, and return whether it was there.

        The line of one that has run is to be read again: what it used is on record now.
        """
        line = self.lines.get(user)
        if line is None:
            return False
        count = len(line.shares)
        line.shares = [share for share in line.shares if share.id != job_id]
        is_known = len(line.shares) < count
        line.is_stale |= is_known or has_run
        return is_known

    def choose(self, now: datetime, *, most: int) -> Decision:
        """Start those whose turn it is, at most ``most``, and return who they are and why others wait."""
        decision = Decision()
        heap = [self._rank(user, line, now) for user, line in self.lines.items() if line.shares]
        heapq.heapify(heap)
        taken: set[tuple[str, str]] = set()
        while heap:
            _, _, user = heapq.heappop(heap)
            line = self.lines[user]
            wait = self._find_wait(user, line, taken, now)
            if wait is not None:
                decision.waits[user] = wait
                if wait.owner not in ("", "user"):
                    taken.add((wait.owner, wait.resource))
                continue
            if len(decision.started) == most:
                decision.is_full = True
                break
            share = line.shares.pop(0)
            self.start(share)
            decision.started.append(share)
            if line.shares:
                heapq.heappush(heap, self._rank(user, line, now))
            elif not line.is_whole:
                decision.unread = user
                break
            else:
                del self.lines[user]
        return decision

    def _rank(self, user: str, line: Line, now: datetime) -> tuple[float, int, str]:
        return self.get_use(user, line.use, now), line.shares[0].seq, user

    def get_use(self, user: str, use: Use, now: datetime) -> float:
        """Return what a user has used lately, with what of it runs now."""
        accounting = self.accounting
        amount = 0.0
        if use.as_of is not None:
            amount = accounting.decay(use.amount, (now - use.as_of).total_seconds())
        for share in self._of_user.get(user, {}).values():
            rate = accounting.get_rate(share.demand)
            least = rate * LEAST_SECONDS
            start = share.started_at
            amount += (
                least if start is None else max(least, accounting.charge(rate, start=start, end=now, now=now))
            )
        return amount

    def _find_wait(self, user: str, line: Line, taken: set[tuple[str, str]], now: datetime) -> Wait | None:
        share = line.shares[0]
        for owner, resource in taken:
            if share.demand.get(resource) and owner in self._owners(share):
                return make_turn_wait(owner, resource)
        if line.limits is None:
            return LIMITS_UNKNOWN
        for owner in self._owners(share):
            bounds = self._make_bounds(user, line, owner, now)
            short = bounds.find_short(share.demand)
            if short is None:
                continue
            too_large = None if owner.startswith("user:") else bounds.find_impossible(share.demand)
            if too_large is not None:
                return make_too_large_wait(bounds, too_large)
            return make_wait(bounds, short, share.demand)
        return None

    def _make_bounds(self, user: str, line: Line, owner: str, now: datetime) -> Bounds:
        used: Mapping[str, float] = self._sums.get(owner, {})
        if owner == TOTAL:
            return Bounds(TOTAL, self.total_limits, used)
        group = find_group(owner)
        if group is None:
            limits, seconds, shares = line.limits or {}, line.use.month_seconds, self._of_user.get(user, {})
            owner = "user"
        else:
            limits, seconds = self.group_totals[group], self.group_seconds.get(group, 0.0)
            shares = self._of_group.get(owner, {})
        if HOURS in limits:
            seconds += sum(count_in_month(share.started_at, now) for share in shares.values())
            used = {**used, HOURS: seconds / HOUR_SECONDS}
        return Bounds(owner, limits, used)


def _remove(by_owner: dict[str, dict[str, Share]], owner: str, job_id: str) -> None:
    """Take a job out of those of an owner, and the owner out where it was the last."""
    shares = by_owner.get(owner)
    if shares is not None:
        shares.pop(job_id, None)
        if not shares:
            del by_owner[owner]
