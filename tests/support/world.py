"""The real parts between the handlers and the launcher, over one database, for the tests of any of them."""

from __future__ import annotations

import logging
from typing import Any

from traitlets.config import Config, LoggingConfigurable

from kbatch_server.engine.engine import Engine
from kbatch_server.engine.reconciler import Reconciler
from kbatch_server.engine.workqueue import WorkQueue
from kbatch_server.hooks import Hooks
from kbatch_server.hub.servers import HubServers
from kbatch_server.jobs.service import Jobs
from kbatch_server.keyring import Keyring
from kbatch_server.launchers.base import JobLauncher
from kbatch_server.logs.reader import LogReader
from kbatch_server.outputs.outputs import Outputs
from kbatch_server.profiles.profiles import Profiles
from kbatch_server.storage.base import Storage
from kbatch_server.storage.diskspace import DiskSpace
from kbatch_server.store import Store
from kbatch_server.uploads.uploads import Uploads
from kbatch_server.web.inflight import InflightRequests

from .doubles import MemoryStorage
from .launcher_doubles import ScriptedLauncher

KEYRING = Keyring(["k" * 32])


def make_store(db_url: str) -> Store:
    """Return a store, to be opened, that makes the tables of an empty database."""
    return Store(db_url, KEYRING, log=logging.getLogger("test"), auto_upgrade=True)


def make_uploads(store: Store, storage: Storage, **traits: Any) -> Uploads:
    """Return the part that receives uploads."""
    traits.setdefault("disk", DiskSpace(storage=storage, store=store))
    return Uploads(storage=storage, records=store.uploads, **traits)


class World:
    """What one process has; it is put together as the service does it.

    Nothing is started: a test does the steps (``stepping``), or starts the part that it is about. ``config``
    is what an admin's file would say.
    """

    def __init__(
        self,
        db_url: str,
        *,
        config: dict[str, dict[str, Any]] | None = None,
        launcher: JobLauncher | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.config = Config(config or {})
        self.store = make_store(db_url)
        self.launcher: Any = launcher or ScriptedLauncher()
        self.storage: Any = storage or MemoryStorage()
        self.renew()

    def renew(self) -> None:
        """Forget everything that is in memory, as a process that was just started."""
        parent = LoggingConfigurable(config=self.config)
        self.hooks = Hooks(parent=parent)
        self.profiles = Profiles(parent=parent)
        self.servers = HubServers(parent=parent)
        self.uploads = make_uploads(self.store, self.storage, parent=parent)
        self.outputs = Outputs(parent=parent, storage=self.storage, records=self.store.outputs)
        self.engine = Engine(
            parent=parent,
            hooks=self.hooks,
            keyring=KEYRING,
            launcher=self.launcher,
            outputs=self.outputs,
            profiles=self.profiles,
            servers=self.servers,
            inflight=InflightRequests(parent=parent),
            uploads=self.uploads,
            storage=self.storage,
            store=self.store,
        )
        self.limits, self.links = self.engine.limits, self.engine.links
        self.recorder, self.reconciler = self.engine.recorder, self.engine.reconciler
        self.scheduler, self.collector = self.reconciler.scheduler, self.reconciler.collector
        self.builder = self.reconciler.builder
        self.jobs = Jobs(
            parent=parent,
            hooks=self.hooks,
            launcher=self.launcher,
            limits=self.limits,
            profiles=self.profiles,
            servers=self.servers,
            reader=LogReader(
                parent=parent, recorder=self.recorder, storage=self.storage, logs=self.store.logs
            ),
            store=self.store,
            on_submit=self.reconciler.accept,
            on_change=self.reconciler.queue.put,
        )

    def make_reconciler(self) -> Reconciler:
        """Return a reconciler as of a process that was just started, beside this world's own."""
        return self.engine.make_reconciler(WorkQueue())

    async def open(self) -> World:
        """Open the database; return the world."""
        await self.store.open()
        return self

    async def close(self) -> None:
        """Stop recording logs, and close the database."""
        await self.recorder.stop()
        await self.store.close()
