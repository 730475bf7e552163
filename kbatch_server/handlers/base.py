"""The base of every handler: identifies the user, checks scopes and limits, and answers every error in one
form."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import secrets
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jupyterhub.services.auth import HubOAuthenticated
from tornado.iostream import StreamClosedError
from tornado.log import app_log
from tornado.web import HTTPError

from ..audit import ORIGIN, Origin
from ..errors import (
    Forbidden,
    InvalidRequest,
    KBatchError,
    NotAuthenticated,
    NotFound,
    RangeNotSatisfiable,
    TooManyRequests,
    Unavailable,
)
from ..models.user import User
from ..scrub import scrub_url
from ..validation import parse_json
from ..web.access import Needs
from .exchange import Exchange
from .services import Services

NOT_FOR_JOBS = (
    "A job's own token cannot do this. It can read the job and the jobs that it has submitted, report the"
    " job's progress, and submit jobs. For anything else, use a token of JupyterHub."
)


def public_error(error: BaseException, request_id: str) -> KBatchError:
    """Return what users may see of an error: a KBatchError completely, and only an id for a bug."""
    if isinstance(error, KBatchError):
        return error
    if isinstance(error, HTTPError) and error.status_code < 500:
        phrase = http.client.responses.get(error.status_code, "Error")
        message = error.log_message % error.args if error.log_message else phrase
        told = KBatchError(message, reason="".join(phrase.title().split()))
        told.status = error.status_code
        return told
    return KBatchError(
        f"Internal error. Give an admin of the hub this request id: {request_id}.",
        details={"request_id": request_id},
    )


class BaseHandler(HubOAuthenticated, Exchange):
    """A handler that admits a request before its body is read, and answers every error in one form.

    The checks, in order: the method, the user, the scope, the query, the length of the body. Then ``begin``
    runs, ``receive`` gets the body, and the method (``get``) is called.
    """

    strict_query = True
    """Whether an unknown query parameter is an error."""
    content_security_policy = "default-src 'none'; frame-ancestors 'none'"
    cache_control = "no-store"

    def initialize(self, services: Services) -> None:
        """Take the services; called by Tornado for each request."""
        super().initialize(services)
        self.hub_auth = services.auth.hub_auth
        self._xsrf_error: HTTPError | None = None
        self.owner: str | None = None  # whose request it is: the user, or that of the job
        self._asking_at: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    async def _admit(self) -> None:
        needs = self._needs()
        await self._identify(needs)
        if needs.whose == "link":
            self.know_sender()
        if needs.user:
            self._held.enter_context(self.services.throttle.request(self.user))
        if self.current_user is not None and self.user.job is not None and not needs.admits_jobs:
            raise Forbidden(NOT_FOR_JOBS, reason="JobToken")
        if needs.action is not None:
            self.services.auth.check_action(self.user, needs.action)
        if needs.user and self.request.method == "GET":
            self._ask_again_later()
        if needs.spends is not None:
            self.services.throttle.spend(self.user, needs.spends)
        if needs.is_costly:
            self.hold_costly_read()
        self._check_query(needs)
        if needs.body:
            self._body_limit = self.body_limit
        self._check_length(self._read_length())
        await self.begin()

    def _needs(self) -> Needs:
        needs = self._declared_by(str(self.request.method))
        if needs is None:
            method = self.asked_method[:20]
            raise HTTPError(405, "Method %s is not allowed here; allowed: %s", method, self._list_methods())
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
        self.take_user(user)

    def _ask_again_later(self) -> None:
        seconds = self.services.auth.stream_check_seconds
        self._asking_at = asyncio.get_running_loop().call_later(seconds, self._ask_again_soon)

    def _ask_again_soon(self) -> None:
        self._asking = asyncio.create_task(self._ask_again(), name="ask-again")

    async def _ask_again(self) -> None:
        """End an answer that takes long if its user may not read it any more; else look again later."""
        if self.is_stream:  # it looks itself, and ends with a message
            return
        asked = self.user
        if await self.may_read_on(lambda user: user.name == asked.name and user.admin >= asked.admin):
            self._ask_again_later()
            return
        message = "%s %s of %s was cut off: the token has expired or lost its scope, request=%s"
        uri = scrub_url(self.request.uri or "")
        app_log.info(message, self.request.method, uri, asked.name, self.request_id)
        self._stream.close()  # an ordinary end would make a part look like the whole

    async def may_read_on(self, is_allowed: Callable[[User], bool]) -> bool:
        """Ask the hub again whether the user may read this answer; while it does not respond, they may."""
        try:
            user = await self.services.auth.find_user_again(self)
        except Unavailable:
            return True
        except (Forbidden, NotAuthenticated):
            return False
        action = self._needs().action
        return user is not None and (action is None or action in user.actions) and is_allowed(user)

    def _end(self) -> None:
        if self._asking_at is not None:
            self._asking_at.cancel()
        if self._asking is not None:
            self._asking.cancel()
        super()._end()

    def take_user(self, user: User) -> None:
        """Set the user, who is known now."""
        self.current_user = user
        self.owner = user.name
        self._know_user()
        ORIGIN.set(self._make_origin(user))

    def _know_user(self) -> None:
        try:
            self.know_sender()
        except (TooManyRequests, Unavailable):
            if self._needs().user:
                raise  # without a user it works, too: a stranger gets an answer

    def know_sender(self) -> None:
        """Mark the connection as its user's, no more a stranger's; raises TooManyRequests or Unavailable."""
        if self.owner is not None:
            self.services.throttle.connections.know(self._stream, self.owner)

    def _make_origin(self, user: User) -> Origin:
        """Return the facts about a request for the audit record."""
        return Origin(
            who=user.name,
            kind=user.kind,
            address=str(self.request.remote_ip)[:64],
            request_id=self.request_id,
            make_detail=lambda: f"{self.request.method} {scrub_url(self.request.uri or '')}"[:500],
            rights=",".join(user.actions),
        )

    def unknown_user(self) -> NoReturn:
        """Reject a request without valid credentials; pages redirect to the hub's login instead."""
        if self._xsrf_error is not None:
            raise Forbidden(str(self._xsrf_error.log_message), reason="XsrfCheckFailed")
        raise NotAuthenticated(
            "A valid JupyterHub token is required, in the header 'Authorization: token …'."
        )

    def _check_query(self, needs: Needs) -> None:
        if not self.strict_query:
            return
        unknown = set(self.request.query_arguments) - set(needs.query) - {"_xsrf", "token"}
        if unknown:
            name = min(unknown)[:100]
            known = ", ".join(needs.query) or "none"
            raise InvalidRequest.of_field(name, f"is not a known query parameter; known: {known}")

    @property
    def body_limit(self) -> int:
        """The maximum size of the body in bytes."""
        return self.services.max_body_bytes

    async def begin(self) -> None:
        """Prepare for collecting the body of an admitted request."""
        if not self._has_body():
            return
        self.watch_pace()
        if self._body_limit:
            self._take_memory = self._held.enter_context(self.services.throttle.body(self.user))

    def hold_costly_read(self) -> None:
        """Count a read that costs much more than others; raises TooManyRequests or Unavailable."""
        self._held.enter_context(self.services.throttle.costly_read(self.user))

    def on_finish(self) -> None:
        """Release what the request holds, and count the answer."""
        super().on_finish()
        if self.current_user is not None and self.get_status() < 400 and not self.is_stream:
            is_submit = self._needs().spends == "submit"
            self.services.inflight.note_answer(self.user.name, is_submit=is_submit)

    def get_json(self) -> Any:
        """Return the parsed body, or raise InvalidRequest of ``body``."""
        return parse_json(self._body)

    # The user

    @property
    def user(self) -> User:
        """The user of the request; only in methods that require one."""
        user: User = self.current_user
        return user

    def get_current_user(self) -> None:
        """Return None unless ``prepare`` found a user: JupyterHub's own version blocks the event loop."""

    def check_xsrf_cookie(self) -> None:
        """Check the XSRF token of a request with a cookie; HubOAuth calls this."""
        try:
            super().check_xsrf_cookie()
        except HTTPError as error:
            self._xsrf_error = error  # HubOAuth drops it, and the user would read "no token"
            raise

    # Answers

    @property
    def request_id(self) -> str:
        """The id of this request in answer and log: the proxy's, if it is valid, or a new one."""
        if not hasattr(self, "_request_id"):
            given = self.request.headers.get("X-Request-ID", "")
            is_sane = re.fullmatch(r"[\w.-]{8,64}", given, re.ASCII)
            self._request_id = given if is_sane else secrets.token_hex(8)
        return self._request_id

    def set_default_headers(self) -> None:
        """Set the headers of every answer, including errors."""
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
        """Answer with an error; if the answer has begun already, close the connection.

        With a normal end, half an answer would look complete.
        """
        if self._headers_written:
            self._stream.close()
            return
        super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the error that a method raised; Tornado's name for ``answer_error``."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status_code)
        self.answer_error(error)

    def answer_error(self, error: BaseException) -> None:
        """Write an error in the one form, with its status and headers; all errors come through here."""
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
        """Return the JSON of an error; other APIs may add to it."""
        return {**error.to_dict()}

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a bug with its traceback and the id in the answer.

        The access log has other errors. Tornado's version logs URLs with their secrets.
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


NOTHING_HERE = "This URL does not exist."


class NotFoundHandler(BaseHandler):
    """Answers requests for URLs that do not exist."""

    async def _admit(self) -> None:
        """Reject the request, whatever the method."""
        raise NotFound(NOTHING_HERE)
