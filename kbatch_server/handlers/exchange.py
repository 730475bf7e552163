"""The HTTP side of a request and its answer: when to read the body, and when to close the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

from tornado.iostream import IOStream, StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from ..errors import InvalidRequest, RequestTimeout, TooLarge, TooManyRequests, Unavailable
from ..log import REQUEST_ID
from ..web.access import Needs
from ..web.forwarded import CLIENT, find_network
from ..web.throttle import Throttle
from .services import Services

UNLIMITED = 2**62
"""Tornado's own limits close a connection without an answer; ours answer."""

UNKNOWN_METHOD = "UNKNOWN"
"""Stands for methods that HTTP libraries do not know: the answer is 405, as for any method that a URL
lacks."""

UNSURE_METHODS = frozenset({"DELETE", "OPTIONS"})
"""Methods whose end is uncertain behind the hub's proxy. If a client sends a body in chunks, the proxy sends
``Content-Length: 0`` and then the body all the same (``deleteLength`` of http-proxy and http-proxy-3): this
would be the beginning of the next request on the connection, perhaps another user's."""

BODY_BYTES_PER_SECOND = 8 * 1024
"""The minimum rate of a body that is collected (not an upload, which is streamed), after its first
seconds."""

WRITE_SECONDS = 300
"""Seconds within which a client must read one piece of an answer, or a whole short one."""

SHORT_ANSWER_BYTES = 64 * 1024
"""Answers up to this size do not count: usually the kernel takes all of them."""

FLUSH_BYTES = 64 * 1024
"""Size of one write of a long answer: the client must have read most of it before the next one."""

UNREAD_SECONDS = 5
"""Seconds in which a client must read a write for which ``Throttle.max_unread_bytes`` has no room."""

LINGER_SECONDS = 5
"""Seconds for which a rejected client may continue to send. Closing at once would reset the connection, and
the client, still busy sending, would never read the answer."""

LINGER_BYTES = 64 * 1024**2
"""Bytes of that to read and drop; after these, the client has to wait until its connection is closed."""

Result = TypeVar("Result")


@stream_request_body
class Exchange(RequestHandler):
    """A handler that may answer before it has read the body, and then announces that the connection closes.

    Without this announcement, a proxy would send another client's request on the connection that is about to
    close.
    """

    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, UNKNOWN_METHOD)

    services: Services
    is_stream = False
    """Whether the answer is endless, like a followed log."""

    counts_unread = False
    """Whether what the client makes the service hold in memory counts to ``Throttle.max_unread_bytes``.

    True for what has no place among the downloads, of which there are few."""
    piece_bytes = 0
    """Size of the piece that ``send_piece`` sends the parts of, which stays in memory until the last one."""

    def initialize(self, services: Services) -> None:
        """Take the services; called by Tornado for each request."""
        self.services = services
        self.asked_method = str(self.request.method)
        if self.asked_method not in self.SUPPORTED_METHODS:
            self.request.method = UNKNOWN_METHOD
        self._body = bytearray()
        self._body_limit = 0
        self._take_memory: Callable[[int], None] | None = None
        self._refused = False
        self._refusal: asyncio.Task[None] | None = None
        self._drained = 0
        self._may_close: asyncio.Event | None = None  # created when somebody waits for it
        self._held = ExitStack()  # this request's part of the shared limits
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[Any] | None = None
        self._client_gone = False
        self._path_error: HTTPError | None = None

    @property
    def _stream(self) -> IOStream:
        connection: Any = self.request.connection
        stream: IOStream = connection.stream
        return stream

    async def prepare(self) -> None:
        """Admit or reject the request before its body is read."""
        connection: Any = self.request.connection
        connection.set_max_body_size(UNLIMITED)
        self.services.inflight.begin(self)
        self.services.throttle.connections.begin(self._stream)
        REQUEST_ID.set(self.request_id)
        CLIENT.set(find_network(str(self.request.remote_ip)))
        expected = self.request.headers.get("Expect", "")
        if expected.lower() == "100-continue":
            self.request.headers["Expect"] = "100-continue"  # Tornado compares it with this spelling
        try:
            if self._path_error is not None:
                raise self._path_error
            await self._admit()
            if self._needs().body and not self._refused:
                self.know_sender()  # only users, and jobs with a valid link, may send a body
        except Exception as error:
            if self._finished:
                raise
            await self.refuse(error)

    def unknown(self, *path: str) -> None:
        """Handle an unknown method; as it declares nothing (see Needs), the answer is 405."""

    def know_sender(self) -> None:
        """Mark the sender as known: a user, or a job with a valid link."""
        raise NotImplementedError

    def _needs(self) -> Needs:
        """Return the method's requirements; raises HTTPError for a method that the URL lacks."""
        raise NotImplementedError

    async def _admit(self) -> None:
        """Raise an error to reject the request; called before the body is read."""
        raise NotImplementedError

    @property
    def request_id(self) -> str:
        """The id of this request in answer and log."""
        raise NotImplementedError

    def answer_error(self, error: BaseException) -> None:
        """Write the answer for an error."""
        raise NotImplementedError

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Return a part of the path or the query as text; raises HTTPError for an invalid query."""
        try:
            text: str = super().decode_argument(value, name)
        except HTTPError as error:
            if name is not None:
                raise
            self._path_error = error  # too early to answer: ``prepare`` does
            return ""
        return text

    # The body

    async def data_received(self, chunk: bytes) -> None:
        """Pass on a piece of the body, or drop it if the request was rejected."""
        if not self._refused:
            try:
                await self.receive(chunk)
            except Exception as error:
                await self.refuse(error)
            return
        self._drained += len(chunk)
        if self._drained > LINGER_BYTES and not self._stream.closed():
            self._may_close = asyncio.Event()
            await self._may_close.wait()

    async def receive(self, chunk: bytes) -> None:
        """Collect a piece of the body; an error from here rejects the request."""
        received = len(self._body) + len(chunk)
        self._check_length(received, received=received)
        if self._take_memory is not None:
            self._take_memory(len(chunk))
        self._body += chunk

    def _check_length(self, size: int, **known: int) -> None:
        if size and not self._body_limit:
            raise InvalidRequest.of_field("body", "is not supported: do not send it")
        if size > self._body_limit:
            raise TooLarge.of_body(self._body_limit, **(known or {"size": size}))

    def _read_length(self) -> int:
        text = self.request.headers.get("Content-Length", "0")
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidRequest.of_field("Content-Length", "must be a number of bytes")
        return int(text)

    def _has_body(self) -> bool:
        headers = self.request.headers
        return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

    def _is_body_complete(self) -> bool:
        request: Any = self.request
        return bool(request._body_future.done())

    def watch_pace(self) -> None:
        """From now on, reject a body that is collected if it arrives too slowly."""
        now = asyncio.get_running_loop().time
        first = now() + self.services.throttle.body_seconds

        def look() -> None:
            due = first + len(self._body) / BODY_BYTES_PER_SECOND
            if self._refused or self._is_body_complete():
                return
            if now() >= due:
                self.refuse_soon(
                    RequestTimeout("The request body arrived too slowly. Try again, or send less data.")
                )
            else:
                self._call_at(due, look)

        self._call_at(first, look)

    def _call_at(self, when: float, action: Callable[[], object]) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, action)

    # A refusal

    def refuse_soon(self, error: Exception) -> None:
        """Reject the request like ``refuse``, from code that cannot wait for it."""
        self._refusal = asyncio.create_task(self._refuse_quietly(error))

    async def _refuse_quietly(self, error: Exception) -> None:
        with suppress(StreamClosedError):
            await self.refuse(error)

    async def refuse(self, error: Exception) -> None:
        """Answer with an error now instead of calling the method; drop the rest of the body.

        With a body, the connection closes, as the answer announces: the body may be long, and a client that
        waits before sending it (``Expect``) may never send it. Without a body, the connection stays open.
        """
        if self._refused:
            return
        self._refused = True
        self.services.throttle.connections.begin(self._stream)
        self._release()
        self.log_exception(type(error), error, error.__traceback__)
        self.clear()
        if self._has_body():
            self.set_header("Connection", "close")
            self.request.headers.pop("Expect", None)  # otherwise Tornado would ask for the body
            self._call_at(asyncio.get_running_loop().time() + LINGER_SECONDS, self._close)
        self.answer_error(error)
        self.set_header("Content-Length", sum(map(len, self._write_buffer)))
        # The method that Tornado calls after the body must not run: on this one handler it ends the exchange.
        setattr(self, str(self.request.method).lower(), lambda *_: self.finish())
        await self.flush()  # sends the complete answer; only the end of the exchange comes later

    def _close(self) -> None:
        self._stream.close()
        self._read_on()

    def _read_on(self) -> None:
        if self._may_close is not None:
            self._may_close.set()

    async def give_up(self) -> None:
        """Answer that the service stops if the body is still arriving; otherwise do nothing."""
        is_asked_for = self.request.headers.get("Expect") != "100-continue"
        if not self._headers_written and is_asked_for and self._has_body() and not self._is_body_complete():
            await self._refuse_quietly(Unavailable("The service is stopping. Try again in a moment."))

    # The answer

    def finish(self, chunk: Any = None) -> asyncio.Future[None]:
        """End the answer; if the request was not read to its end, announce that the connection closes.

        What the request holds is released when the client has read the answer.
        """
        if chunk is not None:
            self.write(chunk)
        if not self._headers_written:
            self._hold_answer()
        if not (self._headers_written or self._is_body_complete()):
            self.set_header("Connection", "close")
        held, self._held = self._held, ExitStack()
        try:
            sent: asyncio.Future[None] = super().finish()
        except BaseException:
            held.close()
            raise
        if self._headers.get("Connection") == "close":
            sent.add_done_callback(partial(_close_when_sent, self._stream))
        _call_when_sent(self._stream, partial(self._settle, held, self.services.throttle, self._stream))
        return sent

    def _hold_answer(self) -> None:
        """Count a long answer as unread memory, or answer instead that there is too much of it.

        This applies only to GET: what other methods have done can no longer be rejected.
        """
        size = sum(map(len, self._write_buffer))
        if size <= SHORT_ANSWER_BYTES or self.request.method != "GET":
            return
        try:
            self._held.enter_context(self.services.throttle.answer(self.current_user, size))
        except (TooManyRequests, Unavailable) as error:
            self.clear()
            self.answer_error(error)

    @staticmethod
    def _settle(held: ExitStack, throttle: Throttle, stream: IOStream) -> None:
        held.close()
        throttle.connections.end(stream)

    @property
    def write_seconds(self) -> float:
        """Seconds within which a client must read flushed data."""
        return WRITE_SECONDS

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Send the written data; close the connection of a client that does not read it in time."""
        if not self._headers_written and self._is_last():
            self.set_header("Connection", "close")
        sent: asyncio.Future[None] = super().flush(include_footers)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(self.write_seconds, self._stream.close)
            sent.add_done_callback(lambda _: timer.cancel())
        return sent

    def _is_last(self) -> bool:
        """Whether the connection closes after this answer."""
        connection: Any = self.request.connection
        if connection.params.no_keep_alive:  # which Tornado reads before the request, and not again
            return True
        return self.asked_method in UNSURE_METHODS and not self._has_body()

    async def send_piece(self, data: bytes, *, is_whole: bool = False) -> None:
        """Send a piece of a long answer, and return when the client has read it, or the kernel holds it.

        The service writes ``FLUSH_BYTES`` at a time; with ``is_whole`` all of it, for a client that sees the
        difference. A client that reads too slowly while there is no room is disconnected.
        """
        step = len(data) if is_whole else FLUSH_BYTES
        for at in range(0, len(data), step or 1):
            part = data[at : at + step]
            self.write(part)
            # HTTP's chunk is a copy of the part
            await self._flush_counted(self.piece_bytes + len(data) + len(part))

    async def _flush_counted(self, size: int) -> None:
        sent = self.flush()
        if not (self.counts_unread and self._stream.writing()):
            await sent
            return
        try:
            place = self.services.throttle.answer(self.current_user, size)
            with place:
                await sent
        except (TooManyRequests, Unavailable):
            await asyncio.wait({sent}, timeout=UNREAD_SECONDS)
            if not sent.done():
                self._stream.close()
                raise StreamClosedError from None

    async def run_while_connected(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return the result of the work; if the client goes away, cancel the work and return None."""
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
        """End the work for a client that went away."""
        self._client_gone = True
        if self._work is not None:
            self._work.cancel()
        if self._refused and not self._finished:
            self._log()  # it was answered
        self._end()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Release what the request holds."""
        self._end()

    def _end(self) -> None:
        self._release()
        self._read_on()
        self.services.inflight.end(self)

    def _release(self) -> None:
        """Release memory, places and timers that the request holds."""
        if self._timer is not None:
            self._timer.cancel()
        self._body = bytearray()
        self._held.close()


def _close_when_sent(stream: IOStream, sent: asyncio.Future[None]) -> None:
    sent.exception()  # the client may have gone before
    stream.close()


def _call_when_sent(stream: IOStream, action: Callable[[], object]) -> None:
    """Call a function when all written data of a connection was sent, or the connection was closed.

    The future that Tornado's ``finish`` returns is not suitable: it never completes if the server closes the
    connection.
    """
    if not stream.writing():
        action()
        return
    try:
        sent = stream.write(b"")
    except StreamClosedError:
        action()
        return
    sent.add_done_callback(lambda _: action())
