"""Requests of the service to the hub's API with its own token, about users' tokens and servers."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from jupyterhub.services.auth import HubAuth, HubOAuth
from jupyterhub.utils import make_ssl_context
from traitlets import Float, Instance, Integer, default
from traitlets.config import LoggingConfigurable

from ..connector import Connector

MAX_ANSWER_BYTES = 16 * 2**20
"""Maximum size of an answer: some kilobytes for each token of a user."""

CONCURRENT = 3
"""Maximum number of requests at a time: the hub makes some thirty tokens in a second, and must answer others
in between."""

PAUSE_SECONDS = 5.0
"""Seconds without requests after one that the hub did not answer."""


class HubDown(Exception):
    """The hub did not answer, or with 5xx or 429: this says nothing about the token. Try again later."""


class HubRejected(Exception):
    """The hub answered with 4xx; ``message`` is the hub's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} ({status})")
        self.status = status
        self.message = message


class HubToken(NamedTuple):
    """A token as the hub lists it, without the token itself."""

    id: str
    note: str


class HubApi(LoggingConfigurable):
    """The part of the hub's API that the service needs beyond its logins.

    Each method raises HubDown and HubRejected, and waits for at most ``timeout_seconds``. After a request
    without an answer, others fail at once for a moment, so that a hub that is down holds up nobody.
    """

    timeout_seconds = Float(10.0)
    concurrent_requests = Integer(CONCURRENT)

    hub_auth = Instance(HubAuth)
    """The address of the hub, the service's own token and its certificates."""

    @default("hub_auth")
    def _default_hub_auth(self) -> HubAuth:
        return HubOAuth(parent=self.parent)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._places = asyncio.Semaphore(self.concurrent_requests)
        self._down_until = 0.0

    async def list_own_scopes(self) -> list[str]:
        """Return the scopes of the service's own token."""
        model = await self._ask("GET", "user")
        return [str(scope) for scope in model.get("scopes") or ()]

    async def read_user(self, user: str) -> dict[str, Any]:
        """Return the hub's model of a user, with all servers, as far as the service's scopes allow."""
        model = await self._ask("GET", f"users/{quote(user, safe='')}?include_stopped_servers=1")
        if not isinstance(model, dict):
            raise HubDown("JupyterHub's answer is not an object")
        return model

    async def make_token(
        self, user: str, *, scopes: list[str], expires_in: int, note: str
    ) -> tuple[str, str]:
        """Make a token of a user, and return its id and the token."""
        body = {"scopes": scopes, "expires_in": expires_in, "note": note}
        model = await self._ask("POST", f"users/{quote(user, safe='')}/tokens", body)
        return str(model["id"]), str(model["token"])

    async def list_tokens(self, user: str) -> list[HubToken]:
        """Return the tokens of a user."""
        model = await self._ask("GET", f"users/{quote(user, safe='')}/tokens")
        return [HubToken(str(each["id"]), str(each.get("note") or "")) for each in model["api_tokens"]]

    async def delete_token(self, user: str, token_id: str) -> None:
        """Revoke a token; does nothing if it does not exist (any more)."""
        try:
            await self._ask("DELETE", f"users/{quote(user, safe='')}/tokens/{quote(token_id, safe='')}")
        except HubRejected as error:
            if error.status != 404:
                raise

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._places:
            if time.monotonic() < self._down_until:
                raise HubDown("JupyterHub does not respond")
            try:
                status, answer = await self._request(method, path, body)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._down_until = time.monotonic() + PAUSE_SECONDS
                raise HubDown(f"JupyterHub does not respond ({type(error).__name__})") from error
        if status >= 500 or status == 429:
            raise HubDown(f"JupyterHub answered with {status}")
        if status >= 400:
            raise HubRejected(status, _read_message(answer))
        return _read_json(answer)

    async def _request(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """Return the status and the body of an answer; each request has a connection of its own."""
        hub = self.hub_auth
        tls = make_ssl_context(hub.keyfile, hub.certfile, cafile=hub.client_ca) if hub.certfile else True
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds)
        async with aiohttp.ClientSession(connector=Connector(ssl=tls), timeout=timeout) as session:
            headers = {"Authorization": f"token {hub.api_token}"}
            url = f"{hub.api_url.rstrip('/')}/{path}"
            async with session.request(
                method, url, json=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.content.read(MAX_ANSWER_BYTES)
                while not answer.content.at_eof() and len(content) < MAX_ANSWER_BYTES:
                    content += await answer.content.read(MAX_ANSWER_BYTES)
                return answer.status, content


def _read_json(answer: bytes) -> Any:
    if not answer:
        return {}
    try:
        return json.loads(answer)
    except ValueError as error:
        raise HubDown("JupyterHub's answer is not JSON") from error


def _read_message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
