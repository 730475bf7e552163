"""Jobs on a cluster with habits: users that no image knows, a LimitRange, a mesh, nodes that refuse pods."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest

from tests.support.cluster import ClusterLike
from tests.support.images import JOB, JOB_IMAGE
from tests.support.installation import API, Installation
from tests.support.waiting import wait_until

STRANGER, ADA = 54321, 4321
"""Users' ids: one that is in no image, and one with a home in that of the tests."""

CONFIG = f"""
c.JobConfig.image = {JOB!r}
c.JobConfig.allowed_images = [{JOB!r}]
c.JobConfig.pod_security_context = {{"runAsUser": {STRANGER}, "runAsGroup": {STRANGER}}}
c.JobConfig.cpu_limit, c.JobConfig.mem_limit, c.JobConfig.max_mem_limit = 0.2, "128M", "1G"
# more than a job has, and than the node
c.JobConfig.cpu_guarantee, c.JobConfig.mem_guarantee = 400, "800G"
c.JobConfig.output_volume_size = "2M"
c.JobConfig.sidecar_timeout_seconds = 2
c.Profiles.profile_list = [
    {{"display_name": "A stranger"}},
    {{"display_name": "Ada", "kbatch_override": {{"pod_security_context": {{"runAsUser": {ADA}}}}}}},
]

launched = set()

def modify_pod_hook(spawner, pod):
    spec, name = pod.spec, pod.metadata.annotations["kbatch.jupyter.org/job-name"]
    if name == "meshed":  # what a mesh's webhook does that does not know native sidecars
        image = spec.init_containers[0].image
        spec.containers.append({{"name": "proxy", "image": image, "command": ["sleep", "100000"]}})
    if name == "late" and spawner.job_id not in launched:
        # as if the last room of the node was given away since the scheduler chose it
        launched.add(spawner.job_id)
        spec.node_name = "NODE"
        spec.containers[0].resources = {{"limits": {{"cpu": "1000", "memory": "64Mi"}}}}

c.KubeJobLauncher.modify_pod_hook = modify_pod_hook
"""

LIMIT_RANGE = {
    "metadata": {"name": "limits"},
    "spec": {
        "limits": [
            {
                "type": "Container",
                "min": {"cpu": "10m", "memory": "64Mi"},
                "default": {"cpu": "1", "memory": "1Gi"},
                "defaultRequest": {"cpu": "1", "memory": "1Gi"},
            }
        ]
    },
}


@pytest.fixture(scope="module")
def api(cluster: ClusterLike) -> Iterator[kubernetes.client.CoreV1Api]:
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
        yield kubernetes.client.CoreV1Api(client)


@pytest.fixture(scope="module")
def site(
    cluster: ClusterLike, api: kubernetes.client.CoreV1Api, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    cluster.load_image(JOB_IMAGE.find())
    namespace = f"habits-{secrets.token_hex(4)}"
    api.create_namespace({"metadata": {"name": namespace}})
    api.create_namespaced_limit_range(namespace, LIMIT_RANGE)
    [node] = api.list_node().items
    site = Installation(
        tmp_path_factory.mktemp("habits"),
        cluster,
        namespace=namespace,
        last_config=CONFIG.replace("NODE", node.metadata.name),
    )
    yield site
    site.stop()
    api.delete_namespace(namespace)


@pytest.fixture
def alice(site: Installation) -> API:
    return site.client("alice")


def make_wheel() -> bytes:
    """Return the wheel of a package with one module, as pip wants it."""
    info = "trial-1.0.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("trial.py", "print('trial is there')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: trial\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/RECORD", f"trial.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return buffer.getvalue()


AS_A_STRANGER = """
set -e
id -u
python3 -c 'import getpass, pathlib; print(getpass.getuser(), pathlib.Path.home())'
export PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl)
python3 -m pip install -q --no-index --break-system-packages --user trial-1.0-py3-none-any.whl
unset PYTHONPATH
python3 -m trial
mkdir -p ~/.cache/tool
pwd
"""


def test_a_user_that_no_image_knows_has_a_name_and_a_home(alice: API) -> None:
    code = alice.upload({"trial-1.0-py3-none-any.whl": make_wheel()})
    job = alice.submit(AS_A_STRANGER, upload=code)
    done, log = alice.wait(job["id"]), alice.logs(job["id"])
    assert done["status"] == "succeeded", log
    assert log.splitlines()[-4:] == [str(STRANGER), "alice /kbatch-home", "trial is there", "/code"], log


def test_the_home_and_the_folder_of_the_image_stay(alice: API) -> None:
    job = alice.submit("touch ~/x && echo $HOME $(pwd) $USER", profile="ada")
    assert alice.wait(job["id"])["status"] == "succeeded"
    assert alice.logs(job["id"]) == "/srv/ada /srv/work alice\n"
    other = alice.submit(
        'mkdir -p "${XDG_CACHE_HOME:-$HOME/.cache}/fontconfig"; echo $HOME',
        env={"XDG_CACHE_HOME": "/srv/ada/.cache"},
    )
    assert alice.wait(other["id"])["status"] == "succeeded"
    assert alice.logs(other["id"]) == "/kbatch-home\n"
    own = alice.submit("echo $HOME", env={"HOME": "/tmp", "USER": "me"})
    assert alice.wait(own["id"])["status"] == "succeeded"
    assert alice.logs(own["id"]) == "/tmp\n"


def test_shared_memory_has_the_size_that_is_asked_for(alice: API) -> None:
    script = (
        "df -k /dev/shm | tail -n 1 | awk '{print $2}'; head -c 90m /dev/zero > /dev/shm/x && ls -l /dev/shm"
    )
    job = alice.submit(script, shm_size="96M", mem_limit="256M")
    assert alice.wait(job["id"])["status"] == "succeeded"
    assert alice.logs(job["id"]).splitlines()[0] == str(96 * 1024)
    assert alice.call("POST", f"api/v1/jobs/{job['id']}/rerun", status=201)["shm_size"] == 96 * 2**20


def test_sizes_are_the_jobs_own_on_a_cluster_that_would_choose_others(
    site: Installation, alice: API, api: kubernetes.client.CoreV1Api
) -> None:
    job = alice.submit("true", upload=alice.upload({"a": "b"}), cpu_limit=0.1, mem_limit="64M")
    assert alice.wait(job["id"])["status"] == "succeeded"
    [pod] = api.list_namespaced_pod(
        site.namespace, label_selector=f"kbatch.jupyter.org/job-id={job['id']}"
    ).items
    sizes = {
        each.name: (each.resources.requests, each.resources.limits)
        for each in (*pod.spec.init_containers, *pod.spec.containers)
    }
    own = {"cpu": "100m", "memory": str(2**26)}  # the guarantee of all is far above
    assert sizes == {
        "fetch-code": (own, own),
        "job": (own, own),
        "keep-outputs": ({"cpu": "200m", "memory": "64Mi"}, {"cpu": "200m", "memory": "64Mi"}),
    }


def test_a_job_that_its_node_refused_is_launched_again(alice: API) -> None:
    job = alice.submit("echo begun", name="late")
    alice.wait(job["id"], "pending")
    waits = wait_until(
        lambda: "Retrying in" in (found := alice.get(job["id"]))["message"] and found,
        lambda: alice.get(job["id"]),
    )
    assert (waits["status"], waits["reason"], waits["attempts"]) == ("pending", "OutOfcpu", 0)
    assert waits["message"] == (
        "The node did not have enough CPU left. The command did not start. Retrying in 10 s."
    )
    done = alice.wait(job["id"])
    assert (done["status"], done["attempts"]) == ("succeeded", 1), done
    assert alice.logs(job["id"]) == "begun\n"


def test_a_container_that_never_ends_does_not_keep_a_job(alice: API) -> None:
    job = alice.submit('echo result > "$KBATCH_OUTPUT_DIR/file"', name="meshed")
    done = alice.wait(job["id"])
    assert (done["status"], done["exit_code"], done["message"]) == ("succeeded", 0, "Completed successfully.")
    outputs = wait_for_outputs(alice, job["id"])
    assert (outputs["state"], outputs["files"]) == ("kept", 1), outputs


def wait_for_outputs(alice: API, job_id: str) -> dict[str, Any]:
    outputs: dict[str, Any] = wait_until(lambda: alice.get(job_id)["outputs"], "no results")
    return outputs


def test_a_new_link_to_code_that_is_unchanged_comes_as_its_file(alice: API) -> None:
    code = alice.upload({"data.csv": "a,b\n"})
    script = 'ln -s data.csv best.csv; ln -s /code/data.csv "$KBATCH_OUTPUT_DIR/also.csv"'
    job = alice.submit(script, upload=code, collect="workdir")
    assert alice.wait(job["id"])["status"] == "succeeded"
    outputs = wait_for_outputs(alice, job["id"])
    assert (outputs["state"], outputs["files"], outputs["message"]) == ("kept", 2, ""), outputs


def test_a_command_that_fails_beside_one_is_tried_again(alice: API) -> None:
    job = alice.submit("echo ran; exit 3", name="meshed", retries=1)
    done = alice.wait(job["id"])
    assert (done["status"], done["exit_code"], done["attempts"]) == ("failed", 3, 2)
    assert done["message"] == "The command ended with exit code 3. That was attempt 2 of 2."
    assert [alice.logs(job["id"], attempt=number) for number in (1, 2)] == ["ran\n", "ran\n"]


def test_a_job_that_fills_its_folder_of_results_is_ended_and_told_why(alice: API) -> None:
    job = alice.submit('head -c 9m /dev/zero > "$KBATCH_OUTPUT_DIR/x"; exec sleep 300')
    done = alice.wait(job["id"], seconds=180)
    assert (done["status"], done["reason"]) == ("failed", "Evicted")
    assert done["message"].startswith(
        "The job wrote too much to the results folder ($KBATCH_OUTPUT_DIR): the limit is 2 MiB."
    )
