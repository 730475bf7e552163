"""Reads a pod (or the conditions of any object): its state, and in words why it failed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from ....models.job import JobSpec
from ..manifests.home import NOT_FOUND_CODE, NOT_FOUND_MESSAGE
from ..manifests.job import FETCH_CONTAINER, MAIN_CONTAINER
from ..manifests.manifest import Manifest
from ..manifests.serverhome import FOLDER_CONTAINER, NODE_ANNOTATION
from ..manifests.sidecar import KEEP_CONTAINER
from . import sentences

START_PROBLEMS = frozenset({"StartError", "RunContainerError", "CreateContainerError", "ContainerCannotRun"})
"""The reasons of a container whose command could not be started at all."""

UNKNOWN_END = "ContainerStatusUnknown"
"""The reason of a container whose end its node did not see; the kubelet makes up its exit code, 137."""

DELETED = "Deleted"
"""The reason of a pod that was deleted before its command ended."""

REJECTION_SECONDS = 2
"""Maximum number of seconds from when a kubelet first sees a pod to its report that it rejects it."""

MAX_FREE_ATTEMPTS = 6
"""The maximum number of pods that a node rejected and that count as no attempt of a job."""

_STOPPED = (137, 143)
"""The exit codes of commands that KILL or TERM stopped."""


def sort_pods(pods: Sequence[Manifest]) -> list[Manifest]:
    """Return the pods, oldest first."""
    return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def find_condition(manifest: Manifest, *types: str) -> Manifest | None:
    """Return the condition of one of these types that is True, or None."""
    for kind in types:
        for condition in manifest.get("status", {}).get("conditions") or []:
            if condition["type"] == kind and condition["status"] == "True":
                found: Manifest = condition
                return found
    return None


def find_container(pod: Manifest, name: str = MAIN_CONTAINER) -> Manifest:
    """Return a container in the pod's spec; empty if it has none of that name."""
    spec = pod.get("spec", {})
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if container["name"] == name:
            found: Manifest = container
            return found
    return {}


def find_state(pod: Manifest, name: str = MAIN_CONTAINER) -> Manifest:
    """Return a container's state, ``{"waiting" | "running" | "terminated": …}``; empty before it has one."""
    for each in container_statuses(pod):
        if each["name"] == name:
            state: Manifest = each.get("state") or {}
            return state
    return {}


def is_over(pod: Manifest) -> bool:
    """Whether the pod's main container will not run any more."""
    return pod["status"].get("phase") in ("Succeeded", "Failed") or "terminated" in find_state(pod)


def never_began(pod: Manifest) -> bool:
    """Whether a node's kubelet rejected a new pod, so that nothing of it ran.

    Such a pod has no statuses of containers. A pod that ran may have none either, if its kubelet was
    restarted and no longer accepts it (1.35); but then the kubelet had seen the pod for longer before it
    wrote this.
    """
    status = pod["status"]
    if status.get("phase") != "Failed" or container_statuses(pod) or find_condition(pod, "DisruptionTarget"):
        return False
    seen, written = status.get("startTime"), pod["metadata"].get("statusWrittenAt")
    if not (seen and written):
        return False
    return parse_time(written) - parse_time(seen) <= timedelta(seconds=REJECTION_SECONDS)


def get_wanted_limit(pods: Iterable[Manifest], spec: JobSpec) -> int:
    """Return the ``backoffLimit`` for a Job with these pods: its retries, plus one per rejected pod."""
    count = sum(1 for pod in pods if never_began(pod))
    return spec.retries + min(count, MAX_FREE_ATTEMPTS)


def find_strangers(pod: Manifest) -> list[str]:
    """Return the containers that are not the job's own and have not ended when the job's command has.

    They may run, or wait for an image that cannot be pulled. Kubernetes ends native sidecars, in its order:
    they are here only after the results were sent, if they ignore that they should end.
    """
    if pod.get("isGone") or "terminated" not in find_state(pod):
        return []
    status = pod["status"]
    left = [each["name"] for each in status.get("containerStatuses") or [] if _runs_on(each)]
    if not is_keeping(pod):
        left += [
            each["name"]
            for each in status.get("initContainerStatuses") or []
            if _runs_on(each) and is_sidecar(pod, each["name"])
        ]
    return [name for name in left if name not in (MAIN_CONTAINER, KEEP_CONTAINER)]


def _runs_on(status: Manifest) -> bool:
    return "terminated" not in (status.get("state") or {})


def is_sidecar(pod: Manifest, name: str) -> bool:
    """Whether a container of the pod is a native sidecar, which Kubernetes ends after the others."""
    return find_container(pod, name).get("restartPolicy") == "Always"


def work_ended_at(pod: Manifest) -> datetime:
    """Return when the pod's main container had ended and its results were sent, if it has any."""
    finished = (find_state(pod, KEEP_CONTAINER).get("terminated") or {}).get("finishedAt")
    return max(ended_at(pod), parse_time(finished)) if finished else ended_at(pod)


def is_ending(pod: Manifest) -> bool:
    """Whether a container of a pod still runs after the job has ended."""
    return not pod.get("isGone") and pod["status"].get("phase") not in ("Succeeded", "Failed")


def is_keeping(pod: Manifest) -> bool:
    """Whether the user's command has ended and the sidecar is sending its results."""
    return "terminated" in find_state(pod) and "running" in find_state(pod, KEEP_CONTAINER)


def is_kept_on_node(pod: Manifest) -> bool:
    """Whether the pod can run only on the node where its user's home was in use at its launch."""
    return NODE_ANNOTATION in (pod["metadata"].get("annotations") or {})


def parse_time(text: str) -> datetime:
    """Return an aware datetime from RFC 3339, which may have nanoseconds (these are dropped)."""
    if "." in text:
        whole, _, fraction = text.rstrip("Z").partition(".")
        text = f"{whole}.{fraction[:6]}Z"
    return datetime.fromisoformat(text)


def has_failed(pod: Manifest) -> bool:
    """Whether this pod has not succeeded and will not.

    ``isGone`` is the reflector's mark on a pod that was removed while its Job still exists.
    """
    if pod["status"].get("phase") == "Failed":
        return True
    if pod.get("isGone"):
        return bool(pod["status"].get("phase") != "Succeeded")
    ended = find_state(pod).get("terminated")
    return bool(ended and ended["exitCode"])


def find_any_condition(manifest: Manifest, kind: str) -> Manifest | None:
    """Return the condition of this type, True or not, or None."""
    for condition in manifest["status"].get("conditions") or []:
        if condition["type"] == kind:
            found: Manifest = condition
            return found
    return None


def container_statuses(pod: Manifest) -> list[Manifest]:
    """Return the statuses of a pod's containers, in the order in which they start."""
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def exit_code_of(pod: Manifest) -> int | None:
    """Return the exit code of the user's command; None if it never started, or its end is unknown."""
    ended = find_state(pod).get("terminated")
    if not ended or ended.get("reason") in START_PROBLEMS or ended.get("reason") == UNKNOWN_END:
        return None
    code: int = ended["exitCode"]
    return code


def program_of(container: Manifest) -> str:
    """Return the program in a container's spec; empty if it is the image's own."""
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return words[0] if words else ""


def ended_at(pod: Manifest) -> datetime:
    """Return when the pod's main container ended, or else when the pod was created."""
    finished = (find_state(pod).get("terminated") or {}).get("finishedAt")
    created = parse_time(pod["metadata"]["creationTimestamp"])
    return max(parse_time(finished), created) if finished else created


def explain_failure(pod: Manifest) -> tuple[str, str]:
    """Return Kubernetes's reason and a sentence for a pod that has failed, or is gone."""
    status = pod["status"]
    target = find_condition(pod, "DisruptionTarget")
    if status.get("reason") == "Evicted":
        return "Evicted", sentences.evicted(status.get("message", ""))
    if target:
        reason = target.get("reason") or "DisruptionTarget"
        word = "Evicted" if reason == "EvictionByEvictionAPI" else reason
        return word, sentences.disruption(reason, target.get("message", ""))
    for each in status.get("initContainerStatuses") or []:
        ended = (each.get("state") or {}).get("terminated")
        # how a sidecar ends says nothing about the job
        if ended and ended["exitCode"] and not is_sidecar(pod, each["name"]):
            return _explain_init_failure(pod, each["name"], ended)
    ended = find_state(pod).get("terminated")
    if never_began(pod):
        reason = status.get("reason") or "Rejected"
        return reason, sentences.rejected(reason, status.get("message") or "")
    if _was_deleted(pod, ended):
        return DELETED, "The pod was deleted from outside this service."
    if ended and (ended["exitCode"] or ended.get("reason") == "OOMKilled"):
        return _explain_exit(find_container(pod), ended)
    reason = status.get("reason") or "Failed"
    return reason, sentences.failed_on_node(status.get("message") or reason)


def _explain_init_failure(pod: Manifest, name: str, ended: Manifest) -> tuple[str, str]:
    container = find_container(pod, name)
    reason, message = _explain_exit(container, ended)
    if name == FOLDER_CONTAINER and ended.get("message"):
        return "HomeNotWritable", f"The results cannot be saved: {sentences.cut(ended['message'])}."
    if name != FETCH_CONTAINER:
        return reason, f"Init container {name} failed. {message}"
    said = sentences.cut(ended.get("message") or "")
    if reason in START_PROBLEMS or reason == "OOMKilled" or not said:
        return "CodeFetchFailed", f"The code could not be fetched. {message}"
    return "CodeFetchFailed", f"The code could not be fetched: {said}."


def _explain_exit(container: Manifest, ended: Manifest) -> tuple[str, str]:
    reason = ended.get("reason") or "Error"
    if reason == "OOMKilled":
        return reason, sentences.out_of_memory(container)
    if reason in START_PROBLEMS:
        words = sentences.start_problem(
            program_of(container), container.get("image", ""), ended.get("message") or ""
        )
        return reason, words
    if reason == UNKNOWN_END:
        return reason, sentences.UNKNOWN_END
    if (ended["exitCode"], (ended.get("message") or "").strip()) == (NOT_FOUND_CODE, NOT_FOUND_MESSAGE):
        image = container.get("image", "")
        return "StartError", sentences.start_problem(program_of(container), image, NOT_FOUND_MESSAGE)
    return reason, sentences.exit_code(ended["exitCode"])


def _was_deleted(pod: Manifest, ended: Manifest | None) -> bool:
    """Whether the pod was deleted before its container ended by itself."""
    moment = pod["metadata"].get("deletionTimestamp")
    if not moment:
        return bool(pod.get("isGone")) and not ended
    if not ended or not ended.get("finishedAt"):
        return True
    if ended["exitCode"] in _STOPPED and ended.get("reason") != "OOMKilled":
        return True
    # the timestamp is when the grace period is over
    grace = timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds") or 0)
    return parse_time(ended["finishedAt"]) >= parse_time(moment) - grace
