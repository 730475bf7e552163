"""A hub that knows a few tokens and nothing else, so that a benchmark measures the service."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from tornado import netutil, web
from tornado.httpserver import HTTPServer

BASE_URL = "/hub/"


class UserHandler(web.RequestHandler):
    """``GET /hub/api/user``: whose token is this?"""

    def initialize(self, users: dict[str, dict[str, Any]]) -> None:
        """Take the user models by token."""
        self.users = users

    def get(self) -> None:
        """Answer as a hub does."""
        _, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if token not in self.users:
            raise web.HTTPError(403)
        self.write({"kind": "user", "groups": [], "scopes": [], "admin": False} | self.users[token])


class FakeHub:
    """Serves user models by token, in this process's event loop: ``async with FakeHub(users)``."""

    def __init__(self, users: dict[str, dict[str, Any]]) -> None:
        handlers = [(f"{BASE_URL}api/user", UserHandler, {"users": users})]
        self._server = HTTPServer(web.Application(handlers, log_function=lambda handler: None))
        self._sockets = netutil.bind_sockets(0, "127.0.0.1")
        self.port: int = self._sockets[0].getsockname()[1]
        self.api_url = f"http://127.0.0.1:{self.port}{BASE_URL}api"

    def service_environment(self, prefix: str) -> dict[str, str]:
        """Return what a service under that prefix is told by a hub."""
        return {
            "JUPYTERHUB_API_TOKEN": "a-token-of-the-service",
            "JUPYTERHUB_API_URL": self.api_url,
            "JUPYTERHUB_SERVICE_PREFIX": prefix,
        }

    async def __aenter__(self) -> FakeHub:
        self._server.add_sockets(self._sockets)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop()
        await self._server.close_all_connections()
