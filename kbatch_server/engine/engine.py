"""Puts together the parts that run jobs: the launcher, and everything that works for it in the leader."""

from __future__ import annotations

from traitlets import Instance
from traitlets.config import LoggingConfigurable

from ..jobs.profiles import Profiles
from ..keyring import Keyring
from ..launchers.base import JobLauncher
from ..limits.config import Limits
from ..logs.recorder import LogRecorder
from ..outputs.outputs import Outputs
from ..scheduling.scheduler import Scheduler
from ..storage.base import Storage
from ..store import Store
from ..uploads.uploads import Uploads
from ..web.inflight import InflightRequests
from .collector import Collector
from .launch import LaunchBuilder
from .leader import Leader
from .links import SignedLinks
from .pacer import LaunchPacer
from .reconciler import Reconciler
from .retention import Janitor, Retention


class Engine(LoggingConfigurable):
    """Builds links, recorder, reconciler and the other parts, and connects them."""

    keyring = Instance(Keyring)
    launcher = Instance(JobLauncher)
    outputs = Instance(Outputs)
    profiles = Instance(Profiles)
    storage = Instance(Storage)
    store = Instance(Store)
    inflight = Instance(InflightRequests)
    uploads = Instance(Uploads)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.limits = Limits(parent=self.parent)
        self.store.usage.accounting = self.limits.accounting
        self.links = SignedLinks(parent=self.parent, keyring=self.keyring, store=self.store)
        self.recorder = LogRecorder(
            parent=self.parent, launcher=self.launcher, storage=self.storage, logs=self.store.logs
        )
        self.scheduler = Scheduler(parent=self.parent, limits=self.limits, store=self.store)
        self.reconciler = self._make_reconciler()
        self.scheduler.on_turn = self.reconciler.pacer.join
        self.recorder.on_complete = self.reconciler.queue.put
        self.retention = self._make_retention()
        self.leader = Leader(
            parent=self.parent,
            launcher=self.launcher,
            parts=[self.scheduler, Janitor(parent=self.parent, retention=self.retention)],
            reconciler=self.reconciler,
            recorder=self.recorder,
            store=self.store,
        )

    def _make_builder(self) -> LaunchBuilder:
        return LaunchBuilder(
            parent=self.parent,
            links=self.links,
            output_limits=self.outputs.limits,
            profiles=self.profiles,
            storage=self.storage,
            store=self.store,
        )

    def _make_reconciler(self) -> Reconciler:
        collector = Collector(
            launcher=self.launcher, outputs=self.outputs, recorder=self.recorder, jobs=self.store.jobs
        )
        return Reconciler(
            parent=self.parent,
            launcher=self.launcher,
            builder=self._make_builder(),
            pacer=LaunchPacer(parent=self.parent, launcher=self.launcher, inflight=self.inflight),
            collector=collector,
            store=self.store,
            scheduler=self.scheduler,
        )

    def _make_retention(self) -> Retention:
        return Retention(
            parent=self.parent,
            storage=self.storage,
            store=self.store,
            uploads=self.uploads,
            logs=self.recorder,
            outputs=self.outputs,
        )
