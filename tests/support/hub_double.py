"""A hub that does what a test says: its faults cannot be had from a real one."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

ACCESS = "access:services!service=kbatch"
ACTIONS = ("custom:kbatch:jobs:submit", "custom:kbatch:jobs:read", "custom:kbatch:jobs:cancel")
ADMIN = "custom:kbatch:admin"


class HubHandler(RequestHandler):
    """``/hub/api/user`` of the hub double."""

    async def get(self):
        hub = self.settings["hub"]
        token = self.request.headers.get("Authorization", "").removeprefix("token ")
        hub.asked.append(token)
        await hub.answers.wait()
        if hub.delay_seconds:
            await asyncio.sleep(hub.delay_seconds)
        if hub.status != 200:
            self.send_error(hub.status)
        elif token in hub.models:
            self.write(hub.models[token])
        else:
            self.send_error(403)


class UserHandler(RequestHandler):
    """``/hub/api/users/NAME`` of the hub double, for its service."""

    async def get(self, name):
        hub = self.settings["hub"]
        hub.asked.append(f"users/{name}")
        if hub.delay_seconds:
            await asyncio.sleep(hub.delay_seconds)
        assert self.get_query_argument("include_stopped_servers") == "1"
        if hub.status != 200:
            self.send_error(hub.status)
        elif "read:servers" not in hub.service_scopes:
            self.write({"name": name})
        elif name not in hub.servers:
            self.send_error(404)
        else:
            self.write({"name": name, "servers": {each["name"]: each for each in hub.servers[name]}})


class HubDouble:
    """Knows alice, bob and root (an admin) by their tokens, and is slow or broken when a test says so."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.status = 200
        self.service_scopes = ["read:servers", "admin:server_state"]
        """Of the service's own token, which only ``users/NAME`` looks at."""
        self.servers: dict[str, list[dict[str, Any]]] = {}
        self.delay_seconds = 0.0
        self.answers = asyncio.Event()
        self.answers.set()
        sockets = bind_sockets(0, "127.0.0.1")
        self.server = HTTPServer(
            Application(
                [("/hub/api/user", HubHandler), ("/hub/api/users/(.+)", UserHandler)],
                hub=self,
                log_function=lambda _: None,
            )
        )
        self.server.add_sockets(sockets)
        self.api_url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/hub/api"
        self.add_token("alice-token")
        self.add_token("bob-token", "bob")
        self.add_token("admin-token", "root", scopes=(ACCESS, *ACTIONS, ADMIN))

    def add_token(self, token, name="alice", *, scopes=(ACCESS, *ACTIONS), kind="user", groups=()):
        self.models[token] = {"name": name, "kind": kind, "scopes": list(scopes), "groups": list(groups)}

    def add_server(self, user, name="", *, ready=True, state=None, **options):
        server = {"name": name, "ready": ready, "user_options": options, "state": state}
        server["last_activity"] = "2026-01-01T00:00:00Z"
        self.servers.setdefault(user, []).append(server)

    async def stop(self) -> None:
        self.answers.set()
        self.server.stop()
        await self.server.close_all_connections()
