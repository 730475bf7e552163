"""Jobs that are handed to Kueue: which queue, which labels, and what its Workload says in words."""

from __future__ import annotations

import pytest

from kbatch_server.errors import InvalidRequest
from kbatch_server.launchers.kube.manifests import job as objects
from kbatch_server.launchers.kube.status.kueue import trim_workload
from kbatch_server.launchers.kube.status.status import make_status
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.request import JobRequest
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.times import utcnow
from kbatch_server.models.user import User
from kbatch_server.profiles.config import JobConfig
from kbatch_server.profiles.profiles import Profiles
from tests.launchers.kube.test_status import condition, job, pod

QUEUE = "team-a"
RUNNING = {"running": {"startedAt": "2026-01-01T10:03:00Z"}}


def request(**fields):
    return JobRequest(name="train", image="i", **fields)


def test_the_admin_says_which_queue_and_the_user_chooses_where_he_may():
    config = JobConfig(queue_name="{profile}-{username}", allowed_queue_names=["night", "own-{username}-*"])
    make = config.make_spec
    assert make(request(), user="alice", profile="gpu").queue_name == "gpu-alice"
    assert make(request(), user="alice").queue_name == "default-alice"
    assert make(request(queue_name="night"), user="alice").queue_name == "night"
    assert make(request(queue_name="own-alice-1"), user="alice").queue_name == "own-alice-1"
    assert make(request(queue_name="default-alice"), user="alice").queue_name == "default-alice"
    with pytest.raises(InvalidRequest, match="'own-bob-1' is not allowed; allowed: night, own-alice"):
        make(request(queue_name="own-bob-1"), user="alice")
    with pytest.raises(InvalidRequest, match="queue_name: 'x' is not allowed; allowed: none"):
        JobConfig().make_spec(request(queue_name="x"), user="alice")
    assert JobConfig().make_spec(request(), user="alice").queue_name is None


def test_the_queues_of_two_users_never_meet_and_are_valid_labels():
    config = JobConfig(queue_name="team-{username}")
    names = {config.make_spec(request(), user=user).queue_name for user in ("a.b", "a_b", "x" * 200)}
    assert len(names) == 3
    assert all(len(name) <= 63 for name in names)


async def test_a_profile_has_a_queue_of_its_own():
    entry = {"display_name": "GPU", "slug": "gpu", "kbatch_override": {"queue_name": "gpus-{username}"}}
    spec = await Profiles(profile_list=[entry]).make_spec(User(name="alice"), request(profile="gpu"))
    assert spec.queue_name == "gpus-alice"


def make(**spec):
    return Job(id="train-1", user="alice", name="train", spec=JobSpec(image="i", **spec), created_at=utcnow())


def test_a_job_is_kueues_from_the_moment_that_it_is_let_go_and_not_before():
    manifest = objects.make_job(
        make(queue_name=QUEUE, kueue_priority_class="low"),
        env_names=(),
        namespace="jobs",
        instance="x",
        init_image="i",
        output_limits=OutputLimits(),
    )
    labels = manifest["metadata"]["labels"]
    assert manifest["spec"]["suspend"] is True
    assert labels["kueue.x-k8s.io/priority-class"] == "low"
    assert "kueue.x-k8s.io/queue-name" not in labels
    assert not any("kueue" in name for name in manifest["spec"]["template"]["metadata"]["labels"])
    patch = objects.make_launch_patch("u1", queue_name=QUEUE)
    assert patch["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": QUEUE}
    assert "spec" not in patch
    assert objects.is_launched({"metadata": patch["metadata"]})
    assert objects.make_launch_patch("u1")["spec"] == {"suspend": False}


def handed(*, suspend=True):
    made = job(suspend=suspend)
    made["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": QUEUE}
    return made


def workload(*conditions, checks=()):
    status = {"conditions": list(conditions), "admissionChecks": list(checks)}
    return trim_workload({"metadata": {"name": "w", "namespace": "jobs"}, "status": status})


UNRESERVED = condition(
    "QuotaReserved", "Pending", "couldn't assign flavors to pod set main: insufficient quota for cpu", "False"
)
RESERVED = condition("QuotaReserved", "QuotaReserved", "Quota reserved in ClusterQueue a")
EVICTED = condition("Evicted", "Preempted", "Preempted to accommodate a workload with higher priority")


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        (None, "Suspended", "Waiting for Kueue's queue 'team-a' to accept the job."),
        (workload(), "Suspended", "Waiting in Kueue's queue 'team-a'."),
        (workload(UNRESERVED), "Pending", "'team-a': couldn't assign flavors to pod set main: insufficient"),
        (workload(RESERVED), "QuotaReserved", "Kueue has reserved the quota."),
        (
            workload(
                RESERVED, checks=[{"name": "dws", "state": "Pending"}, {"name": "ok", "state": "Ready"}]
            ),
            "QuotaReserved",
            "Kueue has reserved the quota, and is waiting for dws.",
        ),
        (workload(RESERVED, condition("Admitted")), "Admitted", "Admitted by Kueue. Starting soon."),
        (
            workload(UNRESERVED, condition("Admitted", status="False"), EVICTED),
            "Preempted",
            "Stopped by Kueue: Preempted to accommodate a workload with higher priority. Waiting in",
        ),
    ],
)
def test_what_kueue_says_of_a_job_is_its_message(found, reason, words):
    seen = make_status(handed(), [], [], found)
    assert (seen.status, seen.reason) == ("pending", reason)
    assert words in seen.message
    assert seen.blocked_since is None  # a queue may be as long as it is


def test_a_job_that_kueue_has_stopped_is_not_running_when_its_pods_are_gone():
    gone = pod("Running", RUNNING) | {"isGone": True}
    seen = make_status(handed(), [gone], [], workload(UNRESERVED, EVICTED))
    assert (seen.status, seen.reason) == ("pending", "Preempted")
    ending = pod("Running", RUNNING, metadata={"deletionTimestamp": "2026-01-01T10:04:00Z"})
    assert make_status(handed(), [ending], [], workload(EVICTED)).reason == "Terminating"
    again = pod("Running", RUNNING, name="train-1-bbbbb", created=5)
    assert make_status(handed(suspend=False), [gone, again], [], workload(RESERVED)).status == "running"


def test_a_job_of_ours_that_somebody_suspended_is_not_kueues():
    assert "suspended from outside this service" in make_status(job(suspend=True), [], []).message
