"""The classes whose settings a configuration may have, beside the program's own and those of plugins."""

from __future__ import annotations

from jupyterhub.services.auth import HubOAuth
from traitlets.config import Configurable

from .auth import HubAuthenticator
from .config import JobConfig
from .departures import Departures
from .diskspace import DiskSpace
from .health import Health
from .janitor import Janitor
from .jobwatch import JobWatch
from .launchpad import Launchpad
from .leader import Leader
from .limits import Limits
from .logrecorder import LogRecorder
from .outputs import Outputs
from .profiles import Profiles
from .reconciler import Reconciler
from .retention import Retention
from .throttle import Throttle
from .traffic import Traffic
from .uploads import Uploads
from .webserver import WebServer

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
    Launchpad,
    LogRecorder,
    Reconciler,
    Departures,
    Retention,
    Leader,
    Janitor,
    Health,
    Traffic,
    Throttle,
    WebServer,
]
"""In the order of the page of settings."""
