"""Who holds the connections: known users and their jobs have places that strangers cannot take from them."""

from __future__ import annotations

from collections.abc import Callable

from tornado.iostream import IOStream

from ..metrics import CONNECTIONS_CLOSED

FILES_FOR_OTHERS = 256
"""Open files for other things than connections: the database, the storage, Kubernetes, the logs of jobs."""

Streams = dict[IOStream, None]
"""Connections, those that have been so for longest first."""


class Connections:
    """The open connections, by who is at their other end as far as that is known.

    A connection is a *stranger's* until a request on it shows whose it is, by a token that the hub knows or
    by a signed link that is good: while its head is awaited, and while a request is answered without a user
    or refused. Then it is a *user's*, and after that request it is *kept* for the next one. Where there is no
    place for another, the one that has been a stranger's for longest is closed for it, then the one that was
    kept for longest; never one that answers a user.
    """

    def __init__(self, *, most: int, reserved: int = 0) -> None:
        """Take how many there may be, and how many of those places, up to half, strangers do not get."""
        self.most = most
        self._reserved = reserved
        self._strangers: Streams = {}
        self._kept: Streams = {}
        self._users: Streams = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._kept) + len(self._users)

    def count(self) -> dict[str, int]:
        """Return how many there are: by ``stranger``, ``user`` and ``kept``."""
        return {"stranger": len(self._strangers), "user": len(self._users), "kept": len(self._kept)}

    def add(self, stream: IOStream) -> bool:
        """Take note of a new connection, for which another may be closed; return whether it has a place."""
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
        """Forget a connection that has ended."""
        for streams in (self._strangers, self._kept, self._users):
            streams.pop(stream, None)

    def begin(self, stream: IOStream) -> None:
        """Note a request whose user is not known yet, or not any more: it is refused."""
        self._move(stream, self._strangers)

    def know(self, stream: IOStream) -> None:
        """Note that the request under way is of a known user, or of a job of theirs."""
        self._move(stream, self._users)

    def end(self, stream: IOStream) -> None:
        """Note that a request was answered."""
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
    """Return how many connections there may be with so many open files, and warn where those are fewer."""
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
