"""``api/v1/health``, ``ready``, ``version``, ``openapi.json`` and ``metrics``: about the service itself."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from typing_extensions import TypedDict

from ..monitoring.health import PartsJson
from ..web.access import Needs, needs_nothing, needs_scope
from ..web.answers import answers
from .base import BaseHandler

OPEN = Needs(user=False)
"""The requirements of metrics if ``HubAuthenticator.authenticate_prometheus`` is off."""


class HealthJson(TypedDict):
    """The answer of a process that responds."""

    status: str


class ReadyJson(PartsJson):
    """The state of all parts, and whether this process leads."""

    leads: bool


class VersionJson(TypedDict):
    """The version of the service."""

    version: str


class HealthHandler(BaseHandler):
    """Whether the process responds: for a liveness probe, which restarts a process that does not."""

    log_success_debug = True

    @needs_nothing(whose="anybody")
    @answers(HealthJson)
    async def get(self) -> None:
        """Answer that the process responds."""
        self.send_json({"status": "ok"})


class ReadyHandler(BaseHandler):
    """Whether this process should receive requests, and the state of each part: for probes and admins."""

    log_success_debug = True

    @needs_nothing(whose="anybody")
    @answers(ReadyJson, also={503: "The process is not ready."})
    async def get(self) -> None:
        """Show each part's state, since when and why; 503 while requests should use another replica."""
        health = self.services.health
        await health.look()
        status: ReadyJson = {**health.to_dict(), "leads": self.services.is_leading()}
        self.send_json(status, status=200 if health.is_ready else 503)


class MetricsHandler(BaseHandler):
    """The metrics for Prometheus."""

    log_success_debug = True

    def _needs(self) -> Needs:
        needs = super()._needs()
        return needs if self.services.auth.authenticate_prometheus else OPEN

    @needs_scope("metrics", whose="everybody")
    async def get(self) -> None:
        """Send all metrics of this process, as text."""
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(await self.services.gauges.make_page())


class VersionHandler(BaseHandler):
    """The version of the service."""

    @needs_nothing(whose="anybody")
    @answers(VersionJson)
    async def get(self) -> None:
        """Show the version."""
        self.send_json({"version": self.services.version})


class OpenAPIHandler(BaseHandler):
    """The description of ``api/v1``."""

    @needs_nothing(whose="anybody")
    @answers(dict[str, Any])
    async def get(self) -> None:
        """Show the description of the API, in OpenAPI 3.1."""
        self.set_header("Content-Type", "application/json")
        self.write(self.settings["write_openapi"]())


default_handlers = [
    (r"api/v1/health/?", HealthHandler),
    (r"api/v1/ready/?", ReadyHandler),
    (r"api/v1/version/?", VersionHandler),
    (r"api/v1/openapi\.json", OpenAPIHandler),
    (r"metrics/?", MetricsHandler),
]
