"""Jobs that are like a server: a real hub starts it with the real KubeSpawner, its home is a real claim."""

from __future__ import annotations

import asyncio
import http.server
import json
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import kubernetes
import pytest
from kubernetes.aio import client

from kbatch_server.launchers.base import Launch
from kbatch_server.launchers.kube import launcher as launcher_module
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.models.job import Job, JobSpec, JobStatus
from kbatch_server.models.server import HubServer
from kbatch_server.models.times import utcnow
from kbatch_server.slugs import make_job_id
from tests.support.cluster import ClusterLike
from tests.support.installation import Installation
from tests.support.kube_double import make_server_pod
from tests.support.waiting import until, wait_until

ALICE = "alice@example.com"
CLAIM = "claim-alice-example-com---ff8d9819"
UID = 1234

DOCS = Path(__file__).parents[2] / "docs" / "home.md"


def read_hook() -> str:
    """Return what docs/home.md has admins paste into the hub's configuration."""
    text = DOCS.read_text().partition("<!-- the hook of the tests -->\n```python\n")[2].partition("```")[0]
    assert "pre_spawn_hook" in text
    return text


HUB = """
import os
os.environ["KUBECONFIG"] = "{kubeconfig}"
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.load_roles.append(
    {{"name": "kbatch-servers", "services": ["kbatch"], "scopes": ["read:servers", "admin:server_state"]}}
)
c.JupyterHub.load_groups = {{"kbatch-users": {{"users": ["{user}"]}}}}
c.JupyterHub.load_roles.append(
    {{"name": "kbatch-tokens", "services": ["kbatch"], "scopes": ["tokens!group=kbatch-users"]}}
)
c.KubeSpawner.namespace = "{namespace}"
c.KubeSpawner.image = "{image}"
c.KubeSpawner.image_pull_policy = "Never"
c.KubeSpawner.cmd = ["sh", "-c", "id -u >/home/jovyan/notes.txt; exec httpd -f -p 8888 -h /tmp"]
c.KubeSpawner.uid = {uid}
c.KubeSpawner.environment = {{"COURSE": "physics", "GITHUB_TOKEN": "hunter2"}}
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_class = "{namespace}"
c.KubeSpawner.storage_capacity = "1Mi"
c.KubeSpawner.volumes = [
    {{"name": "home", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}
]
c.KubeSpawner.volume_mounts = [{{"name": "home", "mountPath": "/home/jovyan"}}]
c.KubeSpawner.delete_grace_period = 0
{hook}
"""

SERVICE = """
c.HubServers.enabled = True
c.HubServers.cache_max_age_seconds = 0
c.JobConfig.home = "same-node"
c.JobConfig.uid = {uid}
c.JobConfig.allowed_hub_scopes = ["read:users!user"]
c.HubTokens.api_url_for_jobs = "{hub_url}"
"""


class Relay:
    """Passes requests of pods on to the hub's API, which only this machine reaches."""

    def __init__(self, address: str) -> None:
        self.api_url = ""
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {"Authorization": self.headers["Authorization"]}
                answer = httpx.get(relay.api_url + self.path, headers=headers, timeout=30)
                self.send_response(answer.status_code)
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://{address}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Site:
    """A hub with KubeSpawner and kbatch-server, whose servers and jobs share a namespace."""

    installation: Installation
    folder: Path
    namespace: str
    core: Any

    def start_server(self, user: str, name: str = "") -> None:
        self._call("POST", user, name)
        wait_until(lambda: self._is_ready(user, name), self.installation.hub.tail, 60)

    def stop_server(self, user: str, name: str = "") -> None:
        self._call("DELETE", user, name)
        wait_until(lambda: not self._find(user), self.installation.hub.tail, 60)

    def _call(self, method: str, user: str, name: str) -> None:
        path = f"{self.installation.hub.api_url}/users/{user}/{f'servers/{name}' if name else 'server'}"
        headers = {"Authorization": f"token {self.installation.token(user)}"}
        answer = httpx.request(method, path, headers=headers, timeout=60)
        assert answer.status_code in (201, 202, 204), f"{answer.text}\n{self.installation.hub.tail()}"

    def _find(self, user: str) -> dict[str, Any]:
        headers = {"Authorization": f"token {self.installation.token(user)}"}
        url = f"{self.installation.hub.api_url}/users/{user}"
        servers: dict[str, Any] = httpx.get(url, headers=headers, timeout=30).json()["servers"]
        return servers

    def _is_ready(self, user: str, name: str) -> bool:
        return bool(self._find(user).get(name, {}).get("ready"))

    def find_pod(self, job_id: str) -> Any:
        selector = f"kbatch.jupyter.org/job-id={job_id}"
        [pod] = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return pod


@pytest.fixture(scope="module")
def site(cluster: ClusterLike, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    namespace = f"like-{secrets.token_hex(4)}"
    folder = tmp_path_factory.mktemp("homes")
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        core = kubernetes.client.CoreV1Api(api_client)
        core.create_namespace({"metadata": {"name": namespace}})
        make_volume(core, folder / "home", namespace)
        relay = Relay(cluster.host_address)
        installation = Installation(
            tmp_path_factory.mktemp("installation"),
            cluster,
            namespace=namespace,
            last_config=SERVICE.format(uid=UID, hub_url=relay.url),
            hub_config=HUB.format(
                namespace=namespace,
                image=cluster.image,
                uid=UID,
                user=ALICE,
                hook=read_hook(),
                kubeconfig=cluster.kubeconfig,
            ),
        )
        installation.hub.add_user(ALICE)
        relay.api_url = installation.hub.api_url
        yield Site(installation, folder / "home", namespace, core)
        installation.stop()
        relay.close()
        core.delete_namespace(namespace)
        core.delete_persistent_volume(namespace)


def make_volume(core: Any, folder: Path, name: str) -> None:
    """Make one volume of a storage class, which one node at a time may mount."""
    folder.mkdir(mode=0o700)
    shutil.chown(folder, UID, UID)
    spec = {
        "capacity": {"storage": "1Mi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(folder)},
        "storageClassName": name,
        "persistentVolumeReclaimPolicy": "Retain",
    }
    core.create_persistent_volume({"metadata": {"name": name}, "spec": spec})


def test_a_job_asks_the_hub_from_its_pod_with_few_rights_and_only_until_its_end(site: Site) -> None:
    alice = site.installation.client(ALICE)
    script = """
    auth="Authorization: token $JUPYTERHUB_API_TOKEN"
    wget -q -O - --header "$auth" "$JUPYTERHUB_API_URL/user" || exit 3
    wget -q -O /dev/null --header "$auth" "$JUPYTERHUB_API_URL/users" 2>/dev/null && exit 4
    echo; echo "token $JUPYTERHUB_API_TOKEN"; sleep 1
    """
    job = alice.submit(script, hub_scopes=["read:users!user"])
    assert alice.wait(job["id"])["status"] == "succeeded", alice.logs(job["id"])
    known, _, token = alice.logs(job["id"]).partition("\ntoken ")
    model = json.loads(known)
    assert model["name"] == ALICE
    assert set(model["scopes"]) <= {
        *(f"read:users{part}!user={ALICE}" for part in ("", ":activity", ":groups", ":name"))
    }
    assert token.strip() not in str(site.find_pod(job["id"]))
    headers = {"Authorization": f"token {token.strip()}"}
    url = f"{site.installation.hub.api_url}/user"
    wait_until(lambda: httpx.get(url, headers=headers, timeout=30).status_code == 403, "it is revoked", 30)


def test_a_job_is_like_the_server_and_reads_what_it_wrote_at_home(site: Site, cluster: ClusterLike) -> None:
    alice = site.installation.client(ALICE)
    site.start_server(ALICE)
    script = 'cat ~/notes.txt; id -u; echo "$COURSE $HOME $JUPYTER_IMAGE ${GITHUB_TOKEN-none}"; '
    script += "pwd >$KBATCH_OUTPUT_DIR/x; echo new >in-the-working-folder"
    job = alice.submit(script, like="server", results_to_home=True, collect="workdir")
    assert (job["image"], job["home"]) == (cluster.image, "server")
    assert job["env"] == {"COURSE": "physics"}
    assert job["taken"].startswith(f"From your server: the image {cluster.image}")
    assert job["taken"].endswith("1 environment variable from its pod and its home.")
    done = alice.wait(job["id"])
    assert done["status"] == "succeeded", done["message"]
    expected = [f"{UID}", f"{UID}", f"physics /home/jovyan {cluster.image} none"]
    assert alice.logs(job["id"]).splitlines() == expected
    spec = site.find_pod(job["id"]).spec
    claims = [
        each.persistent_volume_claim.claim_name for each in spec.volumes if each.persistent_volume_claim
    ]
    assert claims == [CLAIM]
    terms = (
        spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution.node_selector_terms
    )
    assert [field.values for term in terms for field in term.match_fields] == [[spec.node_name]]
    assert (site.folder / "jobs" / job["id"] / "x").is_file()
    assert (site.folder / "jobs" / job["id"] / "in-the-working-folder").read_text() == "new\n"
    wait_until(lambda: alice.get(job["id"])["outputs"] is not None, str, 30)
    assert alice.http.get(f"api/v1/jobs/{job['id']}/outputs/x").status_code == 200


def test_two_users_never_meet(site: Site) -> None:
    bob = site.installation.client("bob")
    for like in ("server", f"server:{ALICE}", f"server:{CLAIM}"):
        error = bob.call("POST", "api/v1/jobs", status=400, json={"name": "x", "like": like})
        assert error["details"][0]["field"] == "like"
    done = bob.wait(bob.submit("cat ~/notes.txt", home=True)["id"])
    assert (done["status"], done["reason"]) == ("failed", "HomeNotFound")
    assert "claim-bob" in done["message"]
    assert CLAIM not in done["message"]


def test_the_next_server_starts_while_a_job_uses_its_home(site: Site) -> None:
    alice = site.installation.client(ALICE)
    site.stop_server(ALICE)
    job = alice.submit("echo more >>~/notes.txt; sleep 600", like="server")
    assert job["taken"] == "From your server: its home."
    alice.wait(job["id"], "running")
    node = site.find_pod(job["id"]).spec.node_name
    site.start_server(ALICE)
    selector = f"component=singleuser-server,kbatch.jupyter.org/home={CLAIM}"
    [server] = site.core.list_namespaced_pod(site.namespace, label_selector=selector).items
    assert server.spec.node_name == node
    assert server.spec.affinity.pod_affinity.required_during_scheduling_ignored_during_execution
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")


# Two nodes: the second has no kubelet, so a pod there is whatever the test says


@pytest.fixture
async def launcher(cluster: ClusterLike, namespace: str) -> AsyncIterator[KubeJobLauncher]:
    launcher = KubeJobLauncher(
        kubeconfig=str(cluster.kubeconfig), namespace=namespace, init_image=cluster.image, instance=namespace
    )
    await launcher.open()
    await launcher.start(lambda job_id: None)
    yield launcher
    await launcher.stop()
    await launcher.close()


@pytest.fixture
async def other_node(core_api: client.CoreV1Api, namespace: str) -> AsyncIterator[str]:
    """A node that takes no more pods."""
    name = f"node-{namespace}"
    labels = {"kubernetes.io/hostname": name}
    await core_api.create_node(
        {"metadata": {"name": name, "labels": labels}, "spec": {"unschedulable": True}}
    )
    yield name
    await core_api.delete_node(name)


async def test_a_job_waits_for_the_node_of_the_server_and_leaves_it_when_the_server_has(
    launcher: KubeJobLauncher,
    other_node: str,
    core_api: client.CoreV1Api,
    namespace: str,
    cluster: ClusterLike,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        make_volume(kubernetes.client.CoreV1Api(api_client), tmp_path / "home", namespace)
    claim = {
        "metadata": {"name": "claim-alice", "annotations": {"hub.jupyter.org/username": "alice"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": namespace,
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    await core_api.create_namespaced_persistent_volume_claim(namespace, claim)
    pod = make_server_pod("alice", node=other_node, image=cluster.image)
    pod.pop("status")
    await core_api.create_namespaced_pod(namespace, pod)
    spec = JobSpec(
        image=cluster.image,
        command=["sh", "-c", "echo hello >~/x"],
        home="server",
        home_placement="same-node",
        uid=UID,
        termination_grace_period_seconds=1,
    )
    job = Job(id=make_job_id("home"), user="alice", name="home", spec=spec, created_at=utcnow())
    server = HubServer("", pod_name="jupyter-alice", namespace=namespace, pvc_name="claim-alice")
    job.state = await launcher.launch(job, Launch(server=server))
    words = "Waiting for room on the node of your server"
    status = await poll(launcher, job, lambda seen: seen.message.startswith(words))
    assert status.message == f"{words}: closed to new pods (cordoned)."
    assert not status.never_began

    await core_api.delete_namespaced_pod("jupyter-alice", namespace, grace_period_seconds=0)
    monkeypatch.setattr(launcher_module, "HOME_SECONDS", 0)
    await poll(launcher, job, lambda seen: seen.never_began)
    await until(lambda: launcher.terminate(job))
    job.state = {}
    job.state = await launcher.launch(job, Launch(server=HubServer("", pvc_name="claim-alice")))
    done = await poll(launcher, job, lambda seen: seen.status.is_end)
    assert done.status == "succeeded", done.message
    assert (tmp_path / "home/x").read_text() == "hello\n"
    await core_api.delete_persistent_volume(namespace)


async def test_a_server_that_cannot_start_beside_the_job_waits_with_a_word(
    other_node: str, core_api: client.CoreV1Api, namespace: str, cluster: ClusterLike
) -> None:
    """The job runs on the other node, which takes no more pods."""
    job = make_server_pod("alice", name="job", node=other_node, image=cluster.image)
    job["metadata"]["labels"] = {"kbatch.jupyter.org/home": "claim-alice"}
    spawner = SimpleNamespace(pvc_name="claim-alice", extra_labels={"team": "a"})
    hub = SimpleNamespace(KubeSpawner=SimpleNamespace())
    exec(read_hook(), {"c": hub})
    hub.KubeSpawner.pre_spawn_hook(spawner)
    assert spawner.extra_labels == {"team": "a", "kbatch.jupyter.org/home": "claim-alice"}
    server = make_server_pod("alice", node="", image=cluster.image)
    server["metadata"]["labels"] = spawner.extra_labels
    required = {"requiredDuringSchedulingIgnoredDuringExecution": spawner.pod_affinity_required}
    server["spec"]["affinity"] = {"podAffinity": required}
    for pod in (job, server):
        pod.pop("status")
        pod["spec"]["volumes"] = [{"name": "home", "emptyDir": {}}]
        await core_api.create_namespaced_pod(namespace, pod)

    async def read_word() -> str:
        seen = await core_api.read_namespaced_pod("jupyter-alice", namespace)
        conditions = seen.status.conditions or []
        return "".join(each.message or "" for each in conditions if each.type == "PodScheduled")

    assert "didn't match pod affinity rules" in await until(read_word)


async def poll(launcher: KubeJobLauncher, job: Job, is_it: Any) -> JobStatus:
    async with asyncio.timeout(60):
        while True:
            seen = await launcher.poll(job)
            if seen is not None and is_it(seen):
                return seen
            await launcher.reflector.wait_change(str(job.state["namespace"]), job.id, 0.5)
