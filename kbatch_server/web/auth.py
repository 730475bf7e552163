"""Identifies hub users by token or cookie, with their scopes, without ever blocking the event loop.

``CachingHubOAuth`` is JupyterHub's own HubOAuth (cookies, OAuth, XSRF). It sends one request per token to the
hub, with a timeout, and caches the answer for a while. ``HubAuthenticator`` turns the answer into a ``User``,
or into one of three errors: 401, 403 with the missing scope, or 503.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import urlparse

import traitlets
from jupyterhub.services.auth import HubOAuth, check_scopes
from jupyterhub.utils import get_browser_protocol
from tornado.web import HTTPError, RequestHandler
from traitlets import Bool, Dict, Float, Instance, Integer, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from ..errors import Forbidden, Unavailable
from ..keyring import Keyring
from ..metrics import HUB_FAILURES, HUB_SECONDS
from ..models.user import JOB_TOKEN_PREFIX, User
from ..ratelimit import FairLimit
from .forwarded import CLIENT
from .login import Login, LoginCookies

MAX_CACHED_TOKENS = 10_000
"""When the cache is full, it forgets the oldest tokens, so that a million bad tokens do not fill the memory.
"""

NEGATIVE_AGE_SECONDS = 5.0
"""Seconds for which to remember that the hub does not know a token: somebody may have just created it, or the
hub may have just restarted."""

DEFAULT_SCOPES = {
    "submit": "custom:kbatch:jobs:submit",
    "read": "custom:kbatch:jobs:read",
    "cancel": "custom:kbatch:jobs:cancel",
    "admin": "custom:kbatch:admin",
    "metrics": "read:metrics",
}


class Known(dict[str, Any]):
    """The hub's answer about a token (``GET /hub/api/user``), and the user made from it."""

    user: User | None = None


UserModel = Known | None
"""None if the hub does not know the token."""


class HubUnavailable(Unavailable):
    """The hub did not identify a token: it is down, slow, or rejects this service."""


class HubRefused(Forbidden):
    """The hub responded and rejected the request: for example, the OAuth code is invalid or has expired."""


NO_ANSWER = "JupyterHub does not respond, so your token cannot be checked. Try again."

REFUSED = "Failed to check authorization: "
"""The beginning of the message that JupyterHub raises if the hub responds with 4xx."""


class CachingHubOAuth(HubOAuth):
    """HubOAuth that sends one request per token at a time, with a timeout, and never in this thread."""

    hub_timeout_seconds = Float(10.0, help="""Seconds to wait for a response of the hub.""")
    concurrent_lookups = Integer(
        6, help="""The maximum number of concurrent requests to the hub for logins and new tokens."""
    )
    waiting_lookups = Integer(1000, help="""The maximum number of requests that wait for one of these.""")
    keyring = Instance(Keyring)

    @default("oauth_client_id")
    def _default_oauth_client_id(self) -> str:
        # the hub's name for a service's client, if the environment does not have it
        return os.environ.get("JUPYTERHUB_CLIENT_ID") or f"service-{get_service_name(self.base_url)}"

    @default("access_scopes")
    def _default_access_scopes(self) -> set[str]:
        # without a managed service's environment, JupyterHub's default would admit everybody
        given: set[str] = super()._default_scopes()
        return given or {f"access:services!service={get_service_name(self.base_url)}"}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._models: OrderedDict[str, tuple[float, UserModel]] = OrderedDict()
        self._refused: OrderedDict[str, float] = OrderedDict()  # apart: made-up ones evict no valid ones
        self._lookups: dict[str, asyncio.Task[UserModel]] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._new_lookups = FairLimit(
            per_user=max(self.concurrent_lookups // 2, 1),
            total=self.concurrent_lookups,
            limit="concurrent_lookups",
            what="requests to JupyterHub",
            most_waiting=self.waiting_lookups,
        )

    def user_for_token(
        self, token: str, use_cache: bool = True, session_id: str = "", *, sync: bool = True
    ) -> Coroutine[Any, Any, UserModel]:
        """Return an awaitable of the hub's answer about a token; it supports only ``sync=False``."""
        if sync:
            raise RuntimeError("a synchronous request to the hub would block the event loop")
        return self._find_model(token, session_id)

    def token_for_code(self, code: str, *, sync: bool = True, **kwargs: Any) -> Coroutine[Any, Any, str]:
        """Return an awaitable of the token for an OAuth code; it supports only ``sync=False``."""
        if sync:
            raise RuntimeError("a synchronous request to the hub would block the event loop")
        return self._ask_for_code(code, **kwargs)

    async def _ask_for_code(self, code: str, **kwargs: Any) -> str:
        async with self._new_lookups.take(CLIENT.get(), wait_seconds=self.hub_timeout_seconds):
            token: str = await self._ask_hub(super().token_for_code(code, sync=False, **kwargs))
        return token

    # Logins: a cookie has what JupyterHub's own version keeps in memory

    @property
    def _logins(self) -> LoginCookies:
        return LoginCookies(self.keyring, self.state_cookie_name)

    def set_state_cookie(
        self, handler: RequestHandler, next_url: str | None = None, *, code_verifier: str | None = None
    ) -> str:
        """Begin a login and return its state; called by JupyterHub's ``get_login_url``."""
        options = self._make_cookie_options(handler)
        return self._logins.begin(handler, next_url or "", code_verifier, options)

    def end_login(self, handler: RequestHandler, state: str) -> Login | None:
        """Return the login that the browser began with this state, if any, and delete its cookie."""
        login = self._logins.find(handler, state)
        if login is not None:
            self._logins.clear(handler, login, self._make_cookie_options(handler))
        return login

    def _make_cookie_options(self, handler: RequestHandler) -> dict[str, Any]:
        """Return the attributes of a login's cookie; except for three, the admin's options override ours."""
        public_url = os.environ.get("JUPYTERHUB_PUBLIC_URL")
        scheme = urlparse(public_url).scheme if public_url else get_browser_protocol(handler.request)
        given = {
            name: value
            for name, value in self.cookie_options.items()
            if name.lower() not in {"path", "httponly", "max_age", "expires", "expires_days"}
        }
        # Lax: the browser comes back from the hub by a link, with the cookie
        ours = {"secure": scheme == "https" or self.cookie_host_prefix_enabled, "samesite": "Lax"}
        return {**ours, **given, "path": self.cookie_path, "httponly": True}

    async def close(self) -> None:
        """Cancel the requests in progress and close the connections to the hub."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        try:
            from jupyterhub.httpclient import JupyterHubHTTPClient
        except ImportError:  # JupyterHub 5 asks with Tornado's client, which is closed with its loop
            return
        await JupyterHubHTTPClient.loop_instance().close()

    async def check(self) -> None:
        """Raise HubUnavailable unless the hub responds and knows this service's own token."""
        try:
            async with asyncio.timeout(self.hub_timeout_seconds):
                model = await super().user_for_token(self.api_token, use_cache=False, sync=False)
        except Exception as error:  # any error means that the hub did not answer
            raise HubUnavailable(f"JupyterHub does not respond ({type(error).__name__}).") from error
        if not model:
            raise HubUnavailable("JupyterHub does not know this service's token (JUPYTERHUB_API_TOKEN).")

    async def _find_model(self, token: str, session_id: str) -> UserModel:
        # The session's id is a part of the key, so that a browser's logout from the hub takes effect at once.
        key = hashlib.sha256(f"{session_id}:{token}".encode("utf-8", "replace")).hexdigest()
        if key in self._models:
            expires, model = self._models[key]
            if time.monotonic() < expires:
                return model
            del self._models[key]
        if time.monotonic() < self._refused.get(key, 0):
            return None
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key, token))
            lookup.add_done_callback(lambda done: self._forget_lookup(key, done))
        # Shielded: a client that goes away does not cancel what others wait for.
        return await asyncio.shield(lookup)

    async def _look_up(self, key: str, token: str) -> UserModel:
        found = await self._ask_in_turn(key, token)
        for remembered in (self._known, self._refused):
            remembered.pop(key, None)
        if not found:
            age = min(NEGATIVE_AGE_SECONDS, self.cache_max_age)
            _remember(self._refused, key, time.monotonic() + age)
            return None
        model = Known(found)
        _remember(self._known, key, None)
        _remember(self._models, key, (time.monotonic() + self.cache_max_age, model))
        return model

    async def _ask_in_turn(self, key: str, token: str) -> Any:
        """Ask the hub about a token. A token that it knew before does not wait behind made-up ones.

        The others wait in a queue for each address, and addresses take turns. So many requests from one
        stranger delay new tokens from other addresses by one turn.
        """
        if key in self._known:
            return await self._ask_hub(super().user_for_token(token, use_cache=False, sync=False))
        async with self._new_lookups.take(CLIENT.get(), wait_seconds=self.hub_timeout_seconds):
            return await self._ask_hub(super().user_for_token(token, use_cache=False, sync=False))

    def _forget_lookup(self, key: str, lookup: asyncio.Task[UserModel]) -> None:
        del self._lookups[key]
        if not lookup.cancelled():
            lookup.exception()  # already logged; all callers may have gone

    async def _ask_hub(self, request: Coroutine[Any, Any, Any]) -> Any:
        try:
            with HUB_SECONDS.time():
                async with asyncio.timeout(self.hub_timeout_seconds):
                    return await request
        except Exception as error:
            if isinstance(error, HTTPError) and str(error.log_message).startswith(REFUSED):
                raise HubRefused(str(error.log_message)) from error
            HUB_FAILURES.inc()
            # Whatever it was (refused, slow, 5xx, not JSON, our own token refused), the hub did not answer.
            self.log.error(
                "The hub at %s could not identify a user: %s", self.api_url, error or type(error).__name__
            )
            raise HubUnavailable(NO_ANSWER) from error


def _remember(remembered: OrderedDict[str, Any], key: str, value: Any) -> None:
    remembered[key] = value
    while len(remembered) > MAX_CACHED_TOKENS:
        remembered.popitem(last=False)


class HubAuthenticator(LoggingConfigurable):
    """Identifies the user of a request and checks the scopes."""

    scopes = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        default_value=DEFAULT_SCOPES,
        help="""The hub scope that each action requires, in addition to access to the service.

        The actions are ``submit``, ``read``, ``cancel``, ``admin`` (all users' jobs) and ``metrics`` (by
        default with JupyterHub's own scope for metrics). With an empty scope, access to the service is enough
        for the action, except for ``admin``: then nobody is an admin.
        """,
        config=True,
    )

    @validate("scopes")
    def _validate_scopes(self, proposal: Any) -> dict[str, str]:
        unknown = set(proposal["value"]) - set(DEFAULT_SCOPES)
        if unknown:
            raise TraitError(
                f"HubAuthenticator.scopes: {min(unknown)!r} is not one of {', '.join(DEFAULT_SCOPES)}"
            )
        # a missing action keeps its default scope, and does not become allowed for everybody
        return {**DEFAULT_SCOPES, **proposal["value"]}

    authenticate_prometheus = Bool(
        True,
        help="""Whether ``metrics`` requires a token with the scope of that name, like JupyterHub's setting of
        the same name. If False, anybody who can reach the service can read the metrics, also through the
        hub's proxy.
        """,
        config=True,
    )

    cache_max_age_seconds = Integer(
        60,
        min=1,
        help="""Seconds for which the service caches the hub's answer about a token.

        A revoked token or scope remains valid for up to this time.
        """,
        config=True,
    )

    hub_timeout_seconds = Float(
        10.0,
        min=0.1,
        help="""Seconds to wait for the hub to identify a token, before the service responds with 503.""",
        config=True,
    )

    concurrent_lookups = Integer(
        6,
        min=2,
        help="""The maximum number of concurrent requests to the hub for logins and for tokens that the
        service has not seen.

        One client address (for IPv6: one /64 network) may have half of them. Addresses take turns. Other
        requests wait up to ``hub_timeout_seconds`` and then get 503. Tokens that the hub has identified
        before do not wait. With JupyterHub 5, set less than ten: its client sends ten requests at a time.
        """,
        config=True,
    )

    waiting_lookups = Integer(
        1000,
        min=10,
        help="""The maximum number of requests that wait for one of the ``concurrent_lookups``. One address
        may have a tenth of them; its next request gets 503. When the maximum is reached, so does each
        request of an address that already has one waiting.
        """,
        config=True,
    )

    stream_check_seconds = Float(
        120,
        min=0.1,
        help="""Seconds between two checks of the token of a client that follows a log or watches jobs, or
        whose download takes that long. If the token is no longer valid, the service ends the response, up to
        ``cache_max_age_seconds`` later.
        """,
        config=True,
    )

    base_url = Unicode(help="The prefix of this service, like ``/services/kbatch/``.")

    @default("base_url")
    def _default_base_url(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/"

    keyring = Instance(Keyring)

    @default("keyring")
    def _default_keyring(self) -> Keyring:
        return Keyring([secrets.token_hex(32)])

    find_job_user: Callable[[str], Awaitable[User]] | None = traitlets.Callable(  # type: ignore[assignment]
        None, allow_none=True
    )
    """Returns the user of a job's own token, which the hub does not know; raises NotAuthenticated."""

    hub_auth = Instance(CachingHubOAuth)

    @default("hub_auth")
    def _default_hub_auth(self) -> CachingHubOAuth:
        return CachingHubOAuth(
            parent=self,
            base_url=self.base_url,
            keyring=self.keyring,
            cache_max_age=self.cache_max_age_seconds,
            hub_timeout_seconds=self.hub_timeout_seconds,
            concurrent_lookups=self.concurrent_lookups,
            waiting_lookups=self.waiting_lookups,
        )

    retry_after_seconds = Integer(
        5,
        min=1,
        help="""Seconds after which a client should retry when the hub does not respond.""",
        config=True,
    )

    async def find_user(self, handler: RequestHandler) -> User | None:
        """Return the user of this request, or None if it has no credentials that the hub knows.

        Raises Forbidden if the user may not use this service, Unavailable if the hub does not respond, and
        NotAuthenticated for a job's own token that is no longer valid.
        """
        token = self.hub_auth.get_token(handler, in_cookie=False) or ""
        if self.find_job_user is not None and token.startswith(JOB_TOKEN_PREFIX):
            return await self.find_job_user(token)
        try:
            model: UserModel = await self.hub_auth.get_user(handler, sync=False)
        except HubUnavailable as error:
            raise Unavailable(error.message, retry_after_seconds=self.retry_after_seconds) from error
        if not model:
            return None
        if model.user is None:
            access = self.hub_auth.access_scopes
            if not check_scopes(access, set(model.get("scopes", ()))):
                raise _missing(max(access))  # the longest scope: that of this service, not of all services
            model.user = self.make_user(model)
        return model.user

    async def find_user_again(self, handler: RequestHandler) -> User | None:
        """Return the user as ``find_user`` does, but ask again: the token may have been revoked since."""
        if hasattr(handler, "_cached_hub_user"):
            del handler._cached_hub_user  # JupyterHub's cache for one request
        return await self.find_user(handler)

    def make_user(self, model: dict[str, Any]) -> User:
        """Return the user that the hub's answer describes.

        A hub service called ``alice`` becomes ``service/alice``, which cannot be the name of a user: the hub
        allows no ``/`` in user names.
        """
        kind = model.get("kind", "user")
        held = set(model.get("scopes", ()))
        actions = tuple(action for action in self.scopes if self._is_allowed(action, held))
        return User(
            name=model["name"] if kind == "user" else f"{kind}/{model['name']}",
            groups=tuple(model.get("groups") or ()),
            scopes=frozenset(held),
            kind=kind,
            actions=actions,
            admin="admin" in actions,
        )

    def _is_allowed(self, action: str, held: set[str]) -> bool:
        scope = self.scopes[action]
        return bool(check_scopes({scope}, held)) if scope else action != "admin"

    def check_action(self, user: User, action: str) -> None:
        """Raise Forbidden, with the scope, unless the user's token allows the action."""
        if action not in user.actions:
            raise _missing(self.scopes[action] or "of an admin, which is disabled")

    async def check(self) -> None:
        """Raise HubUnavailable unless the hub can identify users."""
        await self.hub_auth.check()

    async def close(self) -> None:
        """Cancel the requests in progress and close the connections to the hub."""
        await self.hub_auth.close()


def get_service_name(base_url: str) -> str:
    """Return the name of the hub's service with a prefix like ``/services/kbatch/``."""
    return base_url.strip("/").rpartition("/")[2]


def _missing(scope: str) -> Forbidden:
    return Forbidden(
        f"Your token lacks the scope {scope!r}: create a token that has it, or ask an admin of the hub.",
        reason="MissingScope",
        details={"scope": scope},
    )
