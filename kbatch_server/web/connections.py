"""Counts the open connections, and reserves some for known users and their jobs."""

from __future__ import annotations

from collections.abc import Callable

from tornado.iostream import IOStream

from ..metrics import CONNECTIONS_CLOSED

FILES_FOR_OTHERS = 256
"""Open files for everything except connections: the database, the storage, Kubernetes, the logs of jobs."""

Streams = dict[IOStream, None]
"""Connections of one kind, the oldest of that kind first."""


class Connections:
    """The open connections, by kind: of a stranger, of a user, or kept for a user's next request.

    A connection is a *stranger's* until a request on it identifies a user, by a token that the hub knows or
    by a valid signed link. This includes the time in which the service waits for the request's header, or
    answers a request without a user, or one that it rejects. From then on the connection is a *user's*, and
    after that request it is *kept* for the next one. When all connections are in use, a new one replaces the
    one that has been a stranger's for longest, or else the one that has been kept for longest; never one with
    a user's request.
    """

    def __init__(self, *, most: int, reserved: int = 0) -> None:
        """Take the maximum number, and how many of these connections (half at most) strangers cannot have."""
        self.most = most
        self._reserved = reserved
        self._strangers: Streams = {}
        self._kept: Streams = {}
        self._users: Streams = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._kept) + len(self._users)

    def count(self) -> dict[str, int]:
        """Return the number of connections of each kind: ``stranger``, ``user`` and ``kept``."""
        return {"stranger": len(self._strangers), "user": len(self._users), "kept": len(self._kept)}

    def add(self, stream: IOStream) -> bool:
        """Add a new connection, if necessary in place of another; return False if that was not possible."""
        is_full = len(self) >= self.most
        most_strangers = self.most - min(self._reserved, self.most // 2)
        if self._strangers and (is_full or len(self._strangers) >= most_strangers):
            self._close_oldest(self._strangers)
        elif is_full and self._kept:
            self._close_oldest(self._kept)
        if len(self) >= self.most:
            CONNECTIONS_CLOSED.labels("new").inc()
            return False
        self._strangers[stream] = None
        return True

    def remove(self, stream: IOStream) -> None:
        """Forget a connection that was closed."""
        for streams in (self._strangers, self._kept, self._users):
            streams.pop(stream, None)

    def begin(self, stream: IOStream) -> None:
        """Mark a connection as a stranger's: its request has no known user (yet), or was rejected."""
        self._move(stream, self._strangers)

    def know(self, stream: IOStream) -> None:
        """Mark a connection as a user's: its request is of a known user, or of a user's job."""
        self._move(stream, self._users)

    def end(self, stream: IOStream) -> None:
        """Mark a user's connection as kept: its request was answered."""
        if stream in self._users:
            self._move(stream, self._kept)

    def _move(self, stream: IOStream, streams: Streams) -> None:
        if stream in self._strangers or stream in self._kept or stream in self._users:
            self.remove(stream)
            streams[stream] = None

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
        "only %d connections, not Throttle.max_connections = %d: a process may have %d open files here"
        " (ulimit -n, LimitNOFILE=)",
        most,
        wanted,
        files,
    )
    return most
