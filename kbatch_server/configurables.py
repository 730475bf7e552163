"""The classes whose settings a configuration may have, beside the program's own and those of plugins."""

from __future__ import annotations

from jupyterhub.services.auth import HubOAuth
from traitlets.config import Configurable

from .engine.janitor import Janitor
from .engine.leader import Leader
from .engine.links import SignedLinks
from .engine.pacer import LaunchPacer
from .engine.reconciler import Reconciler
from .engine.retention import Retention
from .jobs.config import JobConfig
from .jobs.profiles import Profiles
from .jobs.watch import JobWatch
from .limits.config import Limits
from .logs.recorder import LogRecorder
from .monitoring.health import Health
from .outputs.outputs import Outputs
from .storage.diskspace import DiskSpace
from .uploads.uploads import Uploads
from .web.auth import HubAuthenticator
from .web.inflight import InflightRequests
from .web.server import WebServer
from .web.throttle import Throttle

CONFIGURABLES: list[type[Configurable]] = [
    HubAuthenticator,
    HubOAuth,
    JobConfig,
    Limits,
    Profiles,
    DiskSpace,
    Uploads,
    Outputs,
    JobWatch,
    SignedLinks,
    LogRecorder,
    Reconciler,
    LaunchPacer,
    Retention,
    Leader,
    Janitor,
    Health,
    InflightRequests,
    Throttle,
    WebServer,
]
"""In the order of the page of settings."""
