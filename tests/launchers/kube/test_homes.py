"""Which volume is the home of a job, on which node, and what its user is told if there is none."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kbatch_server.hub.claims import HomeVolume
from kbatch_server.launchers.base import LaunchRefused
from kbatch_server.launchers.kube.client import KubeRefused
from kbatch_server.launchers.kube.homes import Homes
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.server import HubServer
from kbatch_server.models.times import utcnow
from tests.support.kube_double import KubeDouble, make_server_pod

EMAIL = "alice@example.com"
SAFE, ESCAPED = "claim-alice-example-com---ff8d9819", "claim-alice-40example-2ecom"


@pytest.fixture
def kube() -> KubeDouble:
    return KubeDouble()


def make_job(user: str = "alice", *, home: str = "server", **spec: Any) -> Job:
    fields = {"image": "x", "home": home, "home_placement": "same-node"} | spec
    return Job(id="test-1", user=user, name="test", spec=JobSpec(**fields), created_at=utcnow())


async def find(kube: KubeDouble, job: Job, server: HubServer | None = None) -> HomeVolume:
    homes = Homes(kube, logging.getLogger("test"))  # type: ignore[arg-type]
    return await homes.find(job, server, "jobs")


async def refuse(kube: KubeDouble, job: Job, server: HubServer | None = None) -> LaunchRefused:
    with pytest.raises(LaunchRefused) as raised:
        await find(kube, job, server)
    return raised.value


async def test_the_volume_of_the_running_pod_comes_first(kube: KubeDouble) -> None:
    kube.add_claim("claim-alice", owner="alice")
    kube.add_claim("claim-of-state", owner="alice")
    kube.add_claim("claim-of-pod", owner="alice")
    source = {"persistentVolumeClaim": {"claimName": "claim-of-pod"}}
    kube.add("pods", "jobs", make_server_pod("alice", home=source, sub_path="homes/alice"))
    named = HubServer("", pod_name="jupyter-alice", namespace="jobs", pvc_name="claim-of-state")
    for server in (None, named):  # by its labels, or by the name in the spawner's state
        home = await find(kube, make_job(), server)
        assert (home.claim, home.sub_path) == ("claim-of-pod", "homes/alice")


async def test_then_the_claim_in_the_state_then_the_safe_name_then_the_escaped_one(kube: KubeDouble) -> None:
    kube.add_claim(ESCAPED, owner=EMAIL)
    assert (await find(kube, make_job(EMAIL))).claim == ESCAPED
    kube.add_claim(SAFE, owner=EMAIL)
    assert (await find(kube, make_job(EMAIL))).claim == SAFE
    kube.add_claim("old-claim")
    assert (await find(kube, make_job(EMAIL), HubServer("", pvc_name="old-claim"))).claim == "old-claim"


async def test_without_any_both_names_are_said_and_none_is_made(kube: KubeDouble) -> None:
    refused = await refuse(kube, make_job(EMAIL))
    assert refused.reason == "HomeNotFound"
    assert SAFE in refused.message
    assert ESCAPED in refused.message
    assert all(path.startswith("/api/v1/namespaces/jobs/") for path in kube.asked)
    gone = await refuse(kube, make_job(EMAIL), HubServer("", pvc_name="gone"))
    assert "gone, does not exist" in gone.message  # and no other claim is taken in its place


async def test_a_named_server_has_a_claim_of_its_own(kube: KubeDouble) -> None:
    kube.add_claim("claim-alice", owner="alice")
    refused = await refuse(kube, make_job(home="server:gpu"))
    assert "claim-alice--gpu" in refused.message
    kube.add_claim("claim-alice--gpu", owner="alice")
    assert (await find(kube, make_job(home="server:gpu"))).claim == "claim-alice--gpu"


async def test_a_claim_with_the_users_name_that_is_of_another_user_is_none(kube: KubeDouble) -> None:
    """``a.b`` escaped is ``a-2eb``, the name of another user."""
    kube.add_claim("claim-a-2eb", owner="a-2eb")
    assert (await refuse(kube, make_job("a.b"))).reason == "HomeNotFound"
    kube.add_claim("claim-a-2eb")  # which nobody says whose it is
    assert (await refuse(kube, make_job("a.b"))).reason == "HomeNotFound"
    kube.add_claim("claim-alice", owner="mallory")
    assert (await refuse(kube, make_job("alice"))).reason == "HomeNotFound"


async def test_a_pod_that_only_looks_like_the_users_is_not_used(kube: KubeDouble) -> None:
    kube.add("pods", "jobs", make_server_pod("mallory", name="jupyter-alice", label="alice"))
    kube.add_claim("claim-mallory", owner="mallory")
    assert (await refuse(kube, make_job("alice"))).reason == "HomeNotFound"
    server = HubServer("", pod_name="jupyter-alice")
    assert (await refuse(kube, make_job("alice"), server)).reason == "HomeNotFound"


async def test_an_escaped_name_that_kubernetes_does_not_know_is_no_claim(kube: KubeDouble) -> None:
    path = "/api/v1/namespaces/jobs/persistentvolumeclaims/claim--41lice"
    kube.refused[path] = KubeRefused(422, "Invalid", "no name")
    assert "claim--41lice" in (await refuse(kube, make_job("Alice"))).message


async def test_a_claim_of_one_node_keeps_the_job_where_it_is_in_use(kube: KubeDouble) -> None:
    kube.add_claim("claim-alice", owner="alice")
    home = await find(kube, make_job())
    assert (home.node, home.is_on_one_node) == (None, True)  # nobody uses it: any node
    for number in range(250):  # of a namespace with many pods
        kube.add("pods", "jobs", make_server_pod(f"u{number}", name=f"jupyter-u{number}"))
    kube.add("pods", "jobs", make_server_pod("alice", phase="Pending", name="starting", node="node-3"))
    assert (await find(kube, make_job())).node == "node-3"
    running = make_server_pod("alice", name="running", node="node-7")
    kube.add("pods", "jobs", running)
    assert (await find(kube, make_job())).node == "node-7"
    running["spec"]["nodeName"] = None  # not scheduled: it uses nothing
    assert (await find(kube, make_job())).node == "node-3"


async def test_with_any_and_with_a_claim_of_many_nodes_the_node_does_not_matter(kube: KubeDouble) -> None:
    kube.add("pods", "jobs", make_server_pod("alice"))
    kube.add_claim("claim-alice", "ReadWriteOnce", owner="alice")
    home = await find(kube, make_job(home_placement="any"))
    assert (home.claim, home.node, home.is_on_one_node) == ("claim-alice", None, False)
    kube.add_claim("claim-alice", "ReadWriteOnce", "ReadWriteMany", owner="alice")
    home = await find(kube, make_job())
    assert (home.claim, home.node, home.is_on_one_node) == ("claim-alice", None, False)


async def test_a_claim_of_one_pod_is_refused(kube: KubeDouble) -> None:
    kube.add_claim("claim-alice", "ReadWriteOncePod", owner="alice")
    for placement in ("same-node", "any"):
        refused = await refuse(kube, make_job(home_placement=placement))
        assert refused.reason == "HomeNotShared"
        assert "ReadWriteOncePod" in refused.message


async def test_a_claim_in_another_namespace_is_refused(kube: KubeDouble) -> None:
    refused = await refuse(kube, make_job(), HubServer("", namespace="hub", pvc_name="claim-alice"))
    assert refused.reason == "HomeElsewhere"
    assert "namespace hub, and jobs run in jobs" in refused.message
    assert not kube.asked


async def test_a_claim_that_is_being_deleted_is_refused(kube: KubeDouble) -> None:
    kube.add_claim("claim-alice", owner="alice", deletionTimestamp="2026-01-01T00:00:00Z")
    assert "is being deleted" in (await refuse(kube, make_job())).message


async def test_a_folder_of_a_claim_for_all_is_the_home(kube: KubeDouble) -> None:
    kube.add_claim("homes", "ReadWriteMany")
    spec = {"pvc_name_template": "homes", "home_subpath": "home/{username}"}
    home = await find(kube, make_job(EMAIL, **spec))
    assert (home.claim, home.sub_path) == ("homes", "home/alice-example-com---ff8d9819")


async def test_a_home_on_nfs_is_mounted_and_one_in_the_pod_is_none(kube: KubeDouble) -> None:
    nfs = {"nfs": {"server": "nfs.example.org", "path": "/homes/alice"}}
    kube.add("pods", "jobs", make_server_pod(home=nfs))
    assert (await find(kube, make_job())).source == nfs
    for own in ({"emptyDir": {}}, {"hostPath": {"path": "/etc"}}, {"secret": {"secretName": "x"}}):
        kube.add("pods", "jobs", make_server_pod(home=own))
        assert "not a volume at /home/jovyan" in (await refuse(kube, make_job())).message


async def test_a_job_whose_home_is_no_longer_in_use_on_its_node_is_told_apart(kube: KubeDouble) -> None:
    homes = Homes(kube, logging.getLogger("test"))  # type: ignore[arg-type]
    annotations = {"kbatch.jupyter.org/home-claim": "claim-alice", "kbatch.jupyter.org/home-node": "node-1"}
    pod = {"metadata": {"annotations": annotations}}
    kube.add("pods", "jobs", make_server_pod("alice"))
    assert not await homes.has_moved(pod, "jobs")
    kube.objects.clear()
    assert await homes.has_moved(pod, "jobs")
    assert not await homes.has_moved({"metadata": {}}, "jobs")


async def test_a_server_whose_pod_may_not_be_read_is_none(kube: KubeDouble) -> None:
    homes = Homes(kube, logging.getLogger("test"))  # type: ignore[arg-type]
    server = HubServer("", is_running=True, pod_name="jupyter-alice", namespace="hub")
    kube.add("pods", "hub", make_server_pod("alice", env=[{"name": "LANG", "value": "C"}]))
    found = await homes.read_server("alice", server, "jobs")
    assert found is not None
    assert found.env == {"LANG": "C"}
    path = "/api/v1/namespaces/hub/pods/jupyter-alice"
    kube.refused[path] = KubeRefused(403, "Forbidden", "pods is forbidden")
    assert await homes.read_server("alice", server, "jobs") is None
