"""Counts the open connections, and reserves some for known users and their jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tornado.iostream import IOStream

from ..errors import TooManyRequests, Unavailable
from ..metrics import CONNECTIONS_CLOSED, LIMITS_HELD

FILES_FOR_OTHERS = 256
"""Open files for everything except connections: the database, the storage, Kubernetes, the logs of jobs."""

SPARE = 32
"""Connections beyond the maximum, for strangers only: probes get an answer, and users get an error."""

RETRY_AFTER_SECONDS = 5

Streams = dict[IOStream, str]
"""Connections of one kind with their users, the oldest of that kind first."""


class Connections:
    """The open connections, by kind: of a stranger, of a user, or kept for a user's next request.

    A connection is a *stranger's* until a request on it identifies a user, by a token that the hub knows or
    by a valid signed link. This includes the time in which the service waits for the request's header, or
    answers a request without a user, or one that it rejects. From then on the connection is a *user's*, and
    after that request it is *kept* for the next one. When all connections are in use, a new one replaces the
    one that has been a stranger's for longest, or the one that has been kept for longest; never one with a
    user's request. One user can have only a part of the connections; and even if users have all of them,
    there are some more for strangers.
    """

    def __init__(self, *, most: int, reserved: int = 0, per_user: int | None = None) -> None:
        """Take the maximum number, and how many of these connections (half at most) strangers cannot have.

        ``per_user`` is the maximum number with requests of one user; never more than a quarter of all.
        """
        self.most = most
        self._reserved = reserved
        self._per_user = per_user
        self._strangers: Streams = {}
        self._kept: Streams = {}
        self._users: Streams = {}
        self._count_by_user: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._kept) + len(self._users)

    @property
    def most_per_user(self) -> int:
        """The maximum number of connections with requests of one user."""
        part = max(self.most // 4, 1)
        return part if self._per_user is None else min(self._per_user, part)

    def count(self) -> dict[str, int]:
        """Return the number of connections of each kind: ``stranger``, ``user`` and ``kept``."""
        return {"stranger": len(self._strangers), "user": len(self._users), "kept": len(self._kept)}

    def add(self, stream: IOStream) -> None:
        """Add a new connection, if necessary in place of another."""
        most_strangers = self.most - min(self._reserved, self.most // 2)
        if len(self._strangers) >= most_strangers:
            self._close_oldest(self._strangers)
        elif len(self) >= self.most:
            if len(self._strangers) >= SPARE:
                self._close_oldest(self._strangers)
            elif self._kept:
                self._close_oldest(self._kept)
        self._strangers[stream] = ""

    def remove(self, stream: IOStream) -> None:
        """Forget a connection that was closed."""
        self._strangers.pop(stream, None)
        self._kept.pop(stream, None)
        user = self._users.pop(stream, None)
        if user is not None:
            self._count_by_user[user] -= 1
            if not self._count_by_user[user]:
                del self._count_by_user[user]

    def begin(self, stream: IOStream) -> None:
        """Mark a connection as a stranger's: its request has no known user (yet), or was rejected."""
        if stream in self:
            self.remove(stream)
            self._strangers[stream] = ""

    def know(self, stream: IOStream, user: str) -> None:
        """Mark a connection as a user's: its request is of a known user, or of a user's job.

        Raises TooManyRequests (at the user's limit) or Unavailable (at that of all): then the connection
        stays a stranger's, so that a new one may replace it.
        """
        if self._users.get(stream) == user or stream not in self:
            return
        if self._count_by_user[user] >= self.most_per_user:
            LIMITS_HELD.labels("max_connections_per_user").inc()
            raise TooManyRequests(
                f"You and your jobs already have {self.most_per_user} connections, which is the limit. Wait "
                "for a response.",
                details={"limit": self.most_per_user},
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if len(self._users) >= self.most:
            LIMITS_HELD.labels("max_connections").inc()
            raise Unavailable(
                "The service has too many connections. Try again in a moment.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self.remove(stream)
        self._users[stream] = user
        self._count_by_user[user] += 1

    def end(self, stream: IOStream) -> None:
        """Mark a user's connection as kept: its request was answered."""
        user = self._users.get(stream)
        if user is not None:
            self.remove(stream)
            self._kept[stream] = user

    def __contains__(self, stream: IOStream) -> bool:
        return stream in self._strangers or stream in self._kept or stream in self._users

    def _close_oldest(self, streams: Streams) -> None:
        oldest = next(iter(streams))
        del streams[oldest]
        CONNECTIONS_CLOSED.labels("kept" if streams is self._kept else "stranger").inc()
        oldest.close()


def limit_connections(wanted: int, files: int, warn: Callable[..., None]) -> int:
    """Return how many connections a limit of open files allows, and warn if it is less than ``wanted``."""
    most = max(files - FILES_FOR_OTHERS, 1)
    if most >= wanted:
        return wanted
    warn(
        "allowing %d connections, not Throttle.max_connections = %d: this process may open only %d files "
        "(ulimit -n, LimitNOFILE=)",
        most,
        wanted,
        files,
    )
    return most
