"""The queued and running jobs in the leader's memory, and the choice of the next ones. No I/O."""

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
from ..store.queues import Claim, Head
from ..store.usage import Use

HOUR_SECONDS = 3600

MAX_CLAIMS, KEPT_CLAIMS = 200, 50
"""The maximum number of one user's jobs in memory, and how many stay when there are more."""


@dataclass(slots=True)
class UserQueue:
    """The queued jobs of one user: the first ones, and what determines their turn."""

    claims: list[Claim] = field(default_factory=list)
    is_whole: bool = False
    """Whether these are all queued jobs of the user."""
    is_stale: bool = True
    """Whether the scheduler must read it again before the next decision."""
    use: Use = field(default_factory=Use)
    limits: Mapping[str, float] | None = None
    """None if the user's limits cannot be read."""
    arrivals: list[Claim] | None = None
    """Jobs that arrive while the queue is being read, and may be missing in the result; None at other
    times."""

    def insert(self, claim: Claim) -> None:
        """Insert a job in order, unless it comes after all known ones and others are not in memory."""
        if self.arrivals is not None:
            self.arrivals.append(claim)
        if any(claim.id == each.id for each in self.claims):
            return
        at = bisect.bisect(self.claims, claim.order, key=lambda each: each.order)
        if at < len(self.claims) or self.is_whole:
            self.claims.insert(at, claim)
        if len(self.claims) > MAX_CLAIMS:
            del self.claims[KEPT_CLAIMS:]
            self.is_whole = False


@dataclass(slots=True)
class Decision:
    """A decision: the jobs to start, why each other user waits, and a user whose queue must be read first."""

    started: list[Claim] = field(default_factory=list)
    waits: dict[str, Wait] = field(default_factory=dict)
    unread: str | None = None
    is_full: bool = False
    """Whether the decision stopped because the maximum number of jobs was started."""


class Queues:
    """Adds up the running jobs by user, by group and in total, and selects the next ones from the queues.

    The order: the user with the lowest recent usage; of this user's jobs the one with the highest priority,
    then the oldest. A job that does not fit blocks the jobs behind it of the same user. If it does not fit
    into a shared limit, it also blocks other users' jobs that need the same resource: otherwise a large job
    would wait forever.
    """

    def __init__(self, accounting: Accounting) -> None:
        self.accounting = accounting
        self.group_totals: Mapping[str, Mapping[str, float]] = {}
        self.total_limits: Mapping[str, float] = {}
        self.group_seconds: dict[str, float] = {}
        """Seconds that ended jobs of each group with a limit ran this month."""
        self.by_user: dict[str, UserQueue] = {}
        self._clear()

    def _clear(self) -> None:
        self.running: dict[str, Claim] = {}
        self._of_user: defaultdict[str, dict[str, Claim]] = defaultdict(dict)
        self._of_group: defaultdict[str, dict[str, Claim]] = defaultdict(dict)
        self._sums: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def replace_running(self, claims: Iterable[Claim]) -> None:
        """Replace the set of running jobs."""
        self._clear()
        for claim in claims:
            self.start(claim)

    def start(self, claim: Claim) -> None:
        """Count a job as running."""
        if claim.id in self.running:
            return
        self.running[claim.id] = claim
        self._of_user[claim.user][claim.id] = claim
        for owner in self._owners(claim):
            self._sums[owner].update(claim.demand)
            if find_group(owner) is not None:
                self._of_group[owner][claim.id] = claim

    def stop(self, job_id: str) -> Claim | None:
        """Stop counting a job as running; return it if it was running."""
        claim = self.running.pop(job_id, None)
        if claim is None:
            return None
        _remove(self._of_user, claim.user, job_id)
        for owner in self._owners(claim):
            _remove(self._of_group, owner, job_id)
            self._sums[owner].subtract(claim.demand)
            if not self._sums[owner][RUNNING]:
                del self._sums[owner]  # also removes the rounding errors of the sums
        return claim

    def _owners(self, claim: Claim) -> Iterator[str]:
        yield f"user:{claim.user}"
        for group in dict.fromkeys(claim.groups):
            if group in self.group_totals:
                yield make_group_owner(group)
        if not claim.is_handed_over:
            yield TOTAL

    def get_queue(self, user: str) -> UserQueue:
        """Return the queue of a user, a new one if necessary."""
        return self.by_user.setdefault(user, UserQueue())

    def begin_reading(self, user: str) -> None:
        """Collect the jobs that arrive from now on, until ``fill``."""
        queue = self.get_queue(user)
        queue.is_stale, queue.arrivals = False, []

    def fill(
        self, user: str, head: Head, limits: Mapping[str, float] | None, *, without: Collection[str] = ()
    ) -> None:
        """Set a user's queue to what was read, without jobs that were started, or left, since."""
        queue = self.get_queue(user)
        arrivals, queue.arrivals = queue.arrivals or [], None
        queue.claims = [claim for claim in head.claims if self._is_waiting(claim, without)]
        queue.is_whole, queue.use, queue.limits = head.is_whole, head.use, limits
        for claim in arrivals:
            if self._is_waiting(claim, without):
                queue.insert(claim)
        if not queue.claims and queue.is_whole and not queue.is_stale:
            del self.by_user[user]

    def _is_waiting(self, claim: Claim, left: Collection[str]) -> bool:
        return claim.id not in self.running and claim.id not in left

    def drop(self, job_id: str, user: str, *, has_run: bool) -> bool:
        """Remove a job from its user's queue, and return whether it was in it.

        If the job has run, the queue becomes stale: its usage is in the record now.
        """
        queue = self.by_user.get(user)
        if queue is None:
            return False
        count = len(queue.claims)
        queue.claims = [claim for claim in queue.claims if claim.id != job_id]
        is_known = len(queue.claims) < count
        queue.is_stale |= is_known or has_run
        return is_known

    def choose(self, now: datetime, *, most: int) -> Decision:
        """Start at most ``most`` jobs whose turn it is; return them, and why the other users wait."""
        decision = Decision()
        heap = [self._rank(user, queue, now) for user, queue in self.by_user.items() if queue.claims]
        heapq.heapify(heap)
        taken: set[tuple[str, str]] = set()
        while heap:
            _, _, user = heapq.heappop(heap)
            queue = self.by_user[user]
            wait = self._find_wait(user, queue, taken, now)
            if wait is not None:
                decision.waits[user] = wait
                if wait.owner not in ("", "user"):
                    taken.add((wait.owner, wait.resource))
                continue
            if len(decision.started) == most:
                decision.is_full = True
                break
            claim = queue.claims.pop(0)
            self.start(claim)
            decision.started.append(claim)
            if queue.claims:
                heapq.heappush(heap, self._rank(user, queue, now))
            elif not queue.is_whole:
                decision.unread = user
                break
            else:
                del self.by_user[user]
        return decision

    def _rank(self, user: str, queue: UserQueue, now: datetime) -> tuple[float, int, str]:
        return self.get_use(user, queue.use, now), queue.claims[0].seq, user

    def get_use(self, user: str, use: Use, now: datetime) -> float:
        """Return a user's recent usage, including running jobs."""
        accounting = self.accounting
        amount = 0.0
        if use.as_of is not None:
            amount = accounting.decay(use.amount, (now - use.as_of).total_seconds())
        for claim in self._of_user.get(user, {}).values():
            rate = accounting.get_rate(claim.demand)
            least = rate * LEAST_SECONDS
            start = claim.started_at
            amount += (
                least if start is None else max(least, accounting.charge(rate, start=start, end=now, now=now))
            )
        return amount

    def _find_wait(
        self, user: str, queue: UserQueue, taken: set[tuple[str, str]], now: datetime
    ) -> Wait | None:
        claim = queue.claims[0]
        for owner, resource in taken:
            if claim.demand.get(resource) and owner in self._owners(claim):
                return make_turn_wait(owner, resource)
        if queue.limits is None:
            return LIMITS_UNKNOWN
        for owner in self._owners(claim):
            bounds = self._make_bounds(user, queue, owner, now)
            short = bounds.find_short(claim.demand)
            if short is None:
                continue
            too_large = None if owner.startswith("user:") else bounds.find_impossible(claim.demand)
            if too_large is not None:
                return make_too_large_wait(bounds, too_large)
            return make_wait(bounds, short, claim.demand)
        return None

    def _make_bounds(self, user: str, queue: UserQueue, owner: str, now: datetime) -> Bounds:
        used: Mapping[str, float] = self._sums.get(owner, {})
        if owner == TOTAL:
            return Bounds(TOTAL, self.total_limits, used)
        group = find_group(owner)
        if group is None:
            limits, seconds, claims = queue.limits or {}, queue.use.month_seconds, self._of_user.get(user, {})
            owner = "user"
        else:
            limits, seconds = self.group_totals[group], self.group_seconds.get(group, 0.0)
            claims = self._of_group.get(owner, {})
        if HOURS in limits:
            seconds += sum(count_in_month(claim.started_at, now) for claim in claims.values())
            used = {**used, HOURS: seconds / HOUR_SECONDS}
        return Bounds(owner, limits, used)


def _remove(by_owner: dict[str, dict[str, Claim]], owner: str, job_id: str) -> None:
    """Remove a job from its owner's, and the owner when it has no other."""
    claims = by_owner.get(owner)
    if claims is not None:
        claims.pop(job_id, None)
        if not claims:
            del by_owner[owner]
