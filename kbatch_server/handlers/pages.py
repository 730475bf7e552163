"""The pages: a user's jobs and one job, rendered here, without scripts; and the login through the hub."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado.web import Finish, HTTPError

from ..errors import KBatchError, NotFound
from ..logreader import LogSelection
from ..models import Job, JobQuery, utcnow
from ..tarindex import OutputFile
from .base import BaseHandler
from .needs import needs_nothing, needs_scope
from .publicerror import public_error

HERE = Path(__file__).parent.parent

TAIL_LINES = 200

PATIENCE_SECONDS = 3
"""How long a page waits for the end of a log: it is of use without it."""

MAX_SHOWN_LOG_BYTES = 256 * 1024

MAX_SHOWN_OUTPUTS = 500


def make_environment() -> jinja2.Environment:
    """Return what renders the templates: what is put into a page is escaped, what is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["time"] = lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else ""
    environment.filters["duration"] = format_duration
    return environment


def format_duration(seconds: float | None) -> str:
    """Return seconds in the two largest units, like ``2 h 5 min``."""
    if seconds is None:
        return ""
    rest = max(int(seconds), 0)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


class PageHandler(BaseHandler):
    """A handler that answers with a page, and sends a browser that is not logged in to the hub."""

    content_security_policy = (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    strict_query = False
    templates = make_environment()

    def unknown_user(self) -> NoReturn:
        """Send a browser to the hub's login, which brings it back; a client with a bad token is told."""
        if self.hub_auth.get_token(self, in_cookie=False):
            super().unknown_user()
        self.redirect(self.get_login_url())
        raise Finish

    def send_page(self, template: str, **values: Any) -> None:
        """Answer with a rendered template."""
        page = self.templates.get_template(template).render(
            base_url=self.services.auth.base_url, user=self.current_user, now=utcnow(), **values
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(page)

    def answer_error(self, error: BaseException) -> None:
        """Show the error as a page."""
        told = public_error(error, self.request_id)
        if told.retry_after_seconds is not None:
            self.set_header("Retry-After", str(told.retry_after_seconds))
        self.set_status(told.status)
        self.send_page("error.html", error=told)


class HomeHandler(PageHandler):
    """``/``: the user's jobs for a browser, one line of JSON for everything else."""

    @needs_nothing(whose="self")
    async def get(self) -> None:
        """Show the newest jobs."""
        if not self._is_browser():
            self.send_json({"message": "kbatch"})
            return
        if self.current_user is None:
            self.current_user = await self.services.auth.find_user(self)
        if self.current_user is None:
            self.unknown_user()
        self.services.auth.check_action(self.user, "read")
        query = JobQuery(user=self.user.name, cursor=self.get_query_argument("cursor", None), limit=50)
        page = await self.services.jobs.list(self.user, query)
        self.send_page("jobs.html", jobs=page.jobs, next_cursor=page.next_cursor, run_seconds=run_seconds)

    def _is_browser(self) -> bool:
        return "text/html" in self.request.headers.get("Accept", "")

    def answer_error(self, error: BaseException) -> None:
        """Show the error as who asks can read it."""
        if self._is_browser():
            super().answer_error(error)
        else:
            BaseHandler.answer_error(self, error)


class JobPageHandler(PageHandler):
    """``job/{id}``: one job with the end of its log and what happened to it."""

    @needs_scope("read", whose="job")
    async def get(self, job_id: str) -> None:
        """Show the job."""
        job = await self.services.jobs.get(self.user, job_id)
        self.send_page(
            "job.html",
            job=job,
            shown=job.to_dict(with_env=False),
            run_seconds=run_seconds,
            outputs=await self._read_outputs(job),
            log=await self._read_log(job),
            events=await self._read_events(job),
            tail_lines=TAIL_LINES,
        )

    async def _read_log(self, job: Job) -> str:
        """Return the end of the log, or why there is none: the page is of use without it."""
        log = bytearray()
        try:
            selection = LogSelection(tail=TAIL_LINES, patience_seconds=PATIENCE_SECONDS)
            async with aclosing(await self.services.jobs.logs(self.user, job.id, selection)) as pieces:
                async for piece in pieces:
                    log = (log + piece.data)[-MAX_SHOWN_LOG_BYTES:]
        except KBatchError as error:
            return error.message
        return log.decode("utf-8", "replace")

    async def _read_outputs(self, job: Job) -> list[OutputFile]:
        """Return the first of the results, by path; nothing when there are none (yet)."""
        try:
            return (await self.services.outputs.list(job))[:MAX_SHOWN_OUTPUTS]
        except KBatchError:
            return []

    async def _read_events(self, job: Job) -> list[Any]:
        try:
            return list(await self.services.jobs.events(self.user, job.id))
        except KBatchError:
            return []  # the page says that there are none; the log says why


def run_seconds(job: Job, now: datetime) -> float | None:
    """Return how long a job ran, or has been running."""
    return None if job.started_at is None else ((job.ended_at or now) - job.started_at).total_seconds()


class OAuthCallbackHandler(PageHandler, HubOAuthCallbackHandler):
    """``oauth_callback``: the end of a login through the hub."""

    async def _admit(self) -> None:
        if self.request.method != "GET" or self._has_body():
            raise HTTPError(405)
        # whether somebody is logged in already: JupyterHub's handler asks, and would block
        self.current_user = await self.hub_auth.get_user(self, sync=False)


class StaticHandler(PageHandler):
    """``static/…``: the style of the pages."""

    cache_control = "public, max-age=3600"

    @needs_nothing(whose="anybody")
    async def get(self, name: str) -> None:
        """Send a file."""
        # the name was decoded: it may have slashes now
        path = HERE / "static" / name
        if path.parent != HERE / "static" or path.suffix != ".css" or not path.is_file():
            raise NotFound("There is no such file.")
        content = await asyncio.to_thread(path.read_bytes)
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.write(content)


default_handlers = [
    (r"", HomeHandler),
    (r"job/([^/]+)/?", JobPageHandler),
    (r"oauth_callback", OAuthCallbackHandler),
    (r"static/([^/]+)", StaticHandler),
]
