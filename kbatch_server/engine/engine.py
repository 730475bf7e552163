"""Puts together the parts that run jobs: the launcher, and everything that works for it in the leader."""

from __future__ import annotations

from traitlets import Instance, Unicode, default
from traitlets.config import LoggingConfigurable

from ..hooks import Hooks
from ..hub.api import HubApi
from ..hub.servers import HubServers
from ..jobs.tokens import JobTokens
from ..keyring import Keyring
from ..launchers.base import JobLauncher
from ..limits.config import Limits
from ..logs.recorder import LogRecorder
from ..outputs.outputs import Outputs
from ..profiles.profiles import Profiles
from ..scheduling.pacer import LaunchPacer
from ..scheduling.scheduler import Scheduler
from ..storage.base import Storage
from ..store import Store
from ..uploads.uploads import Uploads
from ..web.inflight import InflightRequests
from .collector import Collector
from .hubtokens import HubTokens
from .launch import LaunchBuilder
from .leader import Leader
from .links import SignedLinks
from .reconciler import Reconciler
from .retention import Janitor, Retention
from .workqueue import WorkQueue


class Engine(LoggingConfigurable):
    """Builds links, recorder, reconciler and the other parts, and connects them."""

    hooks = Instance(Hooks, ())
    hub = Instance(HubApi)
    keyring = Instance(Keyring)
    launcher = Instance(JobLauncher)
    outputs = Instance(Outputs)
    profiles = Instance(Profiles)
    servers = Instance(HubServers, ())
    storage = Instance(Storage)
    store = Instance(Store)
    inflight = Instance(InflightRequests)
    service_prefix = Unicode("/")
    uploads = Instance(Uploads)

    @default("hub")
    def _default_hub(self) -> HubApi:
        return HubApi(parent=self.parent)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.limits = Limits(parent=self.parent)
        self.store.usage.accounting = self.limits.accounting
        self.links = SignedLinks(
            parent=self.parent, keyring=self.keyring, jobs=self.store.jobs, uploads=self.store.uploads
        )
        self.tokens = JobTokens(
            parent=self.parent, audience=self.service_prefix, keyring=self.keyring, jobs=self.store.jobs
        )
        self.hub_tokens = HubTokens(
            parent=self.parent, hub=self.hub, jobs=self.store.jobs, service_prefix=self.service_prefix
        )
        queue = WorkQueue()
        self.recorder = LogRecorder(
            parent=self.parent,
            launcher=self.launcher,
            storage=self.storage,
            logs=self.store.logs,
            on_complete=queue.put,
        )
        self.reconciler = self.make_reconciler(queue)
        self.retention = self._make_retention()
        self.leader = Leader(
            parent=self.parent,
            launcher=self.launcher,
            parts=[self.reconciler.scheduler, self._make_janitor(), self.hub_tokens],
            reconciler=self.reconciler,
            recorder=self.recorder,
            store=self.store,
        )

    def _make_janitor(self) -> Janitor:
        return Janitor(parent=self.parent, launcher=self.launcher, retention=self.retention)

    def _make_builder(self) -> LaunchBuilder:
        return LaunchBuilder(
            parent=self.parent,
            hub_tokens=self.hub_tokens,
            links=self.links,
            output_limits=self.outputs.limits,
            profiles=self.profiles,
            servers=self.servers,
            storage=self.storage,
            tokens=self.tokens,
            jobs=self.store.jobs,
            secrets=self.store.secrets,
            uploads=self.store.uploads,
        )

    def _make_scheduler(self) -> Scheduler:
        pacer = LaunchPacer(parent=self.parent, launcher=self.launcher, inflight=self.inflight)
        return Scheduler(
            parent=self.parent,
            limits=self.limits,
            pacer=pacer,
            records=self.store.queues,
            usage=self.store.usage,
        )

    def make_reconciler(self, queue: WorkQueue) -> Reconciler:
        """Return a reconciler that remembers nothing, with its scheduler."""
        collector = Collector(
            launcher=self.launcher, outputs=self.outputs, recorder=self.recorder, jobs=self.store.jobs
        )
        return Reconciler(
            parent=self.parent,
            launcher=self.launcher,
            builder=self._make_builder(),
            collector=collector,
            hooks=self.hooks,
            hub_tokens=self.hub_tokens,
            queue=queue,
            scheduler=self._make_scheduler(),
            jobs=self.store.jobs,
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
