"""All that the handlers work with, handed to each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..auth import HubAuthenticator
from ..health import Health
from ..throttle import Throttle
from ..traffic import Traffic

if TYPE_CHECKING:
    from ..gauges import Gauges
    from ..jobs import Jobs
    from ..launchpad import Launchpad
    from ..outputs import Outputs
    from ..profiles import Profiles
    from ..uploads import Uploads


@dataclass(frozen=True)
class Services:
    """The parts of the service that answer what the handlers were asked."""

    auth: HubAuthenticator
    jobs: Jobs
    uploads: Uploads
    outputs: Outputs
    profiles: Profiles
    launchpad: Launchpad
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
    traffic: Traffic = field(default_factory=Traffic)
    """The requests under way."""
    throttle: Throttle = field(default_factory=Throttle)
    """How much of all that each may have."""
    is_leading: Callable[[], bool] = lambda: True
    """Whether this process is the one, of all replicas, that drives the jobs."""
