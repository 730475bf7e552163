"""All that the handlers work with, handed to each of them."""

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
    from ..jobs.profiles import Profiles
    from ..jobs.service import Jobs
    from ..monitoring.gauges import Gauges
    from ..outputs.outputs import Outputs
    from ..uploads.uploads import Uploads


@dataclass(frozen=True)
class Services:
    """The parts of the service that answer what the handlers were asked."""

    auth: HubAuthenticator
    jobs: Jobs
    uploads: Uploads
    outputs: Outputs
    profiles: Profiles
    links: SignedLinks
    gauges: Gauges
    version: str
    max_job_bytes: int = 2 * 1024**2
    """How large the JSON of a job may be."""
    max_body_bytes: int = 16 * 1024**2
    """A third of how large the JSON of the kbatch command may be, which has code in it."""
    kbatch_list_days: float = 7
    """For how many days after its end a job is in the lists of the kbatch command."""
    health: Health = field(default_factory=Health)
    """How the parts are that must work for the service to be of use."""
    inflight: InflightRequests = field(default_factory=InflightRequests)
    """The requests under way."""
    throttle: Throttle = field(default_factory=Throttle)
    """How much of all that each may have."""
    is_leading: Callable[[], bool] = lambda: True
    """Whether this process is the one, of all replicas, that drives the jobs."""
