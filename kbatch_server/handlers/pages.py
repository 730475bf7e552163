"""The pages: one HTML shell, whose scripts get all data from ``api/v1``; and the login through the hub."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2

from ..errors import Forbidden, InvalidRequest, KBatchError, NotFound
from ..web.access import needs_nothing, needs_user
from ..web.auth import HubRefused
from ..web.login import Login
from .base import BaseHandler, public_error

HERE = Path(__file__).parent.parent

STATIC = HERE / "static"

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
"""The types of built files that the service sends."""

NOT_BUILT = "The pages are not built: run 'npm ci && npm run build' in ui/ of the source."


def make_environment() -> jinja2.Environment:
    """Return the template engine: it escapes values, and raises an error for missing ones."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache(maxsize=1)
def find_files() -> dict[str, str]:
    """Return the names of the built files, which contain a hash of the content, by their plain names.

    Raises KBatchError if they were not built.
    """
    try:
        files: dict[str, str] = json.loads((STATIC / "manifest.json").read_text())["files"]
    except FileNotFoundError:
        raise KBatchError(NOT_BUILT) from None
    return files


@lru_cache(maxsize=16)
def read_static(name: str) -> bytes:
    """Return the content of a built file: they are few and small, and anybody may request them."""
    return (STATIC / name).read_bytes()


class LoginNeeded(KBatchError):
    """The user must log in at the hub to see this page."""

    status = 302
    reason = "LoginNeeded"


class PageHandler(BaseHandler):
    """A handler that answers with a page, and redirects browsers without a login to the hub."""

    # frame-ancestors is that of the hub's own pages
    content_security_policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    strict_query = False
    templates = make_environment()

    def unknown_user(self) -> NoReturn:
        """Redirect a browser to the hub's login, which returns it; reject a client with a bad token."""
        if self.hub_auth.get_token(self, in_cookie=False):
            super().unknown_user()
        raise LoginNeeded("You are not logged in.")

    def send_page(self, template: str, **values: Any) -> None:
        """Answer with a rendered template."""
        page = self.templates.get_template(template).render(
            base_url=self.services.auth.base_url, user=self.current_user, files=find_files(), **values
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(page)

    def send_shell(self) -> None:
        """Answer with the page that the scripts fill."""
        hub_auth: Any = self.hub_auth
        token: bytes = self.xsrf_token  # sets the cookie that belongs to it
        hub_url = hub_auth.hub_host + hub_auth.hub_prefix
        self.send_page("shell.html", xsrf_token=token.decode(), hub_url=hub_url)

    def answer_error(self, error: BaseException) -> None:
        """Show the error as a page, or as plain text without built pages; or redirect to the hub's login."""
        if isinstance(error, LoginNeeded):
            self.set_status(302)
            self.set_header("Location", self.get_login_url())
            return
        told = public_error(error, self.request_id)
        if told.retry_after_seconds is not None:
            self.set_header("Retry-After", str(told.retry_after_seconds))
        self.set_status(told.status)
        try:
            self.send_page("error.html", error=told)
        except KBatchError:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write(f"{told.message}\n")


class AppHandler(PageHandler):
    """``job/{id}``, ``submit``, ``secrets``, ``use``, ``admin``: the scripts choose the page by the URL."""

    @needs_user(whose="self")
    async def get(self, job_id: str = "") -> None:
        """Send the shell."""
        self.send_shell()


class HomeHandler(PageHandler):
    """``/``: the user's jobs for a browser, one line of JSON for other clients."""

    @needs_nothing(whose="self")
    async def get(self) -> None:
        """Send the shell."""
        if not self._is_browser():
            self.send_json({"message": "kbatch"})
            return
        if self.current_user is None:
            user = await self.services.auth.find_user(self)
            self.unknown_user() if user is None else self.take_user(user)
        self.send_shell()

    def _is_browser(self) -> bool:
        return "text/html" in self.request.headers.get("Accept", "")

    def answer_error(self, error: BaseException) -> None:
        """Show the error in a form that the client can read."""
        if self._is_browser():
            super().answer_error(error)
        else:
            BaseHandler.answer_error(self, error)


NO_LOGIN = "This login was not started in this browser, or it took too long. Open the page again."


class OAuthCallbackHandler(PageHandler):
    """``oauth_callback``: the end of a login through the hub."""

    @needs_nothing(whose="link")
    async def get(self) -> None:
        """Get a token for the hub's code, and redirect the browser to the page that it wanted."""
        refusal = self.get_query_argument("error_description", self.get_query_argument("error", ""))
        if refusal:
            raise InvalidRequest(f"JupyterHub refused the login: {refusal[:500]}")
        code, state = self.get_query_argument("code", ""), self.get_query_argument("state", "")
        login = self.hub_auth.end_login(self, state)
        if login is None:
            # another tab, or the browser's "back", has ended this login before
            if await self.services.auth.find_user(self) is None:
                raise Forbidden(NO_LOGIN, reason="LoginExpired")
            self.redirect(self.services.auth.base_url)
            return
        self.hub_auth.set_cookie(self, await self._get_token(code, login))
        self.redirect(login.next_url or self.services.auth.base_url)

    async def _get_token(self, code: str, login: Login) -> str:
        # JupyterHub 5 knows no verifier
        proof = {"code_verifier": login.verifier} if login.verifier else {}
        try:
            token: str = await self.hub_auth.token_for_code(code, sync=False, **proof)
        except HubRefused as error:
            raise Forbidden(NO_LOGIN, reason="LoginExpired") from error
        return token


class StaticHandler(PageHandler):
    """``static/…``: scripts and style of the pages."""

    cache_control = "public, max-age=31536000, immutable"  # a name has a hash of what is in the file

    @needs_nothing(whose="anybody")
    async def get(self, name: str) -> None:
        """Send a file."""
        # the name was decoded: it may have slashes now
        if name not in find_files().values() or (STATIC / name).parent != STATIC:
            raise NotFound("File not found.")
        content = read_static(name)
        self.set_header("Content-Type", TYPES[Path(name).suffix])
        self.set_header("Content-Length", len(content))
        # send the headers first: Tornado does not copy the data after them, so slow clients share one copy
        await self.flush()
        self.write(content)

    def answer_error(self, error: BaseException) -> None:
        """Show the error, uncached, because the next request may succeed."""
        self.set_header("Cache-Control", "no-store")
        super().answer_error(error)


default_handlers = [
    (r"", HomeHandler),
    (r"job/([^/]+)/?", AppHandler),
    (r"submit/?", AppHandler),
    (r"secrets/?", AppHandler),
    (r"use/?", AppHandler),
    (r"admin/?", AppHandler),
    (r"oauth_callback", OAuthCallbackHandler),
    (r"static/([^/]+)", StaticHandler),
]
