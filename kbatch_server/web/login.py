"""Logins through the hub: each is an encrypted cookie in the user's browser, and the service stores nothing.

So any number of strangers can begin one, and another replica can complete it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from tornado.web import RequestHandler

from ..keyring import BadKey, Keyring

LOGIN_SECONDS = 600
"""Seconds within which a user must complete a login; the same as in JupyterHub's own services."""

MAX_NEXT_URL = 1024
"""Maximum length of the URL to return to after a login: browsers accept cookies of 4 KiB, encrypted and
encoded."""

MAX_BEGUN = 8
"""The maximum number of logins in progress per browser, in several tabs; a new one replaces the oldest."""

PURPOSE = "login"


@dataclass(frozen=True, slots=True)
class Login:
    """A login in progress."""

    cookie: str
    """The name of the login's cookie."""
    next_url: str
    """The page that the browser asked for."""
    verifier: str | None
    """The PKCE verifier (RFC 7636), which proves to the hub that the same client began the login; None
    without PKCE."""
    expires_at: float


class LoginCookies:
    """The logins in progress of a browser, as cookies whose names begin with ``prefix``."""

    def __init__(self, keyring: Keyring, prefix: str) -> None:
        self._keyring = keyring
        self._prefix = prefix

    def begin(
        self, handler: RequestHandler, next_url: str, verifier: str | None, options: dict[str, Any]
    ) -> str:
        """Set the cookie of a new login, and return the state that the hub sends back."""
        begun = sorted(self._find_all(handler), key=lambda login: login.expires_at)
        for login in begun[: max(len(begun) + 1 - MAX_BEGUN, 0)]:
            self.clear(handler, login, options)
        state = secrets.token_urlsafe(16)
        sealed = self._keyring.seal(
            {
                "purpose": PURPOSE,
                "state": state,
                "next_url": next_url if len(next_url) <= MAX_NEXT_URL else "",
                "verifier": verifier,
                "expires_at": time.time() + LOGIN_SECONDS,
            }
        )
        handler.set_cookie(self._name(state), sealed.decode(), max_age=LOGIN_SECONDS, **options)
        return state

    def find(self, handler: RequestHandler, state: str) -> Login | None:
        """Return this browser's login with the given state, or None if it does not exist or has expired."""
        return self._open(handler, self._name(state), state)

    def clear(self, handler: RequestHandler, login: Login, options: dict[str, Any]) -> None:
        """Delete the cookie of a completed login."""
        handler.clear_cookie(login.cookie, **options)

    def _find_all(self, handler: RequestHandler) -> list[Login]:
        names = [name for name in handler.request.cookies if name.startswith(self._prefix)]
        found = [self._open(handler, name) for name in names[: 2 * MAX_BEGUN]]
        return [login for login in found if login is not None]

    def _name(self, state: str) -> str:
        # the name depends on the state, so that each login has its own cookie
        return f"{self._prefix}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"

    def _open(self, handler: RequestHandler, name: str, state: str | None = None) -> Login | None:
        try:
            value = self._keyring.unseal((handler.get_cookie(name) or "").encode())
        except BadKey:
            return None
        if not (isinstance(value, dict) and value.get("purpose") == PURPOSE):
            return None
        if value["expires_at"] < time.time() or state not in {None, value["state"]}:
            return None
        return Login(name, value["next_url"], value["verifier"], value["expires_at"])
