"""What a user is told of a job, from the Job, Pods and Events that a cluster has of it."""

from __future__ import annotations

import subprocess
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kbatch_server.launchers.kube.job_objects import make_seen_status, make_timed_status, set_deadline
from kbatch_server.launchers.kube.manifests.home import HOME_SCRIPT, NOT_FOUND_MESSAGE, wrap_command
from kbatch_server.launchers.kube.manifests.job import FETCH_CONTAINER, MAIN_CONTAINER
from kbatch_server.launchers.kube.manifests.sidecar import KEEP_CONTAINER
from kbatch_server.launchers.kube.reflector import Seen, trim_pod
from kbatch_server.launchers.kube.status import sentences
from kbatch_server.launchers.kube.status.events import Event
from kbatch_server.launchers.kube.status.pods import MAX_FREE_ATTEMPTS, get_wanted_limit, parse_time
from kbatch_server.launchers.kube.status.status import make_pod, make_status
from kbatch_server.models.job import JobSpec, JobStatus, Status
from kbatch_server.profiles.config import JobConfig

Manifest = dict[str, Any]

IMAGE = "registry.example.org/team/train:1"


def at(minute: int, second: int = 0) -> str:
    return f"2026-01-01T10:{minute:02}:{second:02}Z"


def moment(minute: int, second: int = 0) -> datetime:
    return datetime(2026, 1, 1, 10, minute, second, tzinfo=UTC)


def condition(
    kind: str, reason: str = "", message: str = "", status: str = "True", minute: int = 1
) -> Manifest:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(minute),
    }


def job(*conditions: Manifest, suspend: bool = False, launched: bool = True, **spec: Any) -> Manifest:
    return {
        "metadata": {
            "name": "train-1",
            "namespace": "jobs",
            "uid": "u1",
            "creationTimestamp": at(0),
            "annotations": {"kbatch.jupyter.org/launched": "true"} if launched else {},
        },
        "spec": {"suspend": suspend, "backoffLimit": 0, **spec},
        "status": {"startTime": at(0, 1), "conditions": list(conditions)},
    }


SCHEDULED = condition("PodScheduled")
INITIALIZED = condition("Initialized", minute=2)


def pod(
    phase: str = "Pending",
    state: Manifest | None = None,
    *conditions: Manifest,
    name: str = "train-1-aaaaa",
    created: int = 1,
    init: Manifest | None = None,
    metadata: Manifest | None = None,
    container: Manifest | None = None,
    **status: Any,
) -> Manifest:
    containers = [{"name": "job", "image": IMAGE, "command": ["train"], "resources": {}} | (container or {})]
    statuses: Manifest = {}
    if state is not None:
        statuses["containerStatuses"] = [{"name": "job", "state": state}]
    if init is not None:
        statuses["initContainerStatuses"] = [{"name": "fetch-code", "state": init}]
    return {
        "metadata": {"name": name, "namespace": "jobs", "creationTimestamp": at(created), **(metadata or {})},
        "spec": {
            "containers": containers,
            "initContainers": [{"name": "fetch-code", "image": "busybox:1.36", "command": ["sh"]}],
        },
        "status": {"phase": phase, "conditions": list(conditions), **statuses, **status},
    }


def waiting(reason: str, message: str = "") -> Manifest:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code: int, reason: str = "Error", message: str = "", finished: int = 9) -> Manifest:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": at(2),
            "finishedAt": at(finished),
        }
    }


RUNNING = {"running": {"startedAt": at(3)}}


def event(reason: str, message: str, kind: str = "Pod", name: str = "train-1-aaaaa", **times: int) -> Event:
    return Event.from_manifest(
        {
            "metadata": {"name": "e1", "creationTimestamp": at(0)},
            "involvedObject": {"kind": kind, "name": name, "namespace": "jobs"},
            "type": "Normal" if reason in ("Pulling", "Pulled") else "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": at(times.get("first", 2)),
            "lastTimestamp": at(times.get("last", 5)),
            "count": 3,
        }
    )


def refusal(message: str, **times: int) -> Event:
    return event("FailedCreate", f"Error creating: {message}", "Job", "train-1", **times)


# Ends


@pytest.mark.parametrize("kinds", [["SuccessCriteriaMet"], ["Complete"], ["SuccessCriteriaMet", "Complete"]])
def test_success(kinds: list[str]) -> None:
    conditions = [condition(kind, minute=9 + index) for index, kind in enumerate(kinds)]
    seen = make_status(job(*conditions), [pod("Succeeded", terminated(0, "Completed"))], [])
    assert (seen.status, seen.exit_code) == (Status.SUCCEEDED, 0)
    assert (seen.started_at, seen.ended_at) == (moment(2), moment(9))
    assert [(each.name, each.phase, each.exit_code) for each in seen.pods] == [
        ("train-1-aaaaa", "Succeeded", 0)
    ]


def failed(*pods: Manifest, reason: str = "BackoffLimitExceeded", **spec: Any) -> Any:
    conditions = [
        condition("FailureTarget", reason, "m", minute=9),
        condition("Failed", reason, "m", minute=10),
    ]
    seen = make_status(job(*conditions, **spec), list(pods), [])
    assert seen.status == Status.FAILED
    assert seen.ended_at == moment(9)
    assert seen.blocked_since is None
    return seen


RUNC = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
    "failed: unable to start container process: error during container init: "
)


@pytest.mark.parametrize(
    ("state", "code", "reason", "message"),
    [
        (terminated(3), 3, "Error", "The command ended with exit code 3."),
        (terminated(127), 127, "Error", "The command ended with exit code 127 (command not found)."),
        (
            terminated(137),
            137,
            "Error",
            "The command ended with exit code 137 (SIGKILL: killed, often because it ran out of memory).",
        ),
        (terminated(143), 143, "Error", "The command ended with exit code 143 (SIGTERM: told to stop)."),
        (
            terminated(139),
            139,
            "Error",
            "The command ended with exit code 139 (SIGSEGV: segmentation fault).",
        ),
        (
            terminated(134),
            134,
            "Error",
            (
                "The command ended with exit code 134 (SIGABRT: the program aborted; its last output "
                "often says why)."
            ),
        ),
        (
            terminated(135),
            135,
            "Error",
            (
                "The command ended with exit code 135 (SIGBUS: bad memory access, often because /dev/shm "
                "is full; set a larger shm_size)."
            ),
        ),
        (
            terminated(136),
            136,
            "Error",
            "The command ended with exit code 136 (SIGFPE: division by zero or overflow).",
        ),
        (
            terminated(137, "OOMKilled"),
            137,
            "OOMKilled",
            "Out of memory: the limit is 1.5 GiB (mem_limit). Set a larger limit.",
        ),
        (
            terminated(128, "StartError", RUNC + 'exec: "train": executable file not found in $PATH'),
            None,
            "StartError",
            f'The command "train" cannot be started: the program does not exist in the image "{IMAGE}".',
        ),
        (
            terminated(128, "StartError", RUNC + 'exec: "/code/a.sh": permission denied'),
            None,
            "StartError",
            'The command "/code/a.sh" cannot be started: it is not executable.',
        ),
        (
            terminated(128, "ContainerCannotRun", "exec /code/a: exec format error"),
            None,
            "ContainerCannotRun",
            'The command "train" cannot be started: '
            "it is built for another CPU architecture, or is a script without a #! line.",
        ),
        (
            terminated(
                137, "ContainerStatusUnknown", "The container could not be located when the pod was …"
            ),
            None,
            "ContainerStatusUnknown",
            "The node lost track of the container, for example during a restart: its exit code is unknown.",
        ),
    ],
)
def test_failure_of_the_command(state: Manifest, code: int | None, reason: str, message: str) -> None:
    limits = {"resources": {"limits": {"memory": "1536Mi"}}}
    seen = failed(pod("Failed", state, container=limits))
    assert (seen.exit_code, seen.reason, seen.message) == (code, reason, message)


@pytest.mark.parametrize(
    ("state", "code", "message"),
    [
        (
            terminated(127, message=NOT_FOUND_MESSAGE + "\n"),
            127,
            f'The command "python" cannot be started: the program does not exist in the image "{IMAGE}".',
        ),
        (
            terminated(128, "StartError", RUNC + 'exec: "/bin/sh": no such file or directory'),
            None,
            (
                f'The image "{IMAGE}" has no /bin/sh, which is needed to find a writable home folder. Set '
                "HOME in env to run the command directly."
            ),
        ),
    ],
)
def test_a_command_that_is_started_in_a_home_and_is_not_there(
    state: Manifest, code: int | None, message: str
) -> None:
    found = pod("Failed", state, container={"command": wrap_command(["python", "x.py"])})
    seen = failed(trim_pod(found))
    assert (seen.reason, seen.exit_code, seen.message) == ("StartError", code, message)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["no-such-program"], 127, NOT_FOUND_MESSAGE),
        (["./no-such-file", "x"], 127, NOT_FOUND_MESSAGE),
        (["sh", "-c", "no-such-program"], 127, ""),
        (["sh", "-c", "exit 3"], 3, ""),
    ],
)
@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["busybox", "sh"]], ids=lambda shell: shell[0])
def test_what_starts_a_command_in_a_home_tells_whether_it_is_there(
    command: list[str], code: int, said: str, shell: list[str], tmp_path: Path
) -> None:
    script = HOME_SCRIPT.replace("/dev/termination-log", str(tmp_path / "said"))
    ran = subprocess.run(
        [*shell, "-c", script, "sh", *command], cwd=tmp_path, capture_output=True, check=False
    )
    assert ran.returncode == code
    assert (tmp_path / "said").exists() == bool(said)
    if said:
        assert (tmp_path / "said").read_text() == said + "\n"


def test_out_of_memory_without_a_limit() -> None:
    seen = failed(pod("Failed", terminated(137, "OOMKilled")))
    assert seen.message == "Out of memory: the node had none left. Set mem_limit to what the job needs."


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            terminated(81, message="the service answered 404 Not Found\n"),
            "The code could not be fetched: the service answered 404 Not Found.",
        ),
        (terminated(1), "The code could not be fetched. The command ended with exit code 1."),
        (
            terminated(128, "StartError", RUNC + 'exec: "sh": executable file not found in $PATH'),
            "The code could not be fetched. "
            'The command "sh" cannot be started: the program does not exist in the image "busybox:1.36".',
        ),
    ],
)
def test_failure_to_fetch_the_code(state: Manifest, message: str) -> None:
    seen = failed(pod("Failed", waiting("PodInitializing"), init=state))
    assert (seen.reason, seen.exit_code, seen.message) == ("CodeFetchFailed", None, message)


def test_deadline() -> None:
    seen = failed(pod("Running", RUNNING), reason="DeadlineExceeded", activeDeadlineSeconds=60)
    assert seen.reason == "DeadlineExceeded"
    assert seen.message == (
        "The job exceeded its time limit of 60 seconds (active_deadline_seconds) and was stopped."
    )
    assert seen.exit_code is None


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (
            {
                "reason": "Evicted",
                "message": "The node was low on resource: memory. Threshold quantity: 100Mi",
            },
            "Evicted",
            "The node ran out of memory and evicted the pod.",
        ),
        (
            {
                "reason": "Evicted",
                "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            },
            "Evicted",
            "The job wrote too much to its disk: the limit is 1Gi.",
        ),
        (
            {
                "reason": "Evicted",
                "message": 'Container job exceeded its local ephemeral storage limit "500Mi". ',
            },
            "Evicted",
            "The job wrote too much to its disk: the limit is 500Mi.",
        ),
        (
            {
                "reason": "Evicted",
                "message": 'Usage of EmptyDir volume "kbatch-code" exceeds the limit "34359738368". ',
            },
            "Evicted",
            "The job wrote too much to the working folder /code: the limit is 32 GiB.",
        ),
        (
            {"reason": "Evicted", "message": 'Usage of EmptyDir volume "scratch" exceeds the limit "5Gi". '},
            "Evicted",
            "The job wrote too much to the volume scratch: the limit is 5 GiB.",
        ),
        (
            {"reason": "NodeAffinity", "message": "Pod was rejected: Predicate NodeAffinity failed"},
            "NodeAffinity",
            "The node no longer accepts the pod, for example after a restart of its kubelet: "
            "Predicate NodeAffinity failed",
        ),
        (
            {"reason": "UnexpectedAdmissionError", "message": "Allocate failed due to no GPU"},
            "UnexpectedAdmissionError",
            "The node could not run the pod: Allocate failed due to no GPU",
        ),
    ],
)
def test_failure_by_the_node(status: Manifest, reason: str, message: str) -> None:
    seen = failed(pod("Failed", None, **status))
    assert (seen.reason, seen.message) == (reason, message)


def rejected(reason: str = "OutOfcpu", *, after_seconds: int = 1, **fields: Any) -> Manifest:
    """Return a pod that its node did not take, as the reflector keeps it of Kubernetes 1.35."""
    message = f"Pod was rejected: {reason} is what it says"
    written = {"metadata": {"statusWrittenAt": at(1, after_seconds)}}
    return pod(
        "Failed", None, SCHEDULED, reason=reason, message=message, startTime=at(1), **(written | fields)
    )


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("OutOfcpu", "The node did not have enough CPU left."),
        ("OutOfnvidia.com/gpu", "The node did not have enough nvidia.com/gpu left."),
        (
            "UnexpectedAdmissionError",
            "The node could not allocate the requested resources: UnexpectedAdmissionError is what it says",
        ),
        ("NodeAffinity", "The node rejected the pod: NodeAffinity is what it says"),
    ],
)
def test_a_job_that_its_node_did_not_take_never_began(reason: str, words: str) -> None:
    seen = failed(rejected(reason))
    assert (seen.reason, seen.message) == (reason, words)
    assert seen.never_began
    assert seen.pods == []  # no attempt


def test_what_ran_and_was_then_not_taken_any_more_began() -> None:
    # a kubelet that is started again leaves no more of a pod that ran than of one that did not
    seen = failed(rejected(after_seconds=3))
    assert not seen.never_began
    assert len(seen.pods) == 1
    unknown = rejected(metadata={})
    assert not failed(unknown).never_began
    began = pod("Failed", terminated(3), name="train-1-bbbbb", created=9)
    assert not failed(rejected(), began).never_began
    evicted = rejected("Evicted")
    evicted["status"]["conditions"] = [condition("DisruptionTarget", "TerminationByKubelet")]
    assert not failed(evicted).never_began


def test_an_attempt_that_its_node_did_not_take_is_none() -> None:
    seen = make_status(job(backoffLimit=2), [rejected()], [])
    assert (seen.status, seen.reason) == (Status.PENDING, "OutOfcpu")
    assert seen.message == "The node did not have enough CPU left. The job will be restarted."
    second = pod("Failed", terminated(3), name="train-1-bbbbb", created=2)
    spec = JobSpec(image=IMAGE, retries=1)
    seen = make_timed_status(make_seen(job(backoffLimit=1), rejected(), second), spec, timedelta())
    assert seen.message == "The command ended with exit code 3. Attempt 2 of 2 starts soon."
    raised = job(backoffLimit=2)
    raised["metadata"]["annotations"]["kbatch.jupyter.org/retries"] = "1"
    last = failed_last(
        raised, rejected(), second, pod("Failed", terminated(4), name="train-1-ccccc", created=9)
    )
    assert last == "The command ended with exit code 4. That was attempt 2 of 2."
    assert seen.held_until == moment(1)  # the Job is to be let have an attempt more, at once
    seen = make_timed_status(make_seen(job(backoffLimit=2), rejected(), second), spec, timedelta())
    assert seen.held_until is None
    assert get_wanted_limit([rejected(name=f"p{n}") for n in range(99)], spec) == 1 + MAX_FREE_ATTEMPTS


def failed_last(found: Manifest, *pods: Manifest) -> str:
    found["status"]["conditions"] = [condition("Failed", "BackoffLimitExceeded", minute=10)]
    return make_status(found, list(pods), []).message


MESH = {"name": "istio-proxy", "state": RUNNING}


PULLING = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize(("phase", "state"), [("Running", RUNNING), ("Pending", PULLING)])
def test_a_container_that_the_cluster_added_does_not_keep_a_job_running(
    code: int, phase: str, state: Manifest
) -> None:
    lingering = pod(phase, terminated(code, "Completed" if not code else "Error", finished=5))
    lingering["status"]["containerStatuses"].append(MESH | {"state": state})
    spec = JobSpec(image=IMAGE, sidecar_timeout_seconds=20)
    seen = make_timed_status(make_seen(job(), lingering), spec, timedelta(seconds=1))
    assert (seen.status, seen.reason, seen.exit_code) == (Status.RUNNING, "SidecarRunning", code)
    assert seen.message == (
        "The command has ended, but the container istio-proxy, which is not the job's own, is still running. "
        "The service will stop the pod soon."
    )
    assert seen.finish_at == moment(5, 21)
    spec = JobSpec(image=IMAGE, sidecar_timeout_seconds=0)
    never = make_timed_status(make_seen(job(), lingering), spec, timedelta())
    assert never.finish_at is None
    running = pod("Running", RUNNING)
    running["status"]["containerStatuses"].append(MESH)
    assert make_status(job(), [running], []).finish_at is None
    lingering["metadata"]["deletionTimestamp"] = at(6)
    assert make_status(job(), [lingering], []).reason == "Terminating"


def test_an_extra_container_is_stopped_only_after_the_results_were_sent() -> None:
    ended = pod("Running", terminated(0, "Completed", finished=5))
    ended["spec"]["initContainers"] = [
        {"name": name, "restartPolicy": "Always"} for name in ("proxy", KEEP_CONTAINER)
    ] + [{"name": "prepare"}]
    keeping = {"name": KEEP_CONTAINER, "state": RUNNING}
    proxy = {"name": "proxy", "state": RUNNING}
    ended["status"]["initContainerStatuses"] = [{"name": "prepare", "state": terminated(0)}, proxy, keeping]
    spec = JobSpec(image=IMAGE, sidecar_timeout_seconds=20)
    seen = make_timed_status(make_seen(job(), ended), spec, timedelta())
    assert (seen.reason, seen.finish_at) == ("KeepingOutputs", None)
    keeping["state"] = terminated(0, "Completed", finished=7)
    seen = make_timed_status(make_seen(job(), ended), spec, timedelta())
    assert (seen.reason, seen.finish_at) == ("SidecarRunning", moment(7, 20))
    assert "container proxy, which is not the job's own" in seen.message
    proxy["state"] = terminated(137, "Error", finished=8)
    assert make_status(job(), [ended], []).finish_at is None


def make_seen(found: Manifest, *pods: Manifest) -> Seen:
    return Seen(found, {each["metadata"]["name"]: each for each in pods})


@pytest.mark.parametrize(
    ("given", "reason", "words"),
    [
        ("PreemptionByScheduler", "PreemptionByScheduler", "a pod with a higher priority needed its place"),
        ("EvictionByEvictionAPI", "Evicted", "its pod was evicted"),
        ("DeletionByTaintManager", "DeletionByTaintManager", "its node was lost"),
        ("DeletionByPodGC", "DeletionByPodGC", "its node was lost"),
    ],
)
def test_disrupted_pod_is_followed_by_another(given: str, reason: str, words: str) -> None:
    gone = pod("Failed", terminated(143), condition("DisruptionTarget", given))
    seen = make_status(job(backoffLimit=1), [gone], [])
    assert (seen.status, seen.reason) == (Status.PENDING, reason)
    assert words in seen.message
    assert seen.message.endswith("The job will be restarted.")
    assert seen.blocked_since is None
    once = make_status(job(), [gone], [])
    assert (once.status, once.reason) == (Status.RUNNING, reason)
    assert "again" not in once.message


def test_an_attempt_that_had_to_give_way_is_not_counted_between_two() -> None:
    gone = pod("Failed", terminated(143), condition("DisruptionTarget", "PreemptionByScheduler"))
    failed = pod("Failed", terminated(7), name="train-1-bbbbb", created=9)
    seen = make_status(job(backoffLimit=1), [gone, failed], [])
    assert (seen.status, seen.message) == (
        Status.PENDING,
        "The command ended with exit code 7. Attempt 2 of 2 starts soon.",
    )


DELETED = {"deletionTimestamp": at(8, 30), "deletionGracePeriodSeconds": 30}


def test_pod_deleted_by_hand() -> None:
    for code in (0, 1, 137, 143):
        seen = failed(pod("Failed", terminated(code), metadata=DELETED))
        assert (seen.reason, seen.message) == (
            "Deleted",
            "The pod was deleted from outside this service.",
        )
    gone = pod("Running", RUNNING) | {"isGone": True}
    assert failed(gone).reason == "Deleted"
    assert failed(gone).was_removed
    assert failed().was_removed
    assert not failed(pod("Failed", terminated(3))).was_removed


def test_pod_deleted_after_it_had_failed() -> None:
    assert (
        failed(pod("Failed", terminated(3, finished=7), metadata=DELETED)).message
        == "The command ended with exit code 3."
    )
    gone = pod("Failed", terminated(3)) | {"isGone": True}
    assert failed(gone).message == "The command ended with exit code 3."


def test_failure_without_pods() -> None:
    assert "deleted before the service read the cause" in failed().message


def test_retries() -> None:
    first = pod("Failed", terminated(7), created=1)
    second = pod("Failed", terminated(3), name="train-1-bbbbb", created=2)
    third = pod("Running", RUNNING, name="train-1-ccccc", created=3)
    between = make_status(job(backoffLimit=2), [first], [])
    assert between.status == Status.PENDING
    assert between.message == "The command ended with exit code 7. Attempt 2 of 3 starts soon."
    running = make_status(job(backoffLimit=2), [third, first, second], [])
    assert running.status == Status.RUNNING
    assert running.started_at == moment(2)
    assert [each.exit_code for each in running.pods] == [7, 3, None]
    ended = failed(second, first, backoffLimit=1)
    assert ended.message == "The command ended with exit code 3. That was attempt 2 of 2."


def hold(*pods: Manifest, **spec: Any) -> JobStatus:
    found = {each["metadata"]["name"]: each for each in pods}
    seen = Seen(job(backoffLimit=3), found)
    return make_timed_status(seen, JobSpec(image=IMAGE, retries=3, **spec), timedelta())


def gated(name: str, created: int) -> Manifest:
    made = pod("Pending", name=name, created=created)
    made["spec"]["schedulingGates"] = [{"name": "kbatch.jupyter.org/attempt"}]
    return made


def test_the_first_attempt_is_let_go_at_once_and_the_next_when_its_time_has_come() -> None:
    assert hold(gated("a", 1), retry_delay_seconds=60).held_until == moment(1)
    first, second = pod("Failed", terminated(7, finished=2), name="a"), gated("b", 3)
    held = hold(first, second, retry_delay_seconds=60)
    assert (held.status, held.reason, held.held_until) == (Status.PENDING, "BackOff", moment(3))
    assert held.message == "The command ended with exit code 7. Attempt 2 of 4 starts 60 s after that."
    assert held.blocked_since is None
    again = pod("Failed", terminated(7, finished=4), name="b", created=3), gated("c", 5)
    assert hold(first, *again, retry_delay_seconds=60).held_until == moment(6)
    assert hold(first, *again, retry_delay_seconds=60, retry_backoff="fixed").held_until == moment(5)


def test_an_attempt_in_the_place_of_one_that_had_to_give_way_waits_no_longer() -> None:
    evicted = pod("Failed", terminated(143, finished=2), condition("DisruptionTarget"), name="a")
    assert hold(evicted, gated("b", 3), retry_delay_seconds=600).held_until == moment(3)


def test_a_pod_that_was_let_go_is_held_no_more() -> None:
    first, second = (
        pod("Failed", terminated(7, finished=2), name="a"),
        pod("Running", RUNNING, name="b", created=3),
    )
    assert hold(first, second, retry_delay_seconds=60).held_until is None


def test_times_are_moved_by_how_far_our_clock_is_ahead_of_the_clusters() -> None:
    seen = Seen(job(), {"a": pod("Pending", waiting("ImagePullBackOff"), SCHEDULED, name="a")})
    spec = JobSpec(image=IMAGE, active_deadline_seconds=60, keep_outputs=True)
    here, ahead = (make_timed_status(seen, spec, timedelta(hours=hours)) for hours in (0, 2))
    assert ahead.blocked_since - here.blocked_since == timedelta(hours=2)
    assert ahead.deadline_at - here.deadline_at == timedelta(hours=2)


def test_end_is_the_jobs_to_say() -> None:
    for state, phase in ((terminated(0, "Completed"), "Succeeded"), (terminated(3), "Failed")):
        seen = make_status(job(), [pod(phase, state)], [])
        assert seen.status == Status.RUNNING


# Before the start


def test_suspended() -> None:
    assert make_status(job(suspend=True, launched=False), [], []).message == "Preparing."
    assert "suspended from outside" in make_status(job(suspend=True), [], []).message


def test_no_pod_yet() -> None:
    seen = make_status(job(), [], [])
    assert (seen.status, seen.blocked_on, seen.blocked_since) == (Status.PENDING, "start", moment(0, 1))


@pytest.mark.parametrize(
    ("message", "on", "words"),
    [
        (
            'pods "train-1-x" is forbidden: exceeded quota: compute, requested: '
            "limits.memory=2Gi,requests.cpu=8, "
            "used: limits.memory=0,requests.cpu=0, limited: limits.memory=1Gi,requests.cpu=4",
            "start",
            'The ResourceQuota "compute" leaves no room: the job requests 2 GiB of memory of at most 1 GiB '
            "and the job requests 8 CPUs of at most 4 CPUs.",
        ),
        (
            '(combined from similar events): pods "x" is forbidden: exceeded quota: q, '
            "requested: limits.memory=1Gi, used: limits.memory=512Mi, limited: limits.memory=1Gi",
            "schedule",
            'The ResourceQuota "q" leaves no room: '
            "the job requests 1 GiB of memory of at most 1 GiB (in use: 512 MiB).",
        ),
        (
            'pods "x" is forbidden: failed quota: q: must specify limits.memory for: job',
            "start",
            (
                "The ResourceQuota of the namespace requires a size for each job: q: must specify "
                "limits.memory for: job."
            ),
        ),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": '
            "runAsNonRoot != true (pod must set it)",
            "start",
            (
                "The cluster's Pod Security Standard (restricted) denies the pod: "
                "runAsNonRoot != true (pod must set it). Ask an admin to fix this."
            ),
        ),
        (
            'admission webhook "policy.example.org" denied the request: no images from outside',
            "start",
            "The cluster denied the pod: "
            'admission webhook "policy.example.org" denied the request: no images from outside',
        ),
        (
            'pods "x" is forbidden: error looking up service account jobs/sa: serviceaccount "sa" not found',
            "start",
            "The cluster denied the pod: "
            'error looking up service account jobs/sa: serviceaccount "sa" not found',
        ),
    ],
)
def test_refused(message: str, on: str, words: str) -> None:
    events = [refusal(message)]
    if message.startswith("(combined"):
        events = [
            event("FailedCreate", message.replace("events): ", "events): Error creating: "), "Job", "train-1")
        ]
    seen = make_status(job(), [], events)
    assert (seen.status, seen.reason) == (Status.PENDING, "FailedCreate")
    assert (seen.blocked_on, seen.blocked_since) == (on, moment(0, 1))
    assert seen.message == words


SIZED = JobSpec(
    image=IMAGE,
    upload="u1",
    keep_outputs=True,
    cpu_guarantee=0.5,
    cpu_limit=1,
    mem_limit=2**27,
    init_resources={"requests": {"cpu": "2m"}, "limits": {"memory": "32Mi"}},
    sidecar_resources=JobConfig().sidecar_resources,
)


def see_refusal(said: str) -> Seen:
    return Seen(job(), events=OrderedDict(e=refusal(f'pods "train-1-aaaaa" is forbidden: {said}')))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "minimum memory usage per Container is 100Mi, but request is 64Mi",
            "at least 100 MiB of memory in each container, and the container that sends the results has 64 "
            "MiB of memory. Ask an admin to set JobConfig.sidecar_resources.",
        ),
        (
            "[minimum memory usage per Container is 50Mi, but request is 32Mi, minimum cpu usage per "
            "Container is 50m, but request is 2m]",
            "at least 50 MiB of memory in each container, and the container that fetches the code has 32 "
            "MiB of memory. Ask an admin to set JobConfig.init_resources.",
        ),
        (
            "maximum cpu usage per Container is 2.  No limit is specified",
            "at most 2 CPUs in each container, and the container that fetches the code has none. "
            "Ask an admin to set JobConfig.init_resources.",
        ),
        (
            "cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
            "a CPU limit of at most 10 times the request in each container, and the container that sends the "
            "results has 20 times. Ask an admin to set JobConfig.sidecar_resources.",
        ),
        (
            "minimum memory usage per Container is 1Gi, but request is 128Mi",
            "at least 1 GiB of memory in each container, and the job has 128 MiB of memory. "
            "Request another size.",
        ),
        (
            "minimum ephemeral-storage usage per Container is 1Gi.  No request is specified",
            "at least 1 GiB of disk space in each container, and the job has none. Request a size.",
        ),
        (
            "[maximum cpu usage per Pod is 1, but limit is 1200m, minimum memory usage per Container is 1Gi, "
            "but request is 64Mi]",
            "at most 1 CPU in each pod, and the job's pod has 1.2 CPUs. Request another size. If yours is in "
            "range, ask an admin to set JobConfig.init_resources and JobConfig.sidecar_resources.",
        ),
    ],
)
def test_whose_size_the_cluster_does_not_allow_is_said(message: str, words: str) -> None:
    seen = make_timed_status(see_refusal(message), SIZED, timedelta())
    assert seen.message == f"The cluster's LimitRange allows {words}"


def test_a_quota_that_only_our_container_does_not_satisfy_is_the_admins_to_mend() -> None:
    said = "failed quota: q: must specify limits.cpu for: keep-outputs"
    seen = make_timed_status(see_refusal(said), SIZED, timedelta())
    assert seen.message.endswith("for: keep-outputs. Ask an admin to set JobConfig.sidecar_resources.")


def test_a_refusal_that_is_over_is_forgotten() -> None:
    old = refusal('pods "x" is forbidden: no', first=1, last=2)
    seen = make_status(job(backoffLimit=3), [pod("Failed", terminated(3), finished=9)], [old])
    assert "starts soon" in seen.message


INSUFFICIENT = "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            f"0/3 nodes are available: 3 Insufficient cpu. {INSUFFICIENT}",
            "No node has room: the job requests 8 CPUs and 1 GiB of memory, "
            "and none of the 3 nodes has enough CPU free.",
        ),
        (
            "0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint(s). "
            f"no new claims to deallocate, {INSUFFICIENT}",
            "No node has room: the job requests 8 CPUs and 1 GiB of memory "
            "(1 node: not enough memory free; 2 nodes: reserved for other work (taint)).",
        ),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: hub}. " + INSUFFICIENT,
            "No node can run it: the job requests 8 CPUs and 1 GiB of memory, "
            "and the only node is reserved for other work (taint).",
        ),
        (
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. " + INSUFFICIENT,
            "No node has room: the job requests 8 CPUs and 1 GiB of memory, "
            "and none of the 2 nodes has enough nvidia.com/gpu free.",
        ),
        (
            '0/2 nodes are available: persistentvolumeclaim "home" not found.',
            'Waiting for a volume: 0/2 nodes are available: persistentvolumeclaim "home" not found.',
        ),
        (
            "no nodes available to schedule pods",
            "No node can run the job yet: no nodes available to schedule pods",
        ),
    ],
)
def test_unschedulable(message: str, words: str) -> None:
    asks = {"resources": {"requests": {"cpu": "8", "memory": "1Gi"}}}
    seen = make_status(
        job(),
        [
            pod(
                "Pending",
                None,
                condition("PodScheduled", "Unschedulable", message, "False", 4),
                container=asks,
            )
        ],
        [],
    )
    assert (seen.status, seen.reason) == (Status.PENDING, "Unschedulable")
    assert (seen.blocked_on, seen.blocked_since) == ("schedule", moment(4))
    assert seen.message == words


def test_nodes_that_a_node_selector_leaves_out_are_told_with_what_it_selects() -> None:
    message = f"0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {INSUFFICIENT}"
    assert sentences.unschedulable(message, {}, {"gpu": "a100"}) == (
        "No node can run it: the job requests a node with gpu=a100, "
        "and the only node is excluded by the node selector."
    )


def test_no_scheduler() -> None:
    seen = make_status(job(), [pod()], [])
    assert (seen.blocked_on, seen.blocked_since) == ("schedule", moment(1))


PULL = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": '


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        (
            "ErrImagePull",
            PULL + f"{IMAGE}: not found",
            "cannot be pulled: the image does not exist. Check the image name.",
        ),
        (
            "ImagePullBackOff",
            f'Back-off pulling image "{IMAGE}": ErrImagePull: {PULL}'
            "dial tcp 10.0.0.1:443: connection refused",
            "cannot be pulled: the registry does not respond. Check the image name.",
        ),
        (
            "ErrImagePull",
            PULL + "pull access denied, repository does not exist or may require authorization",
            (
                "cannot be pulled: access denied by the registry, or the image does not exist. Check the "
                "image name."
            ),
        ),
        (
            "ErrImagePull",
            PULL + "429 Too Many Requests - toomanyrequests: rate limit",
            "cannot be pulled: the registry's download limit is reached. Kubernetes tries again until "
            "the job times out.",
        ),
        ("ErrImageNeverPull", "", "is not on the node, and the pull policy is Never."),
        ("ErrImagePull", "strange", "cannot be pulled. Check the image name."),
    ],
)
def test_image_cannot_be_pulled(reason: str, message: str, words: str) -> None:
    stuck = pod("Pending", waiting(reason, message), SCHEDULED, INITIALIZED)
    seen = make_status(job(), [stuck], [event("Failed", "x", first=4, last=6)])
    assert (seen.status, seen.reason, seen.blocked_on) == (Status.PENDING, reason, "start")
    assert seen.blocked_since == moment(4)
    assert seen.message == f'The image "{IMAGE}" {words}'


def test_image_name_is_none() -> None:
    for reason, message in (
        ("InvalidImageName", "couldn't parse image name"),
        ("ErrImagePull", "failed to parse image reference: invalid reference format"),
    ):
        seen = make_status(job(), [pod("Pending", waiting(reason, message), SCHEDULED, INITIALIZED)], [])
        assert seen.message == f'"{IMAGE}" is not a valid image name.'
        assert seen.blocked_since == moment(2)


def test_container_cannot_be_set_up() -> None:
    stuck = pod(
        "Pending", waiting("CreateContainerConfigError", 'secret "train-1" not found'), SCHEDULED, INITIALIZED
    )
    seen = make_status(job(), [stuck], [])
    assert seen.message == 'The container cannot be created: secret "train-1" not found.'
    assert seen.blocked_on == "start"


def test_volume_cannot_be_mounted() -> None:
    stuck = pod("Pending", waiting("ContainerCreating"), SCHEDULED)
    mount = event("FailedMount", 'MountVolume.SetUp failed for volume "home"', first=3)
    seen = make_status(job(), [stuck], [mount])
    assert (seen.reason, seen.blocked_on, seen.blocked_since) == ("FailedMount", "start", moment(3))
    assert seen.message.startswith("A volume cannot be mounted: ")
    # it was mounted in the end, and the image takes its time
    seen = make_status(job(), [stuck], [mount, event("Pulling", f'Pulling image "{IMAGE}"', last=6)])
    assert (seen.reason, seen.blocked_since) == ("Pulling", None)


def test_progress_is_no_block() -> None:
    image = event("Pulling", f'Pulling image "{IMAGE}"')
    for stuck, events, message in (
        (
            pod("Pending", waiting("ContainerCreating"), SCHEDULED),
            [image],
            f'Pulling the image "{IMAGE}".',
        ),
        (
            pod("Pending", waiting("PodInitializing"), SCHEDULED, init=RUNNING),
            [],
            "Fetching the code.",
        ),
        (pod("Pending", waiting("ContainerCreating"), SCHEDULED), [], "Creating the container."),
    ):
        seen = make_status(job(), [stuck], events)
        assert (seen.status, seen.message, seen.blocked_since) == (Status.PENDING, message, None)


def test_node_that_does_not_begin_is_a_block() -> None:
    seen = make_status(job(), [pod("Pending", None, SCHEDULED)], [])
    assert (seen.blocked_on, seen.blocked_since) == ("start", moment(1))


# While it runs


def test_running() -> None:
    seen = make_status(job(), [pod("Running", RUNNING, SCHEDULED)], [])
    assert (seen.status, seen.started_at, seen.exit_code) == (Status.RUNNING, moment(3), None)


def test_running_on_a_node_that_is_away() -> None:
    tainted = condition("DisruptionTarget", "DeletionByTaintManager")
    lost = make_status(job(), [pod("Running", RUNNING, tainted, metadata=DELETED)], [])
    assert (lost.status, lost.reason) == (Status.RUNNING, "NodeLost")
    assert "is removed" in lost.message
    stopping = make_status(job(), [pod("Running", RUNNING, metadata=DELETED)], [])
    assert (stopping.status, stopping.reason) == (Status.RUNNING, "Terminating")


# Small parts


def test_events_of_both_forms() -> None:
    new = Event.from_manifest(
        {
            "metadata": {"name": "e", "creationTimestamp": at(1)},
            "involvedObject": {"kind": "Pod", "name": "train-1-aaaaa"},
            "eventTime": "2026-01-01T10:02:00.123456Z",
            "series": {"count": 4, "lastObservedTime": "2026-01-01T10:05:00.000000Z"},
            "firstTimestamp": None,
            "reason": "FailedScheduling",
        }
    )
    assert (new.first.minute, new.last, new.count, new.type) == (2, moment(5), 4, "Normal")
    assert new.to_job_event().time == moment(5)


def test_times() -> None:
    assert parse_time("2026-01-01T10:00:00.123456789Z") == datetime(2026, 1, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert parse_time(at(1)) == moment(1)


@pytest.mark.parametrize(
    ("resource", "quantity", "words"),
    [
        ("cpu", "1", "1 CPU"),
        ("cpu", "500m", "0.5 CPUs"),
        ("cpu", "100", "100 CPUs"),
        ("memory", "1073741824", "1 GiB of memory"),
        ("memory", "1500M", "1.4 GiB of memory"),
        ("memory", "300", "300 bytes of memory"),
        ("nvidia.com/gpu", "2", "2 nvidia.com/gpu"),
        ("memory", "lots", "lots of memory"),
    ],
)
def test_amounts(resource: str, quantity: str, words: str) -> None:
    assert sentences.format_amount(resource, quantity) == words


def test_long_messages_are_cut() -> None:
    assert len(sentences.cut("x " * 1000)) == sentences.MAX_LENGTH


# With the sidecar that sends results


def with_sidecar(pod: Manifest, state: Manifest) -> Manifest:
    sidecar = {"name": "keep-outputs", "image": "busybox:1.36", "restartPolicy": "Always"}
    pod["spec"]["initContainers"].append(sidecar)
    pod["status"].setdefault("initContainerStatuses", []).append({"name": "keep-outputs", "state": state})
    return pod


def test_a_job_whose_results_are_being_sent_says_so() -> None:
    seen = make_status(job(), [with_sidecar(pod("Running", terminated(0, "Completed")), RUNNING)], [])
    assert (seen.status, seen.reason) == (Status.RUNNING, "KeepingOutputs")
    assert seen.message == "The command has ended. Saving its results."


@pytest.mark.parametrize("code", [1, 137])
def test_how_the_sidecar_ended_says_nothing_about_the_job(code: int) -> None:
    seen = failed(with_sidecar(pod("Failed", terminated(3)), terminated(code)))
    assert (seen.reason, seen.exit_code, seen.message) == ("Error", 3, "The command ended with exit code 3.")
    seen = failed(with_sidecar(pod("Failed", terminated(137, "OOMKilled")), terminated(code)))
    assert seen.reason == "OOMKilled"
    fetching = pod("Failed", init=terminated(81, message="the service answered 403"))
    assert failed(with_sidecar(fetching, waiting("PodInitializing"))).reason == "CodeFetchFailed"


def test_a_command_that_failed_is_not_over_while_its_results_are_sent() -> None:
    seen = make_status(job(), [with_sidecar(pod("Running", terminated(3)), RUNNING)], [])
    assert (seen.status, seen.message) == (Status.RUNNING, "The command ended with exit code 3.")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (waiting("ImagePullBackOff", 'pull "busybox:1.36": not found'), "the image does not exist"),
        (waiting("CrashLoopBackOff", "back-off 10s restarting"), "back-off 10s restarting"),
        (waiting("PodInitializing"), None),
    ],
)
def test_a_sidecar_that_cannot_start_is_for_an_admin_to_settle(state: Manifest, words: str | None) -> None:
    scheduled = pod("Pending", waiting("PodInitializing"), SCHEDULED)
    seen = make_status(job(), [with_sidecar(scheduled, state)], [])
    assert seen.status == Status.PENDING
    assert (seen.blocked_since is not None) == bool(words)
    if words:
        assert seen.message.startswith("The sidecar that saves the results cannot start; ask an admin")
        assert words in seen.message


def deadline_of(*pods: Manifest, spec: JobSpec | None = None, **seen: Any) -> Any:
    spec = spec or JobSpec(image=IMAGE, keep_outputs=True, active_deadline_seconds=60)
    known = Seen(job(**seen), {each["metadata"]["name"]: each for each in pods})
    status = make_seen_status(known)
    set_deadline(status, known, spec)
    return status


def test_the_deadline_counts_from_the_jobs_start_until_its_command_has_ended() -> None:
    status = deadline_of(pod("Running", RUNNING))
    assert status.deadline_at == moment(1, 1)
    assert "time limit of 60 seconds" in status.deadline_message
    assert status.is_past_deadline()
    assert deadline_of(with_sidecar(pod("Running", terminated(0)), RUNNING)).deadline_at is None
    without = JobSpec(image=IMAGE, active_deadline_seconds=60)
    assert deadline_of(pod("Running", RUNNING), spec=without).deadline_at is None


def test_kubernetes_own_deadline_is_told_with_the_jobs_own_number() -> None:
    known = Seen(job(condition("FailureTarget", "DeadlineExceeded"), activeDeadlineSeconds=360))
    status = make_seen_status(known)
    set_deadline(status, known, JobSpec(image=IMAGE, keep_outputs=True, active_deadline_seconds=60))
    assert (status.status, status.reason) == (Status.FAILED, "DeadlineExceeded")
    assert "time limit of 60 seconds" in status.message


def test_the_steps_of_a_pod_are_told_with_their_times_and_kept_when_its_events_are_gone():
    pod = {
        "metadata": {"name": "p1", "creationTimestamp": "2030-01-01T10:00:00Z"},
        "spec": {"containers": [{"name": "job", "image": "python:3"}]},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2030-01-01T10:00:01Z"}
            ],
            "initContainerStatuses": [
                {"name": FETCH_CONTAINER, "state": {"terminated": {"finishedAt": "2030-01-01T10:00:03Z"}}}
            ],
            "containerStatuses": [
                {"name": MAIN_CONTAINER, "state": {"running": {"startedAt": "2030-01-01T10:00:09Z"}}}
            ],
        },
    }
    pod["spec"]["containers"][0]["name"] = MAIN_CONTAINER
    pulled = Event(
        kind="Pod", name="p1", type="Normal", reason="Pulled",
        message='Successfully pulled image "python:3" in 4s',
        first=parse_time("2030-01-01T10:00:08Z"), last=parse_time("2030-01-01T10:00:08Z"),
    )  # fmt: skip
    seen = make_pod(pod, [pulled])
    seconds = [
        moment.second for moment in (seen.scheduled_at, seen.fetched_at, seen.pulled_at, seen.started_at)
    ]
    assert seconds == [1, 3, 8, 9]
    assert seen.ended_at is None
    assert make_pod(pod, []).merged_with(seen) == seen
