"""What a launcher must do: make a job, say what is seen of it, end it, and read its log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from traitlets import Float
from traitlets.config import LoggingConfigurable

from ..errors import InvalidRequest
from ..models.job import Job, JobEvent, JobSpec, JobStatus
from ..models.results import OutputLimits, OutputTar


class LauncherUnavailable(Exception):
    """What runs the jobs cannot be asked now. It says nothing about the job: ask again later."""


class LaunchRefused(Exception):
    """The job was refused for good, with a reason and a sentence that the user reads."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class LogNotFound(Exception):
    """There is no log, or no more of it, and never will be; says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a job needs at its start and nobody may see: handed over once, kept in no record."""

    env: dict[str, str] = field(default_factory=dict, repr=False)
    """The whole environment: the admin's, the user's and the service's own."""
    code_url: str | None = field(default=None, repr=False)
    """Where the ZIP of code is fetched from; it expires, and is good for this one object."""
    outputs_url: str | None = field(default=None, repr=False)
    """Where a tar of what the job wrote is sent to; good for this job, until it is cleaned up."""
    code_key: str | None = None
    """The ZIP's key in the storage, for a launcher on the service's own machine."""
    output_limits: OutputLimits = field(default_factory=OutputLimits)
    """How much of what it wrote is to be sent to ``outputs_url``."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Some bytes of a log, of any moderate number, and where to go on after them."""

    data: bytes
    position: dict[str, Any]
    """JSON, the launcher's own: to go on from here without a byte lost or doubled."""
    time: datetime | None = None
    """When the first line of ``data`` was written, aware; None where that is not known."""


class JobLauncher(LoggingConfigurable):
    """Runs jobs somewhere.

    A subclass defines ``launch``, ``poll``, ``terminate`` and ``read_log``. The reconciler calls the first
    three, for one job one call at a time, again and again until the job is over; so each must be harmless to
    repeat, also after the service was killed in the middle of an earlier call and started again. A job
    whose ``state`` is empty may be there all the same: it is looked for by its id. Each raises
    LauncherUnavailable when it cannot know or cannot act now.
    """

    runs_notebooks = False
    """Whether a job may have a notebook in the place of a command: see ``notebooks.launch``."""

    max_launches_per_second = Float(
        0,
        min=0,
        help="""The maximum number of jobs that are launched per second; 0 means no limit.""",
        config=True,
    )

    poll_seconds = Float(
        30,
        min=1,
        help="""Seconds between two polls of each job, in addition to the changes that this launcher reports.
        """,
        config=True,
    )

    async def open(self) -> None:
        """Get ready, once, for what any replica of the service may ask: ``logs`` and ``events``."""

    async def close(self) -> None:
        """End every connection of the launcher, once. The jobs go on."""

    async def start(self, on_change: Callable[[str], None]) -> None:
        """Begin to lead: from now on ``launch``, ``poll``, ``terminate`` and ``clean`` may be called.

        Of several replicas one leads at a time. Call ``on_change(job_id)`` from now on when a job may look
        different.
        """

    async def stop(self) -> None:
        """End what ``start`` began: another replica may lead from now on, and this one again later."""

    async def check(self) -> None:
        """Raise LauncherUnavailable unless what runs the jobs can be asked; in any replica, once open."""

    def check_spec(self, spec: JobSpec) -> None:
        """Raise InvalidRequest, naming the field, for a job that this launcher can never run.

        It is called before a job is accepted, in any replica. The default refuses only a notebook, unless
        ``runs_notebooks`` is set.
        """
        if spec.notebook is not None and not self.runs_notebooks:
            raise InvalidRequest.of_field("notebook", "is not supported: this launcher only runs commands")

    def round_spec(self, spec: JobSpec) -> JobSpec:
        """Return what a job will really have: its sizes rounded to those that this launcher can give.

        It is called before a job is accepted, so that limits count what the job has, and not what it asked
        for. The default gives any size.
        """
        return spec

    async def launch(self, job: Job, launch: Launch) -> dict[str, object]:
        """Make the job, unless it is made already, and return the state to be kept with it.

        The names of all that is made derive from ``job.id``. The state comes back as ``job.state`` and is
        what later calls find the job by. Raises LaunchRefused when it can never be made.
        """
        raise NotImplementedError

    async def poll(self, job: Job) -> JobStatus | None:
        """Return what is seen of the job, or None when nothing of it is there (any more)."""
        raise NotImplementedError

    async def terminate(self, job: Job) -> bool:
        """Ask the job to end and clean up after it; return whether nothing of it is left.

        False means that it is on its way out: TERM first, KILL after the grace period, by the launcher or
        by what it drives. A job whose ``delete_requested_at`` is set leaves nothing at all, no log either.
        """
        raise NotImplementedError

    async def release(self, job: Job) -> None:
        """Let the next attempt of the job go, which ``poll`` said is held until a time that has come.

        Nothing, where the launcher holds none.
        """

    async def finish(self, job: Job) -> None:
        """End what is left of an attempt whose command has ended; what runs the job sees to the rest of it.

        Called where ``poll`` says so by ``finish_at``; nothing, where that cannot be.
        """

    async def is_ending(self, job: Job) -> bool:
        """Return whether something of a job that is over still runs, as what sends its results may."""
        return False

    async def read_outputs(self, job: Job, limits: OutputLimits) -> OutputTar | None:
        """Return what a job that is over wrote under ``$KBATCH_OUTPUT_DIR``, and with ``collect`` elsewhere.

        None, the default, where it is sent by what runs the job, to ``Launch.outputs_url``, or not at all.
        It is read once and before ``clean``, and again after a failure. Only regular files are kept, and
        links to such. A tar that is much larger than the limits is refused as a whole.
        """
        return None

    async def find_outputs_problem(self, job: Job) -> str | None:
        """Return in a sentence why what a job wrote was not sent, or None where nothing was to be sent.

        It is asked of a job that is over, whose command ran and of which nothing came.
        """
        return None

    async def clean(self, job: Job) -> None:
        """Free what a job that is over needs no more; its log is kept elsewhere by now.

        Nothing, where that goes by itself.
        """

    def read_log(self, job: Job, pod: str, position: dict[str, Any] | None) -> AsyncIterator[LogPiece]:
        """Yield the log of one pod (attempt) as it grows, until the pod has ended and all was read.

        ``pod`` is the name of one of those that ``poll`` reports, or the job's id where it reports none.
        It begins after ``position``, which an earlier piece had, perhaps of an earlier process of the
        service; None is the beginning. Nothing is held while the reader does not ask for the next piece, but
        what a connection needs. Raises LogNotFound when there is nothing (more) to read and never will be,
        LauncherUnavailable when that cannot be known now. Closing the iterator frees all that it held.
        """
        raise NotImplementedError

    async def events(self, job: Job) -> list[JobEvent]:
        """Return what happened to the job, oldest first; nothing where the launcher has no events."""
        return []
