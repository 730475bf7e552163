"""Limits on concurrent requests, streams and connections, and on how often a user may submit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any

from traitlets import Float, Integer
from traitlets.config import LoggingConfigurable

from ..bytesize import ByteSize
from ..errors import TooManyRequests
from ..metrics import LIMITS_HELD
from ..models.user import User
from ..ratelimit import BytesBudget, ConcurrencyLimit, FairLimit, RateLimit
from .connections import Connections

FETCH_WAIT_SECONDS = 600
"""Seconds that a job waits for its turn to fetch its code; its init container waits some minutes longer."""

SEND_WAIT_SECONDS = 5
"""Seconds that a job's request waits for its turn to send results. Its sidecar waits ten seconds for an
answer before it sends them anyway; it tries again after a rejection."""

DRAW_WAIT_SECONDS = 60
"""Seconds that a slice of a log waits for its turn to be drawn. Each takes milliseconds, so this is a lot."""


class Throttle(LoggingConfigurable):
    """Keeps one client from using up the resources that all clients share. Each replica counts separately."""

    submits_per_minute = Float(
        1200,
        min=0,
        help="""The average number of jobs that a user may submit per minute; one more gets 429. 0 means no
        limit.
        """,
        config=True,
    )

    submit_burst = Integer(
        5000,
        min=1,
        help="""The number of jobs that a user may submit at once after a pause: see ``submits_per_minute``.
        """,
        config=True,
    )

    uploads_per_minute = Float(
        0,
        min=0,
        help="""The average number of ZIPs that a user may send per minute; one more gets 429. 0, the default,
        means no limit.
        """,
        config=True,
    )

    upload_burst = Integer(
        50,
        min=1,
        help="""The number of ZIPs that a user may send at once after a pause: see ``uploads_per_minute``.""",
        config=True,
    )

    concurrent_requests_per_user = Integer(
        300,
        min=1,
        help="""The maximum number of concurrent requests of one user, including streams; one more gets 429.
        """,
        config=True,
    )

    concurrent_requests = Integer(
        3000,
        min=1,
        help="""The maximum number of concurrent requests of all users; one more gets 503.""",
        config=True,
    )

    concurrent_streams_per_user = Integer(
        200,
        min=1,
        help="""The maximum number of logs that one user may follow at the same time; one more gets 429.""",
        config=True,
    )

    concurrent_streams = Integer(
        2000,
        min=1,
        help="""The maximum number of logs that all users may follow at the same time; one more gets 503.""",
        config=True,
    )

    concurrent_costly_reads_per_user = Integer(
        4,
        min=1,
        help="""The maximum number of concurrent expensive reads of one user; one more gets 429. They count as
        requests, too.

        Expensive reads are lists and ZIPs of results, searches of a log, searches of jobs by a part of the
        name or by a tag, pages of more than a hundred jobs, sums over jobs, the events of a job, the lists of
        the kbatch command, and the audit record as a stream.
        """,
        config=True,
    )

    concurrent_costly_reads = Integer(
        100,
        min=1,
        help="""The maximum number of concurrent expensive reads of all users; one more gets 503.""",
        config=True,
    )

    concurrent_downloads_per_user = Integer(
        16,
        min=1,
        help="""The maximum number of concurrent downloads (results, whole logs, and lines of a log by their
        numbers) of one user; one more gets 429. A HEAD request for a result counts, too.
        """,
        config=True,
    )

    concurrent_downloads = Integer(
        64,
        min=1,
        help="""The maximum number of concurrent downloads of all users; one more gets 503. Each takes up to
        four megabytes of memory.
        """,
        config=True,
    )

    concurrent_fetches = Integer(
        32,
        min=1,
        help="""The maximum number of jobs that fetch their code at the same time; a quarter of them may be
        one user's. The others wait (see ``waiting_jobs``). Each takes up to four megabytes of memory.
        """,
        config=True,
    )

    concurrent_sends = Integer(
        16,
        min=1,
        help="""The maximum number of jobs that send their results at the same time; a quarter of them may be
        one user's. The service tells the others to try again. Each takes a few megabytes of memory, with some
        storages up to 16.
        """,
        config=True,
    )

    waiting_jobs = Integer(
        80,
        min=10,
        help="""The maximum number of jobs that wait because of ``concurrent_fetches``, and as many because
        of ``concurrent_sends``; a tenth of them may be one user's. The next job of that user gets 503, and
        tries again. When the maximum is reached, so does each job of a user who already has one waiting.
        """,
        config=True,
    )

    max_body_bytes_in_memory = ByteSize(
        128 * 1024**2,
        min=2**20,
        help="""The maximum memory, in bytes, for the bodies (JSON) of all concurrent requests; more gets 503.
        Uploads and results do not count: the service streams them.
        """,
        config=True,
    )

    max_body_bytes_in_memory_per_user = ByteSize(
        64 * 1024**2,
        min=2**20,
        help="""The maximum memory, in bytes, for the bodies (JSON) of one user's concurrent requests; more
        gets 429.

        A request of the kbatch command, with code in it, may have three times
        ``KBatchServer.max_body_bytes``. It must fit.
        """,
        config=True,
    )

    max_unread_bytes = ByteSize(
        256 * 1024**2,
        min=2**20,
        help="""The maximum memory, in bytes, for responses (such as lists) that clients have not read yet;
        one more gets 503.

        If a client takes more than five minutes to read a response, the service closes the connection.
        Results and logs do not count: the service reads them only as fast as their clients do. Followed
        logs and watched changes count with the data that the service holds while their clients do not read,
        at most a few hundred kilobytes each. If there is no room for it, the service closes the connection
        after five seconds.
        """,
        config=True,
    )

    max_unread_bytes_per_user = ByteSize(
        64 * 1024**2,
        min=2**20,
        help="""The maximum memory, in bytes, for responses that the clients of one user have not read yet;
        one more gets 429. All clients without a known user count as one user.
        """,
        config=True,
    )

    body_seconds = Float(
        20,
        min=0.1,
        help="""Seconds within which a client must send the body of a request (JSON), plus one second per 8
        KiB of it; a slower client gets 408.
        """,
        config=True,
    )

    max_connections = Integer(
        5000,
        min=1,
        help="""The maximum number of open connections, including those of unknown clients.

        Each needs a file descriptor: the service raises its own limit of open files as far as the system
        allows. When all are in use, the service closes the connection that has been without a request of a
        known user for longest. If all of them serve users' requests, one more request of a user gets 503; a
        few more connections stay available for probes.
        """,
        config=True,
    )

    max_connections_per_user = Integer(
        500,
        min=1,
        help="""The maximum number of connections with requests of one user and of that user's jobs, never
        more than a quarter of ``max_connections``; one more request gets 429.
        """,
        config=True,
    )

    reserved_connections = Integer(
        1000,
        min=0,
        help="""The number of connections, of ``max_connections``, that are reserved for known users; at most
        half of them. Connections that have not identified a user yet, or whose request was rejected, share
        the rest.
        """,
        config=True,
    )

    idle_seconds = Float(
        75,
        min=0.1,
        help="""Seconds that an open connection may wait for the header of a request before the service closes
        it.

        This applies to connections that a client keeps open for its next request, and to clients that send
        slowly. Bodies have their own limits.
        """,
        config=True,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rates = {
            "submit": RateLimit(per_second=self.submits_per_minute / 60, burst=self.submit_burst),
            "upload": RateLimit(per_second=self.uploads_per_minute / 60, burst=self.upload_burst),
        }
        self._requests = self._make_places("concurrent_requests", "requests in progress")
        self._streams = self._make_places("concurrent_streams", "log streams")
        self._costly_reads = self._make_places("concurrent_costly_reads", "expensive reads")
        self._downloads = self._make_places("concurrent_downloads", "downloads")
        self._fetches = self._make_fair_places("concurrent_fetches", "jobs that fetch their code")
        self._sends = self._make_fair_places("concurrent_sends", "jobs that send their results")
        # one at a time: Python runs one thread at a time, and the event loop waits for each of the others
        self._draws = FairLimit(per_user=1, total=1, limit="", what="logs to render")
        self._bodies = BytesBudget(
            per_user=self.max_body_bytes_in_memory_per_user,
            total=self.max_body_bytes_in_memory,
            limit="max_body_bytes_in_memory",
        )
        self._answers = BytesBudget(
            per_user=self.max_unread_bytes_per_user,
            total=self.max_unread_bytes,
            limit="max_unread_bytes",
        )
        self.connections = Connections(
            most=self.max_connections,
            reserved=self.reserved_connections,
            per_user=self.max_connections_per_user,
        )

    def _make_places(self, limit: str, what: str) -> ConcurrencyLimit:
        per_user, total = getattr(self, f"{limit}_per_user"), getattr(self, limit)
        return ConcurrencyLimit(per_user=per_user, total=total, limit=limit, what=what)

    def _make_fair_places(self, limit: str, what: str) -> FairLimit:
        total = getattr(self, limit)
        return FairLimit(
            per_user=max(total // 4, 1),
            total=total,
            limit=limit,
            what=what,
            most_waiting=self.waiting_jobs,
        )

    def spend(self, user: User, action: str) -> None:
        """Count a ``submit`` or an ``upload`` of a user; raises TooManyRequests."""
        wait_seconds = self._rates[action].take(user.name)
        if wait_seconds:
            LIMITS_HELD.labels(f"{action}s_per_minute").inc()
            raise TooManyRequests(
                f"You {action} too often: try again in {wait_seconds} s.",
                reason="RateLimited",
                retry_after_seconds=wait_seconds,
            )

    def request(self, user: User) -> AbstractContextManager[None]:
        """Count a request of a user while it is in progress; raises TooManyRequests or Unavailable."""
        return self._requests.take(user.name)

    def stream(self, user: User) -> AbstractContextManager[None]:
        """Count an endless answer, such as a followed log; raises as ``request``."""
        return self._streams.take(user.name)

    def costly_read(self, user: User) -> AbstractContextManager[None]:
        """Count a read that costs much more than others; raises as ``request``."""
        return self._costly_reads.take(user.name)

    def download(self, user: User) -> AbstractContextManager[None]:
        """Count a response that the service reads from the storage; raises as ``request``."""
        return self._downloads.take(user.name)

    def fetch(self, user: str) -> AbstractAsyncContextManager[None]:
        """Wait for the turn of a user's job to fetch its code, and count it.

        Raises Unavailable, at once if too many jobs of the user wait already: then the job tries again.
        """
        return self._fetches.take(user, wait_seconds=FETCH_WAIT_SECONDS)

    def send(self, user: str) -> AbstractAsyncContextManager[None]:
        """Wait shortly for the turn of a user's job to send results, and count it; raises Unavailable."""
        return self._sends.take(user, wait_seconds=SEND_WAIT_SECONDS)

    def draw(self, user: User) -> AbstractAsyncContextManager[None]:
        """Hold the place to draw a slice of a log in a thread, when it is the user's turn."""
        return self._draws.take(user.name, wait_seconds=DRAW_WAIT_SECONDS)

    def body(self, user: User) -> AbstractContextManager[Callable[[int], None]]:
        """Return a function that reserves memory for a piece of a user's body; it raises as ``request``."""
        return self._bodies.hold(user.name)

    def answer(self, user: User | None, size: int) -> AbstractContextManager[None]:
        """Reserve the memory of a response until the client has read it; raises as ``request``.

        A response larger than the user's limit is allowed if it is the user's only one.
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
