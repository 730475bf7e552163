"""The parts of the service that the handlers need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..monitoring.health import Health
from ..web.auth import HubAuthenticator
from ..web.inflight import InflightRequests
from ..web.throttle import Throttle

if TYPE_CHECKING:
    from ..engine.links import SignedLinks
    from ..jobs.service import Jobs
    from ..monitoring.gauges import Gauges
    from ..outputs.outputs import Outputs
    from ..profiles.profiles import Profiles
    from ..uploads.uploads import Uploads


@dataclass(frozen=True)
class Services:
    """The parts of the service that the handlers need."""

    auth: HubAuthenticator
    jobs: Jobs
    uploads: Uploads
    outputs: Outputs
    profiles: Profiles
    links: SignedLinks
    gauges: Gauges
    version: str
    max_job_bytes: int = 2 * 1024**2
    """The maximum size of the JSON of a job."""
    max_body_bytes: int = 16 * 1024**2
    """The maximum size of other bodies; the kbatch command's JSON, which contains code, may be three times as
    large."""
    kbatch_list_days: float = 7
    """Days for which the lists of the kbatch command contain a job after its end."""
    health: Health = field(default_factory=Health)
    """The health of the parts that the service depends on."""
    inflight: InflightRequests = field(default_factory=InflightRequests)
    """The requests in progress."""
    throttle: Throttle = field(default_factory=Throttle)
    """The limits for users and clients."""
    is_leading: Callable[[], bool] = lambda: True
    """Whether this process is the leader of all replicas."""
