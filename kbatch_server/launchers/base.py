"""The interface of a launcher: it launches a job, reports its state, ends it, and reads its log."""

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
from ..models.secret import RegistryLogin
from ..models.server import HubServer, ServerPod


class LauncherUnavailable(Exception):
    """The launcher cannot reach what runs the jobs. This says nothing about the job: try again later."""


class LaunchRefused(Exception):
    """The launch failed permanently, with a reason and a sentence for the user."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class LogNotFound(Exception):
    """The log does not exist, or has no more data, and never will; the text is a sentence with the reason."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The data for a job's start that is not in its record: most of it is secret, and passed on once."""

    env: dict[str, str] = field(default_factory=dict, repr=False)
    """The complete environment: the admin's, the user's and the service's variables."""
    secret_files: dict[str, str] = field(default_factory=dict, repr=False)
    """The content of each file in ``$KBATCH_SECRETS_DIR``: the names in ``JobSpec.secret_files``."""
    registries: tuple[RegistryLogin, ...] = field(default=(), repr=False)
    """The credentials with which to pull the job's image, in the order of ``JobSpec.registry_secrets``."""
    code_url: str | None = field(default=None, repr=False)
    """The URL of the ZIP of code; it expires, and is valid only for this object."""
    outputs_url: str | None = field(default=None, repr=False)
    """The URL to send a tar of the results to; it is valid only for this job, until the job is cleaned up."""
    code_key: str | None = None
    """The ZIP's key in the storage, for a launcher on the service's own machine."""
    code_sha256: str | None = None
    """The SHA-256 of the ZIP, as hexadecimal digits."""
    server: HubServer | None = None
    """What the hub says of the server whose home the job mounts; None if it was not asked."""
    output_limits: OutputLimits = field(default_factory=OutputLimits)
    """The limits on the files to send to ``outputs_url``."""
    spawner: Any = None
    """The job as the admin's functions for KubeSpawner see a spawner: ``profiles.spawner.JobSpawner``."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Some bytes of a log, of moderate size, and the position after them."""

    data: bytes
    position: dict[str, Any]
    """JSON in the launcher's own format, to continue from here without losing or repeating a byte."""
    time: datetime | None = None
    """When the first line of ``data`` was written, aware; None if unknown."""


class JobLauncher(LoggingConfigurable):
    """Runs jobs somewhere.

    A subclass defines ``launch``, ``poll``, ``terminate`` and ``read_log``. The reconciler calls the first
    three repeatedly until the job has ended, one call at a time for each job. So repeating a call must be
    harmless, also after the service was killed during an earlier call and restarted. A job with an empty
    ``state`` may exist all the same: a subclass finds it by its id. Each raises LauncherUnavailable if it
    cannot know or act now.
    """

    runs_notebooks = False
    """Whether a job may have a notebook in place of a command: see ``notebooks.launch``."""

    has_secret_files = False
    """Whether a job has the files in ``Launch.secret_files``, in the folder ``$KBATCH_SECRETS_DIR``."""

    has_registries = False
    """Whether it pulls the image of a job with the credentials of ``Launch.registries``."""
    mounts_homes = False
    """Whether a job may mount the home of its user's server."""

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
        """Prepare, once, for calls that any replica of the service may make: ``read_log`` and ``events``."""

    async def close(self) -> None:
        """Close every connection of the launcher, once. The jobs continue."""

    async def start(self, on_change: Callable[[str], None]) -> None:
        """Begin to lead: from now on the service may call ``launch``, ``poll``, ``terminate`` and ``clean``.

        Only one replica leads at a time. From now on, call ``on_change(job_id)`` when a job may have changed.
        """

    async def stop(self) -> None:
        """End what ``start`` began: from now on another replica may lead, and later this one again."""

    async def check(self) -> None:
        """Raise LauncherUnavailable unless what runs the jobs responds; in any replica, after ``open``."""

    def check_spec(self, spec: JobSpec) -> None:
        """Raise InvalidRequest, with the field, for a job that this launcher can never run.

        The service calls it before it accepts a job, in any replica. The default rejects only a notebook,
        secret files, registry credentials and a home, unless ``runs_notebooks``, ``has_secret_files``,
        ``has_registries`` and ``mounts_homes`` are set.
        """
        if spec.home is not None and not self.mounts_homes:
            raise InvalidRequest.of_field("home", "is not supported here: jobs have no homes of users")
        if spec.notebook is not None and not self.runs_notebooks:
            raise InvalidRequest.of_field("notebook", "is not supported: this launcher only runs commands")
        if spec.secret_files and not self.has_secret_files:
            raise InvalidRequest.of_field("secret_files", "is not supported by this launcher: use secret_env")
        if spec.registry_secrets and not self.has_registries:
            raise InvalidRequest.of_field("registry_secrets", "is not supported by this launcher")

    def round_spec(self, spec: JobSpec) -> JobSpec:
        """Return the spec that a job will really have, with sizes that this launcher can provide.

        The service calls it before it accepts a job, so that limits count what the job has, and not what it
        requested. The default supports any size.
        """
        return spec

    async def launch(self, job: Job, launch: Launch) -> dict[str, object]:
        """Create the job, unless it exists already, and return the state to store with it.

        The names of all objects derive from ``job.id``. Later calls get the state as ``job.state`` and find
        the job by it. Raises LaunchRefused if the job can never be created.
        """
        raise NotImplementedError

    async def poll(self, job: Job) -> JobStatus | None:
        """Return the state of the job, or None if nothing of it exists (any more)."""
        raise NotImplementedError

    async def terminate(self, job: Job) -> bool:
        """Ask the job to end, and clean up after it; return whether nothing of it is left.

        False means that it is ending: the launcher, or what it uses, sends TERM first, and KILL after the
        grace period. A job with ``delete_requested_at`` must leave nothing at all, not even a log.
        """
        raise NotImplementedError

    async def release(self, job: Job) -> None:
        """Start the next attempt of the job, whose ``held_until`` in the result of ``poll`` has passed.

        Does nothing if the launcher never holds attempts.
        """

    async def finish(self, job: Job) -> None:
        """End the rest of an attempt whose command has ended; what runs the job does everything else.

        The service calls it at the ``finish_at`` of ``poll``. Does nothing if the launcher never sets that.
        """

    async def is_ending(self, job: Job) -> bool:
        """Return whether a part of an ended job still runs, such as the one that sends its results."""
        return False

    async def read_outputs(self, job: Job, limits: OutputLimits) -> OutputTar | None:
        """Return the files that an ended job wrote to ``$KBATCH_OUTPUT_DIR``, and with ``collect`` elsewhere.

        None, the default, means that the job itself sends them to ``Launch.outputs_url``, or that it has
        none. The service reads them once, before ``clean``, and again after a failure. It keeps only regular
        files, and links to such. It rejects a tar as a whole if it is much larger than the limits.
        """
        return None

    async def find_outputs_problem(self, job: Job) -> str | None:
        """Return, as a sentence, why the job did not send its results; None if it had nothing to send.

        The service calls it for an ended job whose command ran, if no results arrived.
        """
        return None

    async def clean(self, job: Job) -> None:
        """Free what an ended job does not need any more; by now its log is saved elsewhere.

        Does nothing if that happens by itself.
        """

    def read_log(self, job: Job, pod: str, position: dict[str, Any] | None) -> AsyncIterator[LogPiece]:
        """Yield the log of one pod (attempt) while it grows, until the pod has ended and everything was read.

        ``pod`` is the name of a pod in the result of ``poll``, or the job's id if that has none. It begins
        after ``position``, which an earlier piece had, perhaps in an earlier process of the service; None is
        the beginning. While the caller does not ask for the next piece, it holds no memory except for the
        connection. Raises LogNotFound if there is nothing (more) to read and never will be,
        LauncherUnavailable if that is unknown now. Closing the iterator frees everything that it held.
        """
        raise NotImplementedError

    async def read_server(self, user: str, server: HubServer) -> ServerPod | None:
        """Return what a job can take from a user's running server; None, the default, if it can be nothing.

        Raises LauncherUnavailable if that is unknown now.
        """
        return None

    async def events(self, job: Job) -> list[JobEvent]:
        """Return the events of the job, oldest first; empty if the launcher has no events."""
        return []

    @property
    def keeps_users(self) -> bool:
        """Whether it keeps something for a user beside the jobs, such as a namespace.

        If so, it has ``list_owners``, ``forget_user`` and ``remove_forgotten``. Default: False.
        """
        return False

    async def list_owners(self) -> set[str]:
        """Return the users for whom it keeps something. Raises LauncherUnavailable."""
        return set()

    async def forget_user(self, user: str) -> None:
        """Begin to remove what it keeps for a user who is forgotten; their jobs are removed one by one.

        It may be called in another process than the leader. Raises LauncherUnavailable.
        """

    async def remove_forgotten(self) -> None:
        """Remove what it keeps for forgotten users, once their jobs are gone. Repeated in the leader."""
