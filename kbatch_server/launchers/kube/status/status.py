"""Turns Kubernetes's objects for a job (its Job, pods and events) into one JobStatus. Pure.

It uses states, never history: each call starts from the existing objects, so a restart loses nothing. Only
the Job's conditions determine the end; another pod may follow one that has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ....models.job import COMPLETE, JobSpec, JobStatus, Pod, Status
from ..manifests.job import FETCH_CONTAINER, get_retries, make_sizes
from ..manifests.labels import LAUNCHED_ANNOTATION
from ..manifests.manifest import Manifest
from ..manifests.serverhome import CLAIM_ANNOTATION
from ..manifests.sidecar import KEEP_CONTAINER
from . import sentences
from .events import Event
from .kueue import explain_hold, is_handed_over
from .pods import (
    DELETED,
    START_PROBLEMS,
    container_statuses,
    ended_at,
    exit_code_of,
    explain_failure,
    find_any_condition,
    find_condition,
    find_container,
    find_state,
    find_strangers,
    has_failed,
    is_keeping,
    is_kept_on_node,
    is_over,
    never_began,
    parse_time,
    program_of,
    sort_pods,
    work_ended_at,
)


def make_pod(pod: Manifest, events: Sequence[Event]) -> Pod:
    """Return the record of a pod; ``events`` are those of its job, and may be missing."""
    scheduled = find_condition(pod, "PodScheduled")
    own = [event for event in events if event.kind == "Pod" and event.name == pod["metadata"]["name"]]
    return Pod(
        name=pod["metadata"]["name"],
        phase=pod["status"].get("phase", "Unknown"),
        created_at=parse_time(pod["metadata"]["creationTimestamp"]),
        exit_code=exit_code_of(pod),
        scheduled_at=parse_time(scheduled["lastTransitionTime"]) if scheduled else None,
        fetched_at=_find_time(find_state(pod, FETCH_CONTAINER), "finishedAt"),
        pulled_at=_find_pull(pod, own),
        started_at=_find_time(find_state(pod), "startedAt"),
        ended_at=ended_at(pod) if is_over(pod) else None,
    )


def _find_time(state: Manifest, which: str) -> datetime | None:
    text = (state.get("terminated") or state.get("running") or {}).get(which)
    # 1970 is what containerd says of a container that never started
    return parse_time(text) if text and not text.startswith("1970") else None


def _find_pull(pod: Manifest, events: Sequence[Event]) -> datetime | None:
    """Return when the command's image was pulled, which only an event tells."""
    image = f'"{find_container(pod).get("image", "")}"'
    return max(
        (event.first for event in events if event.reason == "Pulled" and image in event.message), default=None
    )


IMAGE_PROBLEMS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
SETUP_EVENTS = {
    "FailedMount": "A volume cannot be mounted",
    "FailedAttachVolume": "A volume cannot be attached",
    "FailedCreatePodSandBox": "The node cannot set up the pod",
}


@dataclass(slots=True)
class _Blocked:
    """A state that may last forever: what to tell the user, since when it lasts, and which limit applies."""

    reason: str
    message: str
    since: datetime
    on: str = "start"


def make_status(
    job: Manifest,
    pods: Sequence[Manifest],
    events: Sequence[Event],
    workload: Manifest | None = None,
    spec: JobSpec | None = None,
) -> JobStatus:
    """Return the current status of a job.

    ``pods`` are all known pods of the job, including deleted ones; ``events`` those of the Job and its pods;
    ``workload`` is Kueue's, if the Job was submitted to Kueue. With ``spec``, the message names the container
    whose size is rejected.
    """
    pods = sort_pods(pods)
    sizes = make_sizes(spec) if spec else {}
    status = _make_end(job, pods) or _make_held(job, pods, workload) or _make_active(job, pods, events, sizes)
    # a pod that a node rejected is not an attempt, and has nothing to show
    status.pods = [make_pod(pod, events) for pod in pods if not never_began(pod)]
    status.started_at = min(_starts(pods), default=None)
    return status


def _make_end(job: Manifest, pods: Sequence[Manifest]) -> JobStatus | None:
    """Return the status of an ended Job, else None.

    ``SuccessCriteriaMet`` and ``FailureTarget`` come first, as soon as the end is decided; ``Complete`` and
    ``Failed`` follow when every pod is gone. The time is that of the first, so that it does not change.
    """
    success = find_condition(job, "SuccessCriteriaMet", "Complete")
    if success:
        reason, message = COMPLETE
        return JobStatus(
            status=Status.SUCCEEDED,
            reason=reason,
            message=message,
            exit_code=0,
            ended_at=parse_time(success["lastTransitionTime"]),
        )
    failure = find_condition(job, "FailureTarget", "Failed")
    if not failure:
        return None
    reason, message = failure.get("reason") or "Failed", failure.get("message") or ""
    last = next((pod for pod in reversed(pods) if has_failed(pod)), None)
    code = exit_code_of(last) if last else None
    if reason == "DeadlineExceeded":
        message = sentences.deadline(job["spec"].get("activeDeadlineSeconds"))
    elif last:
        reason, message = explain_failure(last)
        attempts = _count_attempts(pods)
        if attempts > 1:
            message += f" That was attempt {attempts} of {get_retries(job) + 1}."
    else:
        message = (
            "The job failed, and its pods were deleted before the service read the cause: "
            f"{sentences.cut(message)}."
        )
    return JobStatus(
        status=Status.FAILED,
        reason=reason,
        message=message,
        exit_code=code,
        ended_at=parse_time(failure["lastTransitionTime"]),
        never_began=bool(pods) and all(never_began(pod) for pod in pods),
        was_removed=reason == DELETED or (last is None and reason != "DeadlineExceeded"),
    )


def _make_held(job: Manifest, pods: Sequence[Manifest], workload: Manifest | None) -> JobStatus | None:
    """Return the status of a Job that Kueue has (again) suspended, and that has no living pod, else None."""
    is_held = job["spec"].get("suspend") and is_handed_over(job)
    if not is_held or any(not (pod.get("isGone") or is_over(pod)) for pod in pods):
        return None
    reason, message = explain_hold(job, workload)
    return JobStatus(status=Status.PENDING, reason=reason, message=message)


def _make_active(
    job: Manifest, pods: Sequence[Manifest], events: Sequence[Event], sizes: Mapping[str, Manifest]
) -> JobStatus:
    """Return the status of a Job that has not ended: that of the newest pod, or why it has none."""
    newest = pods[-1] if pods else None
    if newest is None or (has_failed(newest) and not find_strangers(newest)):
        return _make_between(job, newest, _count_attempts(pods), events, sizes)
    name = newest["metadata"]["name"]
    if "running" in find_state(newest) or is_over(newest):
        if newest["metadata"].get("deletionTimestamp"):
            if (find_condition(newest, "DisruptionTarget") or {}).get("reason") == "DeletionByTaintManager":
                return JobStatus(status=Status.RUNNING, reason="NodeLost", message=sentences.NODE_LOST)
            return JobStatus(status=Status.RUNNING, reason="Terminating", message="Stopping.")
        if strangers := find_strangers(newest):
            return JobStatus(
                status=Status.RUNNING,
                reason="SidecarRunning",
                message=sentences.strangers(strangers),
                exit_code=exit_code_of(newest),
                finish_at=work_ended_at(newest),
            )
        if is_keeping(newest):
            message = "The command has ended. Saving its results."
            return JobStatus(status=Status.RUNNING, reason="KeepingOutputs", message=message)
        return JobStatus(status=Status.RUNNING, reason="Running", message="Running.")
    own = [event for event in events if event.kind == "Pod" and event.name == name]
    blocked = _find_block(newest, own)
    if blocked:
        return _make_blocked(blocked)
    reason, message = _describe_progress(newest, own)
    return JobStatus(status=Status.PENDING, reason=reason, message=message)


def _make_between(
    job: Manifest,
    last: Manifest | None,
    attempts: int,
    events: Sequence[Event],
    sizes: Mapping[str, Manifest],
) -> JobStatus:
    """Return the status of a Job without a living pod: not resumed yet, rejected, or between two attempts."""
    since = _started(job)
    if last is not None:
        since = max(ended_at(last), since)
    if job["spec"].get("suspend"):
        message = "Preparing."
        if LAUNCHED_ANNOTATION in (job["metadata"].get("annotations") or {}):
            message = "The job was suspended from outside this service. It continues when it is resumed."
        return JobStatus(status=Status.PENDING, reason="Suspended", message=message)
    refusals = [
        event
        for event in events
        if event.kind == "Job" and event.reason == "FailedCreate" and event.last >= since
    ]
    if refusals:
        refusal = max(refusals, key=lambda event: event.last)
        on = "schedule" if sentences.is_quota_used_up(refusal.message) else "start"
        message = sentences.refused(refusal.message, sizes)
        return _make_blocked(_Blocked("FailedCreate", message, since, on))
    if last is None and not job["status"].get("startTime"):
        # just unsuspended, perhaps long after its creation, so no time to count from is known
        return JobStatus(
            status=Status.PENDING, reason="NoPod", message="Waiting for Kubernetes to start the job."
        )
    if last is None:
        return _make_blocked(_Blocked("NoPod", "Waiting for Kubernetes to create a pod.", since))
    reason, message = explain_failure(last)
    retries = get_retries(job)
    if retries and (find_condition(last, "DisruptionTarget") or never_began(last)):
        again = "The job will be restarted."
    elif retries and attempts <= retries:
        again = f"Attempt {attempts + 1} of {retries + 1} starts soon."
    else:
        # the Job's status will soon say that it has failed
        return JobStatus(status=Status.RUNNING, reason=reason, message=message, exit_code=exit_code_of(last))
    return JobStatus(status=Status.PENDING, reason=reason, message=f"{message} {again}")


def _count_attempts(pods: Sequence[Manifest]) -> int:
    """Return the number of attempts; pods that had to give way, or that a node rejected, do not count."""
    return sum(1 for pod in pods if not (find_condition(pod, "DisruptionTarget") or never_began(pod)))


def _make_blocked(blocked: _Blocked) -> JobStatus:
    return JobStatus(
        status=Status.PENDING,
        reason=blocked.reason,
        message=blocked.message,
        blocked_since=blocked.since,
        blocked_on=blocked.on,
    )


def _find_block(pod: Manifest, events: Sequence[Event]) -> _Blocked | None:
    """Return what blocks a pod that has not started, or None while it makes progress."""
    created = parse_time(pod["metadata"]["creationTimestamp"])
    scheduled = find_any_condition(pod, "PodScheduled")
    if scheduled is None or scheduled["status"] != "True":
        if scheduled is None or not scheduled.get("message"):
            return _Blocked("Pending", "Waiting for a node.", created, "schedule")
        message = sentences.unschedulable(
            scheduled["message"], find_container(pod), pod["spec"].get("nodeSelector") or {}
        )
        if CLAIM_ANNOTATION in (pod["metadata"].get("annotations") or {}):
            message = sentences.unschedulable_at_home(
                scheduled["message"], message, has_node=is_kept_on_node(pod)
            )
        reason = scheduled.get("reason") or "Unschedulable"
        return _Blocked(reason, message, parse_time(scheduled["lastTransitionTime"]), "schedule")
    since = parse_time(scheduled["lastTransitionTime"])
    for each in container_statuses(pod):
        waiting = (each.get("state") or {}).get("waiting")
        if waiting:
            reason, message = waiting.get("reason") or "", waiting.get("message") or ""
            words = _explain_waiting(pod, each["name"], reason, message)
            if words:
                return _Blocked(reason, words, _first_warning(pod, events, since))
    trouble = _find_trouble(pod, events)
    if trouble:
        words = sentences.volume_problem(SETUP_EVENTS[trouble.reason], trouble.message)
        return _Blocked(trouble.reason, words, _first_warning(pod, events, since))
    if not container_statuses(pod):
        return _Blocked("Scheduled", "Waiting for the node to set up the pod.", since)
    return None


def _find_trouble(pod: Manifest, events: Sequence[Event]) -> Event | None:
    """Return the newest warning about a pod's volumes or network, unless the pod has progressed since."""
    if any("running" in (each.get("state") or {}) for each in container_statuses(pod)):
        return None
    warnings = [event for event in events if event.type == "Warning" and event.reason in SETUP_EVENTS]
    newest = max(warnings, key=lambda event: event.last, default=None)
    if newest and any(e.reason in ("Pulling", "Pulled") and e.last >= newest.last for e in events):
        return None
    return newest


def _explain_waiting(pod: Manifest, name: str, reason: str, message: str) -> str:
    """Return a sentence for a container that cannot start; empty if it is starting."""
    if name == KEEP_CONTAINER:
        return _explain_sidecar(find_container(pod, name), reason, message)
    container = find_container(pod, name)
    image = container.get("image", "")
    if reason in IMAGE_PROBLEMS:
        return sentences.image_problem(reason, image, message)
    if reason in START_PROBLEMS:
        return sentences.start_problem(program_of(container), image, message)
    if reason == "CreateContainerConfigError":
        return f"The container cannot be created: {sentences.cut(message)}."
    if reason in ("", "ContainerCreating", "PodInitializing"):
        return ""
    return f"The container is waiting ({reason}): {sentences.cut(message)}"


def _explain_sidecar(container: Manifest, reason: str, message: str) -> str:
    """Return a sentence for a sidecar that cannot start, which the user cannot fix."""
    if reason in ("", "ContainerCreating", "PodInitializing"):
        return ""
    why = sentences.cut(message) or reason
    if reason in IMAGE_PROBLEMS:
        why = sentences.image_problem(reason, container.get("image", ""), message)
    return f"The sidecar that saves the results cannot start; ask an admin to fix this: {why}"


def _first_warning(pod: Manifest, events: Sequence[Event], since: datetime) -> datetime:
    """Return when the problem began: the pod may have pulled an image for long before that."""
    initialized = find_condition(pod, "Initialized")
    if initialized:
        since = max(since, parse_time(initialized["lastTransitionTime"]))
    return min((e.first for e in events if e.type == "Warning" and e.last >= since), default=since)


def _describe_progress(pod: Manifest, events: Sequence[Event]) -> tuple[str, str]:
    """Return what a starting pod is doing."""
    if "running" in find_state(pod, FETCH_CONTAINER):
        return "PodInitializing", "Fetching the code."
    pulls = [event for event in events if event.reason in ("Pulling", "Pulled")]
    if pulls and max(pulls, key=lambda event: event.last).reason == "Pulling":
        image = pulls[-1].message.partition('"')[2].partition('"')[0]
        return "Pulling", f'Pulling the image "{image}".'
    return "ContainerCreating", "Creating the container."


def _starts(pods: Sequence[Manifest]) -> Iterator[datetime]:
    for pod in pods:
        state = find_state(pod)
        started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
        if started and not started.startswith("1970"):  # what containerd says of one that never started
            yield parse_time(started)


def _started(job: Manifest) -> datetime:
    """Return when the Job was resumed, or else created."""
    started = job.get("status", {}).get("startTime") or job["metadata"]["creationTimestamp"]
    return parse_time(started)
