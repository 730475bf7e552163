"""Puts together what an admin monitors: the health of the parts, the metrics, the requests."""

from __future__ import annotations

import asyncio

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..engine.engine import Engine
from ..storage.base import Storage
from ..storage.diskspace import DiskSpace
from ..store import Store
from ..web.auth import HubAuthenticator
from ..web.inflight import InflightRequests
from ..web.throttle import Throttle
from .eventloop import LoopLag
from .gauges import Gauges
from .health import CheckedPart, Health


class Operations(LoggingConfigurable):
    """Builds health checks and metrics, and runs them from ``start`` to ``stop``."""

    auth = Instance(HubAuthenticator)
    disk = Instance(DiskSpace)
    engine = Instance(Engine)
    storage = Instance(Storage)
    store = Instance(Store)
    throttle = Instance(Throttle)
    inflight = Instance(InflightRequests)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.health = Health(
            parent=self.parent,
            parts=[
                CheckedPart("database", self.store.check, is_needed=True),
                CheckedPart("database_writes", self.store.check_writes),
                CheckedPart("storage", self.storage.check),
                CheckedPart("disk", self.disk.check_health),
                CheckedPart("launcher", self.engine.launcher.check),
                CheckedPart("hub", self.auth.check),
            ],
        )
        self.gauges = Gauges(
            disk=self.disk,
            health=self.health,
            leader=self.engine.leader,
            reconciler=self.engine.reconciler,
            reports=self.store.reports,
            throttle=self.throttle,
            inflight=self.inflight,
        )
        self._loop_lag = LoopLag()

    async def start(self) -> None:
        """Begin to check the parts and to measure."""
        await self._loop_lag.start()
        await self.health.start()

    async def stop(self) -> None:
        """End the checks and measurements."""
        await self.health.stop()
        await self._loop_lag.stop()

    async def announce_stop(self) -> None:
        """Report that this process is not ready, and wait until others no longer send requests to it."""
        self.health.is_stopping = True
        await asyncio.sleep(self.inflight.drain_seconds)
