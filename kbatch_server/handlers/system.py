"""``api/v1/health``, ``ready``, ``version`` and ``openapi.json``: about the service itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tornado.log import app_log

from .base import BaseHandler
from .needs import needs_nothing
from .openapi import make_openapi

CHECK_SECONDS = 5.0


class HealthHandler(BaseHandler):
    """Whether the process answers: for a liveness probe, which restarts one that does not."""

    log_success_debug = True

    @needs_nothing()
    async def get(self) -> None:
        """Say that it does."""
        self.send_json({"status": "ok"})


class ReadyHandler(BaseHandler):
    """Whether all that the service needs works: for a readiness probe."""

    log_success_debug = True

    @needs_nothing()
    async def get(self) -> None:
        """Run the checks at once; 503 names those that failed, and the log says why."""
        checks = self.services.checks
        results = await asyncio.gather(*(_is_good(name, check) for name, check in checks.items()))
        failed = [name for name, good in zip(checks, results, strict=True) if not good]
        status = {
            "status": "unavailable" if failed else "ok",
            "failed": failed,
            "leads": self.services.is_leading(),
        }
        self.send_json(status, status=503 if failed else 200)


class VersionHandler(BaseHandler):
    """The version."""

    @needs_nothing()
    async def get(self) -> None:
        """Show it."""
        self.send_json({"version": self.services.version})


class OpenAPIHandler(BaseHandler):
    """The description of ``api/v1``."""

    @needs_nothing()
    async def get(self) -> None:
        """Show it, in OpenAPI 3.1."""
        self.send_json(make_openapi(self.services.version, self.services.auth.base_url))


async def _is_good(name: str, check: Callable[[], Awaitable[None]]) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except Exception as error:
        # a check may fail in any way that its part can
        app_log.warning("not ready: %s: %s", name, error or type(error).__name__)
        return False
    return True


default_handlers = [
    (r"api/v1/health/?", HealthHandler),
    (r"api/v1/ready/?", ReadyHandler),
    (r"api/v1/version/?", VersionHandler),
    (r"api/v1/openapi\.json", OpenAPIHandler),
]
