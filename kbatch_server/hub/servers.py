"""What the hub says of a user's servers, asked with this service's own token."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from traitlets import Bool, Float, Instance, Integer, default
from traitlets.config import LoggingConfigurable

from ..errors import InvalidRequest, Unavailable
from ..models.server import HubServer, make_reference
from ..ratelimit import FairLimit
from .api import HubApi, HubDown, HubRejected

MAX_CACHED_USERS = 1000
MAX_NAMED = 20
"""The number of a user's servers that an error names."""

CHECK_SECONDS = 5
CHECKS = 60
"""Seconds between two tries to read this service's scopes, and their number: the hub may start after it."""

NEEDED_SCOPE = "read:servers"
STATE_SCOPE = "admin:server_state"

REFUSED = (
    "JupyterHub does not let this service read servers: ask an admin to give the service the scope "
    f"{NEEDED_SCOPE} on the hub."
)
DISABLED = "is not available here: ask an admin to set HubServers.enabled"


class HubServers(LoggingConfigurable):
    """Asks the hub for users' servers, with a timeout, a few requests at a time, and remembers it shortly."""

    enabled = Bool(
        False,
        help="""Whether the service may ask the hub for users' servers. Jobs can then be like a server
        (``like`` in a request), and find its home.

        On the hub, the service needs the scope ``read:servers``. With ``admin:server_state``, too, it knows
        each server's pod, namespace and claim. Without that scope, it looks for the pod in the namespace of
        the job, and for the claim by KubeSpawner's names.
        """,
        config=True,
    )

    timeout_seconds = Float(
        10.0,
        min=0.1,
        help="""Seconds to wait for an answer of the hub about a user's servers.""",
        config=True,
    )

    concurrent_requests = Integer(
        4,
        min=1,
        help="""The maximum number of concurrent requests to the hub for users' servers. Users take turns.""",
        config=True,
    )

    cache_max_age_seconds = Float(
        5.0,
        min=0,
        help="""Seconds for which the service remembers the hub's answer about a user's servers, so that many
        jobs of one user do not ask the hub each.
        """,
        config=True,
    )

    api = Instance(HubApi)

    @default("api")
    def _default_api(self) -> HubApi:
        return HubApi(
            parent=self,
            timeout_seconds=self.timeout_seconds,
            concurrent_requests=self.concurrent_requests,
        )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._turns = FairLimit(
            per_user=max(self.concurrent_requests // 2, 1),
            total=self.concurrent_requests,
            limit="concurrent_requests",
            what="requests to JupyterHub",
            most_waiting=1000,
        )
        self._seen: OrderedDict[str, tuple[float, Sequence[HubServer]]] = OrderedDict()
        self._checking: asyncio.Task[None] | None = None
        self._is_refused = False

    @property
    def is_available(self) -> bool:
        """Whether a request may be like a server: as far as is known, the hub lets this service ask."""
        return self.enabled and not self._is_refused

    async def start(self) -> None:
        """Check the scopes of this service in the background; missing ones are logged."""
        if self.enabled:
            self._checking = asyncio.create_task(self._check_scopes(), name="hub-servers-scopes")

    async def stop(self) -> None:
        """End the check that ``start`` began."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def list(self, user: str) -> Sequence[HubServer]:
        """Return a user's servers, the default one first, including those that do not run.

        Raises InvalidRequest if this is disabled, Unavailable if the hub does not respond or denies it.
        """
        if not self.enabled:
            raise InvalidRequest.of_field("like", DISABLED)
        expires, found = self._seen.get(user, (0.0, ()))
        if time.monotonic() < expires:
            return found
        async with self._turns.take(user, wait_seconds=self.timeout_seconds):
            seen = _read_servers(await self._read_user(user))
        self._is_refused = seen is None
        if seen is None:
            raise Unavailable(REFUSED, reason="HubScopeMissing", retry_after_seconds=60)
        found = seen
        self._seen[user] = (time.monotonic() + self.cache_max_age_seconds, found)
        self._seen.move_to_end(user)
        while len(self._seen) > MAX_CACHED_USERS:
            self._seen.popitem(last=False)
        return found

    async def find(self, user: str, name: str) -> HubServer | None:
        """Return a user's server; None if the user has none of this name. Raises as ``list``."""
        return next((each for each in await self.list(user) if each.name == name), None)

    async def get(self, user: str, name: str) -> HubServer:
        """Return a user's server as ``find`` does; raises InvalidRequest, with the servers that there are."""
        server = await self.find(user, name)
        if server is None:
            names = [make_reference(each.name) for each in await self.list(user)]
            shown = ", ".join(names[:MAX_NAMED]) or "none; start one first"
            wanted = make_reference(name)
            raise InvalidRequest.of_field("like", f"{wanted!r} does not exist; your servers: {shown}")
        return server

    async def _check_scopes(self) -> None:
        """Log once which scopes this service lacks."""
        for _ in range(CHECKS):
            try:
                scopes = await self.api.list_own_scopes()
            except (HubDown, HubRejected):
                await asyncio.sleep(CHECK_SECONDS)
                continue
            held = {scope.partition("!")[0] for scope in scopes}
            self._is_refused = NEEDED_SCOPE not in held
            if self._is_refused:
                message = "HubServers.enabled is set, but the hub has not given this service the scope %s"
                self.log.warning(message, NEEDED_SCOPE)
            elif STATE_SCOPE not in held:
                self.log.info("without the scope %s, servers are looked for by their names", STATE_SCOPE)
            return

    async def _read_user(self, user: str) -> Mapping[str, Any] | None:
        """Return the hub's model of a user; None if the scopes do not allow it. Raises Unavailable."""
        try:
            return await self.api.read_user(user)
        except HubRejected as error:
            # 404: of a user who was deleted, or is outside of the scope's filter
            return {"servers": {}} if error.status == 404 else None
        except HubDown as error:
            self.log.warning("the hub did not say which servers there are: %s", error)
            message = "JupyterHub does not respond, so your servers are not known. Try again."
            raise Unavailable(message) from error


def _read_servers(model: Mapping[str, Any] | None) -> Sequence[HubServer] | None:
    """Return the servers in the hub's model of a user; None if this service may not see them."""
    servers = (model or {}).get("servers")
    if not isinstance(servers, dict):
        return None
    found = [
        _read_server(name, each)
        for name, each in servers.items()
        # every user has a default server for the hub, also one who never started it
        if isinstance(each, dict) and (each.get("ready") or each.get("last_activity"))
    ]
    return sorted(found, key=lambda server: server.name)


def _read_server(name: str, model: Mapping[str, Any]) -> HubServer:
    state, options = model.get("state"), model.get("user_options")
    known = state if isinstance(state, dict) else {}
    names = {key: known.get(key) for key in ("pod_name", "namespace", "pvc_name")}
    return HubServer(
        name=name,
        display_name=str(model.get("display_name") or name or "Default server"),
        is_running=bool(model.get("ready")),
        user_options=dict(options) if isinstance(options, dict) else {},
        **{key: value if isinstance(value, str) and value else None for key, value in names.items()},
    )
