"""The usage of users and groups: recorded once, in the transaction that ends a job, and never deleted with
jobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, text, update

from ..limits.fairshare import Accounting, get_month, split_months
from ..limits.rules import make_demand
from ..models.job import Job
from ..models.times import utcnow
from .database.database import Database
from .tables import monthly_use, recent_use

# as text: both databases accept this, but SQLAlchemy has a separate construct for each
_ADD_MONTHLY = text(
    "INSERT INTO monthly_use (kind, name, month, seconds) VALUES (:kind, :name, :month, :seconds)"
    " ON CONFLICT (kind, name, month) DO UPDATE SET seconds = monthly_use.seconds + excluded.seconds"
)
_SELECT_RECENT = select(recent_use.c.amount, recent_use.c.as_of).where(
    recent_use.c.user == bindparam("of_user")
)
_UPDATE_RECENT = update(recent_use).where(recent_use.c.user == bindparam("of_user"))
_SELECT_USES = select(recent_use).where(recent_use.c.user.in_(bindparam("users", expanding=True)))
_SELECT_MONTH = select(monthly_use.c.name, monthly_use.c.seconds).where(
    monthly_use.c.kind == bindparam("kind"),
    monthly_use.c.name.in_(bindparam("names", expanding=True)),
    monthly_use.c.month == bindparam("month"),
)


@dataclass(frozen=True, slots=True)
class Use:
    """A user's recent usage, which decays after ``as_of``, and the seconds that jobs ran in a month."""

    amount: float = 0.0
    as_of: datetime | None = None
    month_seconds: float = 0.0


class UsageStore:
    """The rows of usage, by user and group."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.accounting = Accounting()

    async def find(self, users: Iterable[str], *, now: datetime) -> dict[str, Use]:
        """Return each user's usage by ended jobs, with the seconds of this month."""
        names = list(users)
        return await self._database.read(lambda connection: find_uses(connection, names, now))

    async def find_group_seconds(self, groups: Iterable[str], *, now: datetime) -> dict[str, float]:
        """Return the seconds of this month that ended jobs of the groups ran."""
        values = {"kind": "group", "names": list(groups), "month": get_month(now)}
        return await self._database.read(
            lambda connection: {row.name: row.seconds for row in connection.execute(_SELECT_MONTH, values)}
        )

    def charge(self, connection: Connection, job: Job, end: datetime) -> None:
        """Count a job that has ended, or was removed while it ran, in the transaction that records this."""
        if job.is_forgotten or job.started_at is None or end <= job.started_at:
            return
        rate = self.accounting.get_rate(make_demand(job.spec))
        self._charge_recent(connection, job.user, rate, job.started_at, end)
        owners = [("user", job.user), *(("group", group) for group in sorted(set(job.groups)))]
        rows = [
            {"kind": kind, "name": name, "month": month, "seconds": seconds}
            for kind, name in owners
            for month, seconds in split_months(job.started_at, end).items()
        ]
        connection.execute(_ADD_MONTHLY, rows)

    def _charge_recent(
        self, connection: Connection, user: str, rate: float, start: datetime, end: datetime
    ) -> None:
        now = utcnow()
        amount = self.accounting.charge(rate, start=start, end=end, now=now)
        found = connection.execute(_SELECT_RECENT.with_for_update(), {"of_user": user}).first()
        if found is None:
            # if another process has just done the same, this raises, and the caller ends the job again
            connection.execute(insert(recent_use), {"user": user, "amount": amount, "as_of": now})
            return
        amount += self.accounting.decay(found.amount, (now - found.as_of).total_seconds())
        connection.execute(_UPDATE_RECENT, {"of_user": user, "amount": amount, "as_of": now})


def find_uses(connection: Connection, users: list[str], now: datetime) -> dict[str, Use]:
    """Return the usage of each user."""
    recent = {row.user: row for row in connection.execute(_SELECT_USES, {"users": users})}
    values = {"kind": "user", "names": users, "month": get_month(now)}
    months = {row.name: row.seconds for row in connection.execute(_SELECT_MONTH, values)}
    return {
        user: Use(
            recent[user].amount if user in recent else 0.0,
            recent[user].as_of if user in recent else None,
            months.get(user, 0.0),
        )
        for user in users
    }
