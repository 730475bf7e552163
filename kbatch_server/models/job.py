"""What is kept and what is shown: one class and one JSON form of each thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from .request import REQUESTED, RequestedSpec
from .results import JobOutputs
from .times import Moment, to_iso, utcnow


class Status(StrEnum):
    """Where a job is: the last three are ends, which a job never leaves."""

    QUEUED = "queued"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether a job with this status is over."""
        return self in ENDS


ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})

COMPLETE = ("Complete", "Completed successfully.")
"""The reason and the message of a job that succeeded, whoever ends it."""

_WORDS = {
    Status.QUEUED: ("Queued", "Waiting to start."),
    Status.PENDING: ("Pending", "Waiting to run."),
    Status.RUNNING: ("Running", "Running."),
    Status.SUCCEEDED: COMPLETE,
    Status.FAILED: ("Error", "The job failed."),
    Status.CANCELLED: ("Cancelled", "Cancelled by the user."),
}
"""The reason and the message of a status of which a launcher says no more."""


MAX_RETRY_DELAY_SECONDS = 600.0
"""Where doubling ends, there and here."""


class Profile(BaseModel):
    """One entry of the admin's ``profile_list`` as a user sees it."""

    slug: str
    display_name: str
    description: str = ""
    default: bool = False
    image: str
    cpu_limit: float | None = None
    mem_limit: int | None = None
    extra_resource_limits: dict[str, str] = Field(default_factory=dict)


class JobSpec(RequestedSpec):
    """What one job may be and will be: the request after the admin's defaults, profile and limits.

    It is stored with the job, so that a change of configuration does not change a job that was
    accepted. The environment is not in it: that is sealed apart.
    """

    cpu_guarantee: float | None = None
    mem_guarantee: int | None = None
    extra_resource_limits: dict[str, str] = Field(default_factory=dict)
    extra_resource_guarantees: dict[str, str] = Field(default_factory=dict)
    code_volume_size: int | None = None
    home_volume_size: int | None = None
    output_volume_size: int | None = None
    init_resources: dict[str, dict[str, str]] = Field(default_factory=dict)
    sidecar_resources: dict[str, dict[str, str]] = Field(default_factory=dict)
    ensure_home: bool = True
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    volumes: list[dict[str, Any]] = Field(default_factory=list)
    volume_mounts: list[dict[str, Any]] = Field(default_factory=list)
    service_account: str | None = None
    pod_security_context: dict[str, Any] = Field(default_factory=dict)
    container_security_context: dict[str, Any] = Field(default_factory=dict)
    image_pull_policy: str | None = None
    image_pull_secrets: list[str] = Field(default_factory=list)
    priority_class_name: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    termination_grace_period_seconds: int = 30
    keep_outputs: bool = False
    output_timeout_seconds: int = 300
    sidecar_timeout_seconds: int = 30
    ttl_seconds_after_finished: int = 3600
    kueue_priority_class: str | None = None
    start_timeout_seconds: int = 600
    schedule_timeout_seconds: int = 0

    def get_retry_delay_seconds(self, failures: int) -> float:
        """Return how long the next attempt waits after so many that failed."""
        delay = self.retry_delay_seconds
        if self.retry_backoff == "fixed":
            return delay
        return min(delay * 2.0 ** (failures - 1), max(delay, MAX_RETRY_DELAY_SECONDS))


class Pod(BaseModel):
    """One run of a job: a Kubernetes Pod, or a process on this machine."""

    name: str
    phase: str
    created_at: datetime
    exit_code: int | None = None
    scheduled_at: datetime | None = None
    """When a node was chosen for it."""
    fetched_at: datetime | None = None
    """When its code was there."""
    pulled_at: datetime | None = None
    """When its image was there."""
    started_at: datetime | None = None
    """When its command began."""
    ended_at: datetime | None = None

    def merged_with(self, earlier: Pod) -> Pod:
        """Return it with what was seen of it earlier and cannot be seen any more: an event is soon gone."""
        known = earlier.model_dump(exclude_none=True) | self.model_dump(exclude_none=True)
        return Pod.model_validate(known)


class JobStatus(BaseModel):
    """What a launcher sees of one job now: a value, recomputed from what is there.

    ``blocked_since`` is set while the job waits for something that may never come, and says since when;
    ``blocked_on`` says which of the two limits holds: ``"schedule"`` (a node with room) or ``"start"``
    (an image, a container that can be created, an admission). An empty ``reason`` or ``message`` becomes
    that of the status.
    """

    status: Status
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    pods: list[Pod] = Field(default_factory=list)
    blocked_since: datetime | None = None
    blocked_on: str = ""
    deadline_at: datetime | None = None
    """When the service is to end it, where the launcher leaves that to the service."""
    deadline_message: str = ""
    held_until: datetime | None = None
    """When the launcher is to let the next attempt go, where it is held back until then."""
    never_began: bool = False
    """Of a job that failed: whether nothing of its command ran, for a reason that may pass."""
    was_removed: bool = False
    """Of a job that failed: whether its pods were deleted, so that nothing says how its command ended."""
    finish_at: datetime | None = None
    """When the service is to end what is left of it: its command has ended with ``exit_code``, and something
    that was put beside it runs on."""

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        reason, message = _WORDS[self.status]
        self.reason, self.message = self.reason or reason, self.message or message
        return self

    def get_limit_seconds(self, spec: JobSpec) -> int:
        """Return how long a job may be held up by what holds it up now; 0 means for ever."""
        return spec.schedule_timeout_seconds if self.blocked_on == "schedule" else spec.start_timeout_seconds

    def get_left_seconds(self, spec: JobSpec) -> float | None:
        """Return the seconds until a job was held up for too long, or None where there is no limit."""
        limit = self.get_limit_seconds(spec)
        if self.blocked_since is None or not limit:
            return None
        return limit - (utcnow() - self.blocked_since).total_seconds()

    def get_seconds_to_deadline(self) -> float | None:
        """Return the seconds until the service is to end it, or None where it is not."""
        return None if self.deadline_at is None else (self.deadline_at - utcnow()).total_seconds()

    def get_held_seconds(self) -> float | None:
        """Return the seconds until the next attempt is to be let go, or None where none is held back."""
        return None if self.held_until is None else (self.held_until - utcnow()).total_seconds()

    def get_seconds_to_finish(self) -> float | None:
        """Return the seconds until what is left beside its command is to be ended, or None."""
        return None if self.finish_at is None else (self.finish_at - utcnow()).total_seconds()

    def is_past_deadline(self) -> bool:
        """Whether the service is to end it now."""
        left = self.get_seconds_to_deadline()
        return left is not None and left <= 0

    def is_overdue(self, spec: JobSpec) -> bool:
        """Whether a job has been held up for longer than it may be."""
        left = self.get_left_seconds(spec)
        return left is not None and left <= 0


class JobEvent(BaseModel):
    """Something that happened to a job, as a Kubernetes Event tells it."""

    time: datetime
    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    message: str
    count: int = 1


@dataclass(slots=True)
class Job:
    """A job as it is recorded.

    ``id`` is also the name of everything that is made for it (a Kubernetes Job, a folder).
    ``state`` is the launcher's own and opaque to others. ``launched_at`` is when the launcher had
    confirmed that it made the job; until then making it again is harmless and right.
    """

    id: str
    user: str
    name: str
    spec: JobSpec
    created_at: datetime
    seq: int = 0
    status: Status = Status.QUEUED
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    has_env: bool = False
    """Whether it has an environment. That stays sealed in the store until it is asked for."""
    groups: list[str] = field(default_factory=list)
    attempts: int = 0
    launch_begun_at: datetime | None = None
    launched_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cleaned_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancelled_by: str | None = None
    """Who asked for its end."""
    cancel_note: str | None = None
    """Why, in their words."""
    delete_requested_at: datetime | None = None
    is_forgotten: bool = False
    pods: list[Pod] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    outputs: JobOutputs | None = None
    """None as long as nothing is known of them."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status.is_end

    @property
    def is_to_be_launched(self) -> bool:
        """Whether it waits for its launch, and nobody wants it to end."""
        return not (self.is_over or self.launched_at or self.cancel_requested_at or self.delete_requested_at)

    @property
    def full_message(self) -> str:
        """What a user reads: ``message``, or who else cancelled it and why; and why results are not kept.

        Put together here and not in the record: what is kept may change after the end is written.
        """
        message = self.message
        if self.status == Status.CANCELLED and self.cancelled_by not in (None, self.user):
            message = f"Cancelled by {self.cancelled_by}" + (
                f": {self.cancel_note}" if self.cancel_note else "."
            )
        if self.outputs is not None and self.outputs.state == "failed":
            return f"{message} Results not saved: {self.outputs.message}".lstrip()
        if self.outputs is not None and self.outputs.omitted_files:
            return f"{message} Results incomplete: {self.outputs.message}".lstrip()
        return message

    def to_dict(self, *, env: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """Return the JSON form of ``api/v1/jobs``, a JobJson, with ``env`` where it is to be shown."""
        shown = dict(zip(_RECORDED, _get_recorded(self), strict=True)) | self.spec.get_requested()
        shown["message"] = self.full_message
        shown["env"] = None if env is None and self.has_env else dict(env or {})
        return {name: value if type(value) in _PLAIN else _to_json(value) for name, value in shown.items()}


class JobBriefJson(BaseModel):
    """A job in short, for a token that may submit or cancel jobs but not read them."""

    id: str
    user: str
    name: str
    status: Status
    created_at: Moment


class JobJson(RequestedSpec, JobBriefJson):
    """A job: its request, its status and its results."""

    reason: str
    message: str
    exit_code: int | None
    started_at: Moment | None
    ended_at: Moment | None
    attempts: int
    cancelled_by: str | None
    cancel_note: str | None
    env: dict[str, str | None] | None
    """Null in lists and changes; its values are for the job's own user."""
    description: str
    tags: dict[str, str]
    outputs: JobOutputs | None


_RECORDED = [name for name in JobJson.model_fields if name not in {*REQUESTED, "env"}]
"""What of a job's JSON is in the record itself, under the same name."""

_get_recorded = attrgetter(*_RECORDED)

_PLAIN = frozenset({str, int, float, list, dict, Status, type(None)})
"""The types of values that are JSON as they are, which most are: fifty jobs have two thousand."""


def _to_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return to_iso(value) if isinstance(value, datetime) else value
