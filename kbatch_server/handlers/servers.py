"""``api/v1/servers``: the user's servers on the hub, which a job can be like."""

from __future__ import annotations

from typing_extensions import TypedDict

from ..models.server import ServerJson
from ..web.access import needs_scope
from ..web.answers import answers
from .base import BaseHandler


class ServerListJson(TypedDict):
    """The servers of a user."""

    items: list[ServerJson]


class ServersHandler(BaseHandler):
    """The servers of the user."""

    @needs_scope("submit", whose="self")
    @answers(ServerListJson)
    async def get(self) -> None:
        """List the user's servers, which ``like`` in a request can name."""
        servers = await self.services.jobs.list_servers(self.user)
        self.send_json({"items": [server.model_dump() for server in servers]})


default_handlers = [(r"api/v1/servers/?", ServersHandler)]
