"""A job, its spec and its status, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, Field, model_validator

from .progress import JobProgress
from .request import REQUESTED, RequestedSpec
from .results import JobOutputs
from .times import Moment, to_iso, utcnow


class Status(StrEnum):
    """The status of a job. The last three are final."""

    QUEUED = "queued"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether a job with this status has ended."""
        return self in ENDS


ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})

COMPLETE = ("Complete", "Completed successfully.")
"""The reason and the message of a job that succeeded."""

_WORDS = {
    Status.QUEUED: ("Queued", "Waiting to start."),
    Status.PENDING: ("Pending", "Waiting to run."),
    Status.RUNNING: ("Running", "Running."),
    Status.SUCCEEDED: COMPLETE,
    Status.FAILED: ("Error", "The job failed."),
    Status.CANCELLED: ("Cancelled", "Cancelled by the user."),
}
"""The default reason and message of each status."""


MAX_RETRY_DELAY_SECONDS = 600.0
"""The maximum of a doubling delay, in Kubernetes and here."""


class ProfileChoice(BaseModel):
    """One of the choices for an option of a profile."""

    name: str
    """What a request says."""
    display_name: str
    default: bool = False


class UnlistedChoice(BaseModel):
    """How users may enter a choice of their own."""

    display_name: str
    """The label of the text field."""
    display_name_in_choices: str
    """The label among the choices, such as ``Other...``."""
    validation_regex: str | None = None
    """A regular expression of Python's that the whole text must match."""
    validation_message: str = ""
    """What the text must be, in words."""


class ProfileOption(BaseModel):
    """A part of a profile that users choose, such as the image."""

    name: str
    display_name: str
    choices: list[ProfileChoice] = Field(default_factory=list)
    unlisted_choice: UnlistedChoice | None = None


class Profile(BaseModel):
    """One entry of the admin's ``profile_list``, as users see it."""

    slug: str
    display_name: str
    description: str = ""
    default: bool = False
    image: str
    """The image, with the default of each option, as are the limits."""
    cpu_limit: float | None = None
    mem_limit: int | None = None
    extra_resource_limits: dict[str, str] = Field(default_factory=dict)
    profile_options: list[ProfileOption] = Field(default_factory=list)


class JobSpec(RequestedSpec):
    """All settings of one job: the request after the admin's defaults, profile and limits.

    The record of the job contains it, so a change of the configuration does not change accepted jobs. The
    environment is not a part of it, because it is stored encrypted.
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
    node_affinity_preferred: list[dict[str, Any]] = Field(default_factory=list)
    node_affinity_required: list[dict[str, Any]] = Field(default_factory=list)
    pod_affinity_preferred: list[dict[str, Any]] = Field(default_factory=list)
    pod_affinity_required: list[dict[str, Any]] = Field(default_factory=list)
    pod_anti_affinity_preferred: list[dict[str, Any]] = Field(default_factory=list)
    pod_anti_affinity_required: list[dict[str, Any]] = Field(default_factory=list)
    scheduler_name: str | None = None
    uid: int | None = None
    gid: int | None = None
    fs_gid: int | None = None
    supplemental_gids: list[int] = Field(default_factory=list)
    allow_privilege_escalation: bool | None = False
    pod_security_context: dict[str, Any] = Field(default_factory=dict)
    container_security_context: dict[str, Any] = Field(default_factory=dict)
    image_pull_policy: str | None = None
    image_pull_secrets: list[str] = Field(default_factory=list)
    priority_class_name: str | None = None
    extra_labels: dict[str, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("extra_labels", "labels")
    )
    """Records of earlier versions have it as ``labels``, and the next as ``annotations``."""
    extra_annotations: dict[str, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("extra_annotations", "annotations")
    )
    slug_scheme: str = "safe"
    pvc_name_template: str = "claim-{user_server}"
    image_working_dir: str | None = None
    """The folder that the command starts in, if it does not start in the code; None: that of the image."""
    env_sources: list[dict[str, Any]] = Field(default_factory=list)
    """Variables that the admin takes from elsewhere, such as a Secret: EnvVars of Kubernetes."""
    automount_service_account_token: bool | None = None
    privileged: bool = False
    lifecycle_hooks: dict[str, Any] = Field(default_factory=dict)
    init_containers: list[dict[str, Any]] = Field(default_factory=list)
    extra_containers: list[dict[str, Any]] = Field(default_factory=list)
    extra_container_config: dict[str, Any] = Field(default_factory=dict)
    extra_pod_config: dict[str, Any] = Field(default_factory=dict)
    termination_grace_period_seconds: int = 30
    keep_outputs: bool = False
    output_timeout_seconds: int = 300
    sidecar_timeout_seconds: int = 30
    ttl_seconds_after_finished: int = 3600
    kueue_priority_class: str | None = None
    start_timeout_seconds: int = 600
    schedule_timeout_seconds: int = 0
    home_placement: str = "none"
    home_mount_path: str = "/home/jovyan"
    home_subpath: str = ""
    taken: str = ""
    """What the job has from the server that it is like, as a sentence."""
    unpinned_image: str | None = None
    """The image by the name that was checked, if ``image`` has the digest of the server's image."""
    max_children: int = 0
    max_child_depth: int = 0

    def get_longest_seconds(self) -> int | None:
        """Return the seconds from a launch within which the job must end, with all waiting; None: no limit.

        A Kueue queue may hold a job for any time.
        """
        if self.active_deadline_seconds is None or not self.schedule_timeout_seconds or self.queue_name:
            return None
        delay = max(self.retry_delay_seconds, MAX_RETRY_DELAY_SECONDS)
        waits = self.schedule_timeout_seconds + self.start_timeout_seconds + delay
        grace = self.termination_grace_period_seconds + self.output_timeout_seconds
        return int(self.active_deadline_seconds + grace + (self.retries + 1) * waits)

    def get_retry_delay_seconds(self, failures: int) -> float:
        """Return the delay of the next attempt in seconds, after so many failed ones."""
        delay = self.retry_delay_seconds
        if self.retry_backoff == "fixed":
            return delay
        return min(delay * 2.0 ** (failures - 1), max(delay, MAX_RETRY_DELAY_SECONDS))


class Pod(BaseModel):
    """One attempt of a job: a Kubernetes Pod, or a process on this machine."""

    name: str
    phase: str
    created_at: datetime
    exit_code: int | None = None
    scheduled_at: datetime | None = None
    """When it was assigned to a node."""
    fetched_at: datetime | None = None
    """When its code was fetched."""
    pulled_at: datetime | None = None
    """When its image was pulled."""
    started_at: datetime | None = None
    """When its command started."""
    ended_at: datetime | None = None

    def merged_with(self, earlier: Pod) -> Pod:
        """Return it with the earlier facts that can no longer be seen: events expire soon."""
        known = earlier.model_dump(exclude_none=True) | self.model_dump(exclude_none=True)
        return Pod.model_validate(known)


class JobStatus(BaseModel):
    """The current status of one job according to the launcher, computed from the existing objects.

    ``blocked_since`` is set while the job waits for something that may never happen; ``blocked_on`` is the
    limit that applies: ``"schedule"`` (waiting for a node) or ``"start"`` (waiting for an image, a container
    that can be created, an admission). An empty ``reason`` or ``message`` becomes the default of the status.
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
    """When the service must end the job, if the launcher does not."""
    deadline_message: str = ""
    held_until: datetime | None = None
    """When the launcher may start the next attempt, if that has a delay."""
    never_began: bool = False
    """Whether a failed job never ran its command, for a temporary reason."""
    was_removed: bool = False
    """Whether the pods of a failed job were deleted, so that the end of its command is unknown."""
    finish_at: datetime | None = None
    """When the service must end the pod: the command has ended with ``exit_code``, and another container that
    something added to the pod runs on."""

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        reason, message = _WORDS[self.status]
        self.reason, self.message = self.reason or reason, self.message or message
        return self

    def get_limit_seconds(self, spec: JobSpec) -> int:
        """Return the limit in seconds on what the job waits for; 0: none."""
        return spec.schedule_timeout_seconds if self.blocked_on == "schedule" else spec.start_timeout_seconds

    def get_left_seconds(self, spec: JobSpec) -> float | None:
        """Return the seconds until the job has waited for too long; None without a limit."""
        limit = self.get_limit_seconds(spec)
        if self.blocked_since is None or not limit:
            return None
        return limit - (utcnow() - self.blocked_since).total_seconds()

    def get_seconds_to_deadline(self) -> float | None:
        """Return the seconds until the service must end the job; None if it must not."""
        return None if self.deadline_at is None else (self.deadline_at - utcnow()).total_seconds()

    def get_held_seconds(self) -> float | None:
        """Return the seconds until the next attempt may start; None if none waits."""
        return None if self.held_until is None else (self.held_until - utcnow()).total_seconds()

    def get_seconds_to_finish(self) -> float | None:
        """Return the seconds until the service must end the pod's other containers, or None."""
        return None if self.finish_at is None else (self.finish_at - utcnow()).total_seconds()

    def is_past_deadline(self) -> bool:
        """Whether the service must end the job now."""
        left = self.get_seconds_to_deadline()
        return left is not None and left <= 0

    def is_overdue(self, spec: JobSpec) -> bool:
        """Whether the job has waited for too long."""
        left = self.get_left_seconds(spec)
        return left is not None and left <= 0


class JobEvent(BaseModel):
    """An event of a job, like a Kubernetes Event."""

    time: datetime
    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    message: str
    count: int = 1


@dataclass(slots=True)
class Job:
    """The record of a job.

    ``id`` is also the name of everything that is created for it (a Kubernetes Job, a folder). Only the
    launcher knows the format of ``state``. ``launched_at`` is when the launcher confirmed that it has created
    the job; until then, creating it again is harmless and right.
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
    """Whether it has an environment, which stays encrypted in the store until it is needed."""
    groups: list[str] = field(default_factory=list)
    attempts: int = 0
    launch_begun_at: datetime | None = None
    launched_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cleaned_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancelled_by: str | None = None
    """The user who cancelled it."""
    cancel_note: str | None = None
    """That user's reason."""
    delete_requested_at: datetime | None = None
    is_forgotten: bool = False
    pods: list[Pod] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    outputs: JobOutputs | None = None
    """None until their state is known."""
    parent: str | None = None
    """The id of the job that submitted it; None for a job of a user."""
    depth: int = 0
    """The number of jobs above it: 0 for a job of a user."""
    children: int = 0
    """The number of jobs that it has submitted."""
    progress: JobProgress | None = None
    hub_token: str | None = None
    """The id of its token at the hub: see ``engine.hubtokens``. None: it never had one."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in any way."""
        return self.status.is_end

    @property
    def is_to_be_launched(self) -> bool:
        """Whether it waits for its launch, and was neither cancelled nor deleted."""
        return not (self.is_over or self.launched_at or self.cancel_requested_at or self.delete_requested_at)

    @property
    def taken(self) -> str | None:
        """What it has from the server that it is like, as a sentence."""
        return self.spec.taken or None

    @property
    def full_message(self) -> str:
        """The message for users: ``message``, or who cancelled it and why, and the problem with its results.

        It is not stored, because the state of the results may change after the end is recorded.
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
        """Return a JobJson, the JSON of ``api/v1/jobs``, with ``env`` if it may be shown."""
        shown = dict(zip(_RECORDED, _get_recorded(self), strict=True)) | self.spec.get_requested()
        shown["message"] = self.full_message
        shown["env"] = None if env is None and self.has_env else dict(env or {})
        return {name: value if type(value) in _PLAIN else _to_json(value) for name, value in shown.items()}


class JobBriefJson(BaseModel):
    """A short form of a job, for a token that may submit or cancel jobs but not read them."""

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
    parent: str | None
    """The id of the job that submitted it."""
    children: int
    """The number of jobs that it has submitted."""
    progress: JobProgress | None
    """What the job itself has reported last."""
    taken: str | None
    """What the job has from the server that it is like, as a sentence."""


_RECORDED = [name for name in JobJson.model_fields if name not in {*REQUESTED, "env"}]
"""The fields of a job's JSON that the record has under the same name."""

_get_recorded = attrgetter(*_RECORDED)

_PLAIN = frozenset({str, int, float, list, dict, Status, type(None)})
"""The types of values that are already JSON, as most are: fifty jobs have two thousand values."""


def _to_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return to_iso(value) if isinstance(value, datetime) else value
