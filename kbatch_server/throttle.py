"""How many requests, streams and connections there may be at a time, and how often a user may submit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from traitlets import Float, Integer
from traitlets.config import LoggingConfigurable

from .errors import TooManyRequests
from .models import User
from .places import Places
from .rates import Rates


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
        help="""Requests of one user that are answered at the same time, streams among them; one more is 429.
        """,
        config=True,
    )

    concurrent_requests = Integer(
        3000,
        min=1,
        help="""Requests of all users that are answered at the same time; one more is answered with 503.""",
        config=True,
    )

    concurrent_streams_per_user = Integer(
        200,
        min=1,
        help="""Logs that one user may follow at the same time; one more is answered with 429.""",
        config=True,
    )

    concurrent_streams = Integer(
        2000,
        min=1,
        help="""Logs that all users may follow at the same time; one more is answered with 503.""",
        config=True,
    )

    max_connections = Integer(
        5000,
        min=1,
        help="""Connections that may be open at the same time, of whomever; one more is answered with 503 and
        closed. Each is a file: the service raises its own limit of open files as far as it may.""",
        config=True,
    )

    idle_seconds = Float(
        75,
        min=1,
        help="""Seconds within which the head of a request must have come, from the moment that the connection
        waits for it. After that it is closed: one that is kept open for a next request, and one of a client
        that sends slowly. Bodies have limits of their own.""",
        config=True,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rates = {
            "submit": Rates(per_second=self.submits_per_minute / 60, burst=self.submit_burst),
            "upload": Rates(per_second=self.uploads_per_minute / 60, burst=self.upload_burst),
        }
        self._requests = Places(
            per_user=self.concurrent_requests_per_user, total=self.concurrent_requests, what="requests"
        )
        self._streams = Places(
            per_user=self.concurrent_streams_per_user, total=self.concurrent_streams, what="followed logs"
        )

    def spend(self, user: User, action: str) -> None:
        """Count a ``submit`` or an ``upload`` of the user's; raises TooManyRequests."""
        wait_seconds = self._rates[action].take(user.name)
        if wait_seconds:
            raise TooManyRequests(
                f"You {action} more often than is allowed here: go on in {wait_seconds} s.",
                reason="RateLimited",
                retry_after_seconds=wait_seconds,
            )

    def request(self, user: User) -> AbstractContextManager[None]:
        """Hold a place of the user's for a request; raises TooManyRequests or Unavailable."""
        return self._requests.take(user.name)

    def stream(self, user: User) -> AbstractContextManager[None]:
        """Hold a place of the user's for an answer that has no end of its own; raises as ``request``."""
        return self._streams.take(user.name)
