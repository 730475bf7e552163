"""What every handler is made of: who asks, what they may, limits on bodies, one exit for errors."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from typing import Any, NoReturn, TypeVar

from jupyterhub.services.auth import HubOAuthenticated
from tornado.iostream import StreamClosedError
from tornado.log import app_log
from tornado.web import HTTPError, RequestHandler, stream_request_body

from ..audit import ORIGIN, Origin
from ..errors import (
    Forbidden,
    InvalidRequest,
    KBatchError,
    NotAuthenticated,
    RangeNotSatisfiable,
    TooLarge,
    Unavailable,
)
from ..log import REQUEST_ID
from ..models import User
from ..scrub import scrub_url
from ..validation import parse_json
from .needs import Needs
from .publicerror import public_error
from .services import Services

UNLIMITED = 2**62
"""Tornado's own limits end a connection without a word; ours answer."""

ANONYMOUS_BODY_BYTES = 1024
"""How large a body may be where nobody has to say who they are: none of those methods reads it."""

BODY_TIMEOUT_SECONDS = 300
"""How long a body that is collected (not an upload, which is streamed) may take to arrive."""

WRITE_SECONDS = 300
"""How long a client may take to read one piece of an answer, or a whole that is short."""

LINGER_SECONDS = 5
"""How long a client that was refused may go on sending: closing at once would reset the connection, and
the client, still busy sending, would never read the answer."""

Result = TypeVar("Result")


@stream_request_body
class BaseHandler(HubOAuthenticated, RequestHandler):
    """A handler that admits a request before its body is read, and answers every error in one form.

    The order: the method is known, the user is known, the scope is held, the query is known, the body is not
    too large; then ``begin`` runs, the body comes through ``receive``, and the method (``get``) is called.
    """

    services: Services
    is_stream = False
    """Whether the answer has no end of its own, as a log has that is followed."""
    strict_query = True
    """Whether a query parameter that the method does not know is an error."""
    content_security_policy = "default-src 'none'; frame-ancestors 'none'"
    cache_control = "no-store"

    def initialize(self, services: Services) -> None:
        """Take the services; called by Tornado for each request."""
        self.services = services
        self.hub_auth = services.auth.hub_auth
        self._body = bytearray()
        self._body_limit = ANONYMOUS_BODY_BYTES
        self._refused = False
        self._held = ExitStack()  # what this request takes of what all share
        self._work: asyncio.Task[Any] | None = None
        self._client_gone = False
        self._xsrf_error: HTTPError | None = None

    async def prepare(self) -> None:
        """Admit the request or refuse it, before its body is read."""
        connection: Any = self.request.connection
        connection.set_max_body_size(UNLIMITED)
        self.services.traffic.begin(self)
        REQUEST_ID.set(self.request_id)
        try:
            await self._admit()
        except Exception as error:
            if self._finished:
                raise
            await self.decline(error)

    async def _admit(self) -> None:
        needs = self._needs()
        await self._identify(needs)
        if needs.user:
            self._held.enter_context(self.services.throttle.request(self.user))
        if needs.action is not None:
            self.services.auth.check_action(self.user, needs.action)
        if needs.spends is not None:
            self.services.throttle.spend(self.user, needs.spends)
        self._check_query(needs)
        if needs.user:
            self._body_limit = self.body_limit
        self._check_length(self._read_length())
        await self.begin()

    def _check_length(self, size: int) -> None:
        if size > self._body_limit:
            raise TooLarge.of_body(self._body_limit, size=size)

    def _read_length(self) -> int:
        text = self.request.headers.get("Content-Length", "0")
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidRequest.of_field("Content-Length", "must be one number of bytes")
        return int(text)

    def _needs(self) -> Needs:
        method = str(self.request.method)  # one of SUPPORTED_METHODS: Tornado saw to it
        needs = self._declared_by(method)
        if needs is None:
            raise HTTPError(
                405, "%s is not a method of this URL, which has: %s", method, self._list_methods()
            )
        return needs

    def _list_methods(self) -> str:
        return ", ".join(name for name in self.SUPPORTED_METHODS if self._declared_by(name))

    def _declared_by(self, method: str) -> Needs | None:
        return getattr(getattr(self, method.lower()), "needs", None)

    async def _identify(self, needs: Needs) -> None:
        if not needs.user and not self.hub_auth.get_token(self, in_cookie=False):
            return
        user = await self.services.auth.find_user(self)
        if user is None:
            self.unknown_user()
        self.current_user = user
        ORIGIN.set(self._make_origin(user))

    def _make_origin(self, user: User) -> Origin:
        """Return what the audit record says of a request."""
        return Origin(
            who=user.name,
            kind=user.kind,
            address=str(self.request.remote_ip)[:64],
            request_id=self.request_id,
            make_detail=lambda: f"{self.request.method} {scrub_url(self.request.uri or '')}"[:500],
            rights=",".join(user.actions),
        )

    def unknown_user(self) -> NoReturn:
        """Refuse a request without good credentials; a page sends the browser to the hub's login instead."""
        if self._xsrf_error is not None:
            raise Forbidden(str(self._xsrf_error.log_message), reason="XsrfCheckFailed")
        raise NotAuthenticated(
            "A JupyterHub token is needed, in the header 'Authorization: token …', and the hub must know it."
        )

    def _check_query(self, needs: Needs) -> None:
        if not self.strict_query:
            return
        unknown = set(self.request.query_arguments) - set(needs.query) - {"_xsrf", "token"}
        if unknown:
            name = min(unknown)[:100]
            known = ", ".join(needs.query) or "there are none"
            raise InvalidRequest.of_field(name, f"is not a query parameter here; the parameters are: {known}")

    @property
    def body_limit(self) -> int:
        """How many bytes the body may have."""
        return self.services.max_body_bytes

    async def begin(self) -> None:
        """Get ready for the body: the request is admitted."""
        if self._has_body():
            connection: Any = self.request.connection
            connection.set_body_timeout(BODY_TIMEOUT_SECONDS)

    # The body

    async def data_received(self, chunk: bytes) -> None:
        """Pass on a piece of the body, or drop it when the request was refused."""
        if self._refused:
            return
        try:
            await self.receive(chunk)
        except Exception as error:
            await self.refuse(error)

    async def receive(self, chunk: bytes) -> None:
        """Collect a piece of the body; it may raise, which refuses the request."""
        received = len(self._body) + len(chunk)
        if received > self._body_limit:
            raise TooLarge.of_body(self._body_limit, received=received)
        self._body += chunk

    async def decline(self, error: Exception) -> None:
        """Answer a request with an error instead of calling its method."""
        if self._is_body_coming():
            await self.refuse(error)
        elif self._has_body():
            raise error  # the client waits for our word to send it: Tornado closes the connection, as it must
        else:
            # later: here, Tornado would close the connection that a client keeps for its next request
            self._replace_method(error)

    def _replace_method(self, error: Exception) -> None:
        async def fail(*path: str) -> None:
            raise error

        setattr(self, str(self.request.method).lower(), fail)

    async def refuse(self, error: Exception) -> None:
        """Answer with an error now, while the client is still sending, and drop what is yet to come."""
        if self._refused:
            return
        self._refused = True
        self.log_exception(type(error), error, error.__traceback__)
        self.clear()
        self.set_header("Connection", "close")
        self.answer_error(error)
        self.set_header("Content-Length", sum(map(len, self._write_buffer)))
        # The method that Tornado calls after the body must not run: on this one handler it ends the exchange.
        setattr(self, (self.request.method or "").lower(), lambda *_: self.finish())
        connection: Any = self.request.connection
        # a timeout of the body that is set now would hold for the next one only
        asyncio.get_running_loop().call_later(LINGER_SECONDS, connection.stream.close)
        await self.flush()  # the whole answer; only the end of the exchange is put off

    def _has_body(self) -> bool:
        headers = self.request.headers
        return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

    def _is_body_coming(self) -> bool:
        # with this header the client waits for us to say that it may send it
        return self._has_body() and self.request.headers.get("Expect", "").lower() != "100-continue"

    def get_json(self) -> Any:
        """Return the parsed body, or raise InvalidRequest of ``body``."""
        return parse_json(self._body)

    # The client

    async def run_while_connected(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return what the work returns; cancel it when the client goes away, and return None."""
        self._work = asyncio.create_task(work)
        if self._client_gone:
            self._work.cancel()
        try:
            result: Result = await self._work
            return result
        except StreamClosedError:
            return None
        except asyncio.CancelledError:
            if not self._client_gone:
                raise
            return None

    def on_connection_close(self) -> None:
        """End what is done for a client that went away."""
        self._client_gone = True
        if self._work is not None:
            self._work.cancel()
        self._held.close()
        self.services.traffic.end(self)
        super().on_connection_close()

    def on_finish(self) -> None:
        """Let go of what the request took."""
        self._held.close()
        self.services.traffic.end(self)

    @property
    def write_seconds(self) -> float:
        """How long a client may take to read what is flushed."""
        return WRITE_SECONDS

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Send what was written; a client that does not read it, for long, is let go of."""
        sent: asyncio.Future[None] = super().flush(include_footers)
        if not sent.done():
            connection: Any = self.request.connection
            timer = asyncio.get_running_loop().call_later(self.write_seconds, connection.stream.close)
            sent.add_done_callback(lambda _: timer.cancel())
        return sent

    @property
    def is_cut_off(self) -> bool:
        """Whether a stream ends because the service stops, and not by itself."""
        return self.is_stream and self.services.traffic.is_stopping

    async def give_up(self) -> None:
        """Answer, while the body is still coming, that the service stops; else leave it to be cut off."""
        request: Any = self.request
        if not self._headers_written and self._is_body_coming() and not request._body_future.done():
            with suppress(StreamClosedError):
                await self.refuse(Unavailable("The service is stopping. Send it again in a moment."))

    # The user

    @property
    def user(self) -> User:
        """Who asks; only where the method needs a user."""
        user: User = self.current_user
        return user

    def get_current_user(self) -> None:
        """Nobody, unless ``prepare`` found somebody: JupyterHub's own version blocks the event loop."""

    def check_xsrf_cookie(self) -> None:
        """Check the XSRF token of a request that shows a cookie; HubOAuth calls this."""
        try:
            super().check_xsrf_cookie()
        except HTTPError as error:
            self._xsrf_error = error  # HubOAuth drops it, and the user would read "no token"
            raise

    # Answers

    @property
    def request_id(self) -> str:
        """The id of this request in answer and log: the proxy's, if it sent a sane one, or our own."""
        if not hasattr(self, "_request_id"):
            given = self.request.headers.get("X-Request-ID", "")
            is_sane = re.fullmatch(r"[\w.-]{8,64}", given, re.ASCII)
            self._request_id = given if is_sane else secrets.token_hex(8)
        return self._request_id

    def set_default_headers(self) -> None:
        """Set what every answer has, also that of an error."""
        self.clear_header("Server")
        # not by set_header, which looks for what no header may have: these are all ours
        self._headers["X-Request-ID"] = self.request_id
        self._headers["X-Content-Type-Options"] = "nosniff"
        self._headers["Referrer-Policy"] = "no-referrer"
        self._headers["Content-Security-Policy"] = self.content_security_policy
        self._headers["Cache-Control"] = self.cache_control

    def send_json(self, value: Any, *, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps(value) + "\n")

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with an error; one that comes in the middle of an answer ends the connection.

        An ordinary end would make a half of it look like the whole.
        """
        if self._headers_written:
            connection: Any = self.request.connection
            connection.stream.close()
            return
        super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the error that a method raised: Tornado's way to ``answer_error``."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status_code)
        self.answer_error(error)

    def answer_error(self, error: BaseException) -> None:
        """Write the one form of an error, with its status and headers: the only exit for all of them."""
        told = public_error(error, self.request_id)
        if told.status == 401:
            self.set_header("WWW-Authenticate", 'Bearer realm="JupyterHub"')
        if told.status == 405:
            self.set_header("Allow", self._list_methods())
        if isinstance(told, RangeNotSatisfiable):
            self.set_header("Content-Range", f"bytes */{told.size}")
        if told.retry_after_seconds is not None:
            self.set_header("Retry-After", str(told.retry_after_seconds))
        self.send_json(self.make_error_body(told), status=told.status)

    def make_error_body(self, error: KBatchError) -> dict[str, Any]:
        """Return the JSON of an error; another wire may add to it."""
        return error.to_dict()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is our fault, with the traceback and the id that the user is told.

        The rest stands in the access log. Tornado's version logs URLs with their secrets.
        """
        status = value.status if isinstance(value, KBatchError) else getattr(value, "status_code", 500)
        if status != 500 or isinstance(value, StreamClosedError):  # the client went away
            return
        app_log.error(
            "%s %s failed, request=%s",
            self.request.method,
            scrub_url(self.request.uri or ""),
            self.request_id,
            exc_info=(typ, value, tb) if value is not None else sys.exc_info(),
        )
