"""How many requests, streams and connections there may be at a time, and how often a user may submit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any

from traitlets import Float, Integer
from traitlets.config import LoggingConfigurable

from ..errors import TooManyRequests
from ..metrics import LIMITS_HELD
from ..models.user import User
from ..ratelimit import BytesBudget, ConcurrencyLimit, FairLimit, RateLimit
from .connections import Connections

FETCH_WAIT_SECONDS = 600
"""How long a job waits for its turn to fetch its code: its init container takes some minutes longer."""

SEND_WAIT_SECONDS = 5
"""How long one waits that sends results: after ten seconds its sidecar sends them unasked, and a refused one
comes again."""


class Throttle(LoggingConfigurable):
    """Keeps one client from taking what all need. Each replica counts by itself."""

    submits_per_minute = Float(
        1200,
        min=0,
        help="""Jobs that a user may submit in a minute, on average; one more is answered with 429. 0: any
        number.""",
        config=True,
    )

    submit_burst = Integer(
        5000,
        min=1,
        help="""Jobs that a user may submit at once who has not for a while, with ``submits_per_minute``.""",
        config=True,
    )

    uploads_per_minute = Float(
        0,
        min=0,
        help="""ZIPs that a user may send in a minute, on average, as ``submits_per_minute``. Default: any
        number.""",
        config=True,
    )

    upload_burst = Integer(
        50, min=1, help="""ZIPs that a user may send at once, as ``submit_burst``.""", config=True
    )

    concurrent_requests_per_user = Integer(
        300,
        min=1,
        help="""The most requests of one user in progress at the same time, streams included; one more is
        answered with 429.
        """,
        config=True,
    )

    concurrent_requests = Integer(
        3000,
        min=1,
        help="""The most requests of all users in progress at the same time; one more is answered with
        503.""",
        config=True,
    )

    concurrent_streams_per_user = Integer(
        200,
        min=1,
        help="""The most logs that one user may follow at the same time; one more is answered with 429.""",
        config=True,
    )

    concurrent_streams = Integer(
        2000,
        min=1,
        help="""The most logs that all users may follow at the same time; one more is answered with 503.""",
        config=True,
    )

    concurrent_costly_reads_per_user = Integer(
        4,
        min=1,
        help="""Reads of one user that cost much more than others, at the same time: lists and ZIPs of
        results, searches of a log, searches of jobs by a part of the name or a tag, pages of more than a
        hundred jobs, sums over jobs, a job's events, the lists of the kbatch command, the audit record as a
        stream; one more is answered with 429. Each is a request, too.""",
        config=True,
    )

    concurrent_costly_reads = Integer(
        100,
        min=1,
        help="""The most such reads of all users at the same time; one more is answered with 503.""",
        config=True,
    )

    concurrent_downloads_per_user = Integer(
        16,
        min=1,
        help="""Results and logs that one user may read at the same time, whole; one more is answered with
        429. A request for the headers of a result (HEAD) counts, too.""",
        config=True,
    )

    concurrent_downloads = Integer(
        64,
        min=1,
        help="""Results and logs that all users may read at the same time; one more is answered with 503. Of
        each, up to four megabytes are in memory while its reader takes them.""",
        config=True,
    )

    concurrent_fetches = Integer(
        32,
        min=1,
        help="""Jobs that may fetch their code at the same time, a quarter of them those of one user; the
        others wait. Of each, up to four megabytes are in memory.""",
        config=True,
    )

    concurrent_sends = Integer(
        16,
        min=1,
        help="""Jobs that may send their results at the same time, a quarter of them those of one user; the
        others are told to come again. Each needs a few megabytes of memory, up to 16 with some storages.""",
        config=True,
    )

    max_body_bytes_in_memory = Integer(
        128 * 1024**2,
        min=2**20,
        help="""Bytes of all bodies of requests (JSON) that are in memory at the same time; more is answered
        with 503. Uploads and results are not in memory: those are passed on as they come.""",
        config=True,
    )

    max_body_bytes_in_memory_per_user = Integer(
        64 * 1024**2,
        min=2**20,
        help="""The same of one user's; more is answered with 429. A request of the kbatch command with code
        in it may have three times ``KBatchServer.max_body_bytes``, and must fit.""",
        config=True,
    )

    max_unread_bytes = Integer(
        256 * 1024**2,
        min=2**20,
        help="""Bytes of whole answers (lists) that are in memory at the same time because their clients have
        not read them yet; one more is answered with 503. A client that takes more than five minutes for one
        is cut off. Results and logs are not in memory: they are read as their clients take them.""",
        config=True,
    )

    max_unread_bytes_per_user = Integer(
        64 * 1024**2,
        min=2**20,
        help="""The same of one user's; one more is answered with 429. All clients that nobody is known of
        count as one user.""",
        config=True,
    )

    body_seconds = Float(
        20,
        min=0.1,
        help="""Seconds in which the body of a request (JSON) must have come, with a second more for each 8
        KiB of it; a client that is slower is answered with 408.""",
        config=True,
    )

    max_connections = Integer(
        5000,
        min=1,
        help="""Connections that may be open at the same time, of whomever. Each is a file: the service raises
        its own limit of open files as far as it may. Where there is no place for another, the one on which no
        request of a known user came for longest is closed; where users have requests under way on all of
        them, the new one is answered with 503.""",
        config=True,
    )

    reserved_connections = Integer(
        1000,
        min=0,
        help="""How many of ``max_connections``, half of them at most, are for users who are known.
        Connections on which nobody has said yet who they are, or was refused, are held to the rest.""",
        config=True,
    )

    idle_seconds = Float(
        75,
        min=0.1,
        help="""Seconds within which the head of a request must have come, from the moment that the connection
        waits for it. After that it is closed: one that is kept open for a next request, and one of a client
        that sends slowly. Bodies have limits of their own.""",
        config=True,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rates = {
            "submit": RateLimit(per_second=self.submits_per_minute / 60, burst=self.submit_burst),
            "upload": RateLimit(per_second=self.uploads_per_minute / 60, burst=self.upload_burst),
        }
        self._requests = self._make_places("concurrent_requests", "requests")
        self._streams = self._make_places("concurrent_streams", "followed logs")
        self._costly_reads = self._make_places("concurrent_costly_reads", "large reads")
        self._downloads = self._make_places("concurrent_downloads", "downloads")
        self._fetches = self._make_fair_places("concurrent_fetches", "jobs that fetch their code")
        self._sends = self._make_fair_places("concurrent_sends", "jobs that send their results")
        self._bodies = BytesBudget(
            per_user=self.max_body_bytes_in_memory_per_user,
            total=self.max_body_bytes_in_memory,
            limit="max_body_bytes_in_memory",
        )
        self._answers = BytesBudget(
            per_user=self.max_unread_bytes_per_user, total=self.max_unread_bytes, limit="max_unread_bytes"
        )
        self.connections = Connections(most=self.max_connections, reserved=self.reserved_connections)

    def _make_places(self, limit: str, what: str) -> ConcurrencyLimit:
        per_user, total = getattr(self, f"{limit}_per_user"), getattr(self, limit)
        return ConcurrencyLimit(per_user=per_user, total=total, limit=limit, what=what)

    def _make_fair_places(self, limit: str, what: str) -> FairLimit:
        total = getattr(self, limit)
        return FairLimit(per_user=max(total // 4, 1), total=total, limit=limit, what=what)

    def spend(self, user: User, action: str) -> None:
        """Count a ``submit`` or an ``upload`` of the user's; raises TooManyRequests."""
        wait_seconds = self._rates[action].take(user.name)
        if wait_seconds:
            LIMITS_HELD.labels(f"{action}s_per_minute").inc()
            raise TooManyRequests(
                f"You {action} too often: try again in {wait_seconds} s.",
                reason="RateLimited",
                retry_after_seconds=wait_seconds,
            )

    def request(self, user: User) -> AbstractContextManager[None]:
        """Hold a place of the user's for a request; raises TooManyRequests or Unavailable."""
        return self._requests.take(user.name)

    def stream(self, user: User) -> AbstractContextManager[None]:
        """Hold a place of the user's for an answer that has no end of its own; raises as ``request``."""
        return self._streams.take(user.name)

    def costly_read(self, user: User) -> AbstractContextManager[None]:
        """Hold a place of the user's for a read that costs much more than others; raises as ``request``."""
        return self._costly_reads.take(user.name)

    def download(self, user: User) -> AbstractContextManager[None]:
        """Hold a place of the user's for an answer that is read from the storage; raises as ``request``."""
        return self._downloads.take(user.name)

    def fetch(self, user: str) -> AbstractAsyncContextManager[None]:
        """Hold a place for a job of a user's that fetches its code, once there is one; raises Unavailable."""
        return self._fetches.take(user, wait_seconds=FETCH_WAIT_SECONDS)

    def send(self, user: str) -> AbstractAsyncContextManager[None]:
        """Hold a place for a job of a user's that sends its results, as ``fetch``, but soon or never."""
        return self._sends.take(user, wait_seconds=SEND_WAIT_SECONDS)

    def body(self, user: User) -> AbstractContextManager[Callable[[int], None]]:
        """Give what takes memory for a body of the user's, a piece at a time; that raises as ``request``."""
        return self._bodies.hold(user.name)

    def answer(self, user: User | None, size: int) -> AbstractContextManager[None]:
        """Hold the memory of an answer until it is read; raises as ``request``.

        One that is larger than what a user may have is let through when it is the only one.
        """
        return self._hold_answer("" if user is None else user.name, size)

    @contextmanager
    def _hold_answer(self, user: str, size: int) -> Iterator[None]:
        with self._answers.hold(user) as take:
            try:
                take(min(size, self.max_unread_bytes_per_user, self.max_unread_bytes))
            except TooManyRequests as error:
                raise TooManyRequests(
                    (
                        f"Your unread responses exceed the limit of {self.max_unread_bytes_per_user} "
                        "bytes: read them first."
                    ),
                    details=error.details,
                    retry_after_seconds=error.retry_after_seconds,
                ) from None
            yield
