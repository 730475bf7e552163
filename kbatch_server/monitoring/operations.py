"""What an admin watches the service by, put together: its parts' health, its metrics, its requests."""

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
from .health import Health, Part


class Operations(LoggingConfigurable):
    """Builds health and metrics, and runs what of them runs, from ``start`` to ``stop``."""

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
                Part("database", self.store.check, is_needed=True),
                Part("database_writes", self.store.check_writes),
                Part("storage", self.storage.check),
                Part("disk", self.disk.check_health),
                Part("launcher", self.engine.launcher.check),
                Part("hub", self.auth.check),
            ],
        )
        self.gauges = Gauges(
            disk=self.disk,
            health=self.health,
            leader=self.engine.leader,
            reconciler=self.engine.reconciler,
            store=self.store,
            throttle=self.throttle,
            inflight=self.inflight,
        )
        self._loop_lag = LoopLag()

    async def start(self) -> None:
        """Begin to look at the parts, and to measure."""
        await self._loop_lag.start()
        await self.health.start()

    async def stop(self) -> None:
        """End it."""
        await self.health.stop()
        await self._loop_lag.stop()

    async def announce_stop(self) -> None:
        """Say that this process is not ready any more, and wait until nobody sends requests here."""
        self.health.is_stopping = True
        await asyncio.sleep(self.inflight.drain_seconds)
