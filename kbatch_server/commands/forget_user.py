"""``kbatch-server forget-user``: removes the data of users whom the hub does not know any more.

JupyterHub does not notify services that a user was deleted. If somebody gets the same name later, they would
see the former user's jobs. So run this by hand or from a timer (``--deleted``), or let the hub call
``DELETE api/v1/users/NAME``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from jupyterhub.utils import make_ssl_context
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from traitlets import Bool, List
from traitlets.config import Application

from .. import __version__
from ..app import KBatchServer
from ..errors import Unavailable
from ..launchers.base import LauncherUnavailable
from ..models.times import utcnow
from ..settings.checks import WrongSetting
from ..settings.commandline import ALIASES, StrictLoader
from ..web.auth import CachingHubOAuth

CLOCK_SECONDS = 2
"""The maximum difference between the clocks of hub and service: data that is older than a new user by less
stays."""

REQUEST_SECONDS = 30

SCOPE = "read:users"

_ALIASES: dict[Any, Any] = {name: ALIASES[name] for name in ("config", "db", "storage", "log-level")}
_FLAGS: dict[Any, Any] = {
    "dry-run": (
        {"ForgetUser": {"dry_run": True}},
        "Print the users who would be forgotten, without changing anything.",
    ),
    "deleted": (
        {"ForgetUser": {"deleted": True}},
        "Ask the hub which users were deleted, or deleted and created again, and forget their old data.",
    ),
}


class ForgetUser(Application):
    """Forget users by name, or all whom the hub has deleted: their jobs, logs, results, uploads, secrets and
    usage.

    This cancels running jobs. The running service removes all the data within minutes; both may run at the
    same time. The audit record stays.
    """

    name = "kbatch-server-forget-user"
    version = __version__
    description = __doc__
    examples = """
    kbatch-server forget-user alice
    kbatch-server forget-user --deleted --dry-run
    """
    aliases: dict[Any, Any] = _ALIASES
    flags: dict[Any, Any] = _FLAGS
    classes: Any = List([KBatchServer])

    dry_run = Bool(
        False,
        help="""Print the users that the command would forget, without changing anything.""",
        config=True,
    )

    deleted = Bool(
        False,
        help="""Get the list of users from the hub (JUPYTERHUB_API_URL, with JUPYTERHUB_API_TOKEN), and forget
        all others.

        If a deleted user was created again, forget everything older than the new user. For this the service
        needs a role with the scope ``read:users``.
        """,
        config=True,
    )

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> StrictLoader:
        return StrictLoader(argv, aliases, flags, classes=classes, log=self.log)

    def start(self) -> None:
        """Work on the database that the service's configuration names."""
        if self.deleted == bool(self.extra_args):
            raise WrongSetting("kbatch-server forget-user needs names of users, or --deleted")
        asyncio.run(self._run(KBatchServer.make_for(self)))

    async def _run(self, server: KBatchServer) -> None:
        server.jobs.on_change = lambda job_id: None  # the running service looks at all that is due by itself
        await server.store.open()
        try:
            if server.launcher.keeps_users:
                await server.launcher.open()
            if self.deleted:
                owners = await self._list_owners(server)
                found = find_forgotten(CachingHubOAuth(parent=server), owners)
                due = {name: before async for name, before in found}  # all of it first: the hub may fail
            else:
                due = dict.fromkeys(self.extra_args)
            for name, before in due.items():
                await self._forget(server, name, before)
        except LauncherUnavailable as error:
            raise WrongSetting(f"KubeJobLauncher: {error}") from None
        finally:
            if server.launcher.keeps_users:
                await server.launcher.close()
            await server.store.close()

    async def _list_owners(self, server: KBatchServer) -> dict[str, datetime]:
        """Return the users of whom something is kept, each with the time of the oldest data on record."""
        # a namespace has no data of an earlier user to forget: it stays while a user of that name exists
        others = dict.fromkeys(await server.launcher.list_owners(), utcnow())
        return others | await server.store.retention.list_owners()

    async def _forget(self, server: KBatchServer, name: str, before: datetime | None) -> None:
        what = name if before is None else f"{name}, before {before:%Y-%m-%d %H:%M} UTC"
        if self.dry_run:
            print(f"{what}: would be forgotten")
            return
        try:
            done = await server.jobs.forget_user(name, before=before)
        except Unavailable as error:
            raise WrongSetting(f"{what}: {error.message}") from None
        print(f"{what}: forgotten, {done.jobs} jobs, {done.uploads} uploads and {done.secrets} secrets")


async def find_forgotten(
    hub_auth: CachingHubOAuth, owners: dict[str, datetime]
) -> AsyncIterator[tuple[str, datetime | None]]:
    """Yield the owners to forget, each with the time before which to forget their data (None: everything).

    ``owners`` has the time of each owner's oldest data. Raises WrongSetting if the hub does not respond, or
    may not tell: then nobody must be forgotten.
    """
    own = await _ask(hub_auth, "user")
    if own is None or SCOPE not in own.get("scopes", ()):
        # without it the hub says 404 of each user, as of one who does not exist
        raise WrongSetting(
            f"The service's token lacks the scope {SCOPE!r}: add a role with it to the service in the "
            "hub's configuration"
        )
    for name, oldest in owners.items():
        if "/" in name:  # a service, which is not among the hub's users
            continue
        user = await _ask(hub_auth, f"users/{quote(name, safe='')}")
        if user is None:
            yield name, None
        elif user.get("created"):
            before = datetime.fromisoformat(user["created"]) - timedelta(seconds=CLOCK_SECONDS)
            if oldest < before:
                yield name, before


async def _ask(hub_auth: CachingHubOAuth, path: str) -> Any:
    """Return the hub's answer, or None for a 404."""
    headers = {"Authorization": f"token {hub_auth.api_token}"}
    ssl_options = make_ssl_context(hub_auth.keyfile, hub_auth.certfile, cafile=hub_auth.client_ca)
    try:
        answer = await AsyncHTTPClient().fetch(
            f"{hub_auth.api_url}/{path}",
            headers=headers,
            ssl_options=ssl_options,
            request_timeout=REQUEST_SECONDS,
        )
    except HTTPClientError as error:
        if error.code == 404:
            return None
        raise _make_error(hub_auth, error) from None
    except OSError as error:
        raise _make_error(hub_auth, error) from None
    return json.loads(answer.body)


def _make_error(hub_auth: CachingHubOAuth, error: Exception) -> WrongSetting:
    return WrongSetting(
        f"JUPYTERHUB_API_URL: the hub at {hub_auth.api_url} could not list its users: {error}"
    )
