"""Notebooks as jobs on a real Kubernetes, in an image that has what they need."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest

from tests.support import images
from tests.support.cluster import ClusterLike
from tests.support.environments import NOTEBOOKS
from tests.support.installation import API, Installation
from tests.support.notebooks import make_notebook, read_outputs
from tests.support.waiting import wait_until

CONFIG = """
def modify_pod_hook(spawner, pod):
    # an image with Python, and what a notebook takes from a folder of the node
    main = pod.spec.containers[0]
    main.image = "{image}"
    main.volume_mounts.append({{"name": "env", "mountPath": "{folder}", "readOnly": True}})
    pod.spec.volumes.append({{"name": "env", "hostPath": {{"path": "{folder}"}}}})

c.KubeJobLauncher.modify_pod_hook = modify_pod_hook
c.JobConfig.environment = {{"PATH": "{folder}/bin:/usr/bin:/bin", "HOME": "/nowhere"}}
c.JobConfig.pod_security_context = {{"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 100}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """An environment at a path that any account may read: pytest's own folders are not such."""
    path = Path(tempfile.mkdtemp(prefix="kbatch-notebooks-"))
    path.chmod(0o755)
    NOTEBOOKS.copy_to(path / "env")
    yield path / "env"
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def alice(cluster: ClusterLike, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    if not cluster.is_ours:
        pytest.skip("images cannot be loaded into the cluster of KUBECONFIG")
    cluster.load_image(images.JOB_IMAGE.find())
    namespace = f"notebooks-{secrets.token_hex(4)}"
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        kubernetes.client.CoreV1Api(api_client).create_namespace({"metadata": {"name": namespace}})
    config = CONFIG.format(image=images.JOB, folder=folder)
    installation = Installation(tmp_path_factory.mktemp("x"), cluster, namespace=namespace, config=config)
    yield installation.client("alice")
    installation.stop()


def run(alice: API, files: dict[str, str], path: str, status: str = "", **asked: object) -> dict:
    notebook = {"path": path} | asked
    body = {"name": "notebook", "upload": alice.upload(files), "notebook": notebook}
    job = alice.call("POST", "api/v1/jobs", status=201, json=body)
    return alice.wait(job["id"], status) if status else alice.wait(job["id"])


def list_results(alice: API, job: dict) -> list[str]:
    listing = alice.call("GET", f"api/v1/jobs/{job['id']}/outputs")
    return [item["path"] for item in listing["items"]]


def read_notebook(alice: API, job: dict, path: str) -> list[str]:
    answer = alice.http.get(f"api/v1/jobs/{job['id']}/outputs/{path}")
    assert answer.status_code == 200, answer.text
    return read_outputs(answer.text)


def test_a_notebook_runs_in_its_own_folder_with_typed_parameters_and_brings_what_it_wrote(alice: API) -> None:
    parameters = 'P:layers = [64, 32]\nzip_code = "00501"\nlr = 1/3'
    code = 'print(open("../data/x.csv").read(), [layers, zip_code, lr]); open("trial.csv", "w").write("1")'
    files = {"notebooks/a.ipynb": make_notebook(parameters, code, kernel=".venv"), "data/x.csv": "x"}
    asked = {"parameters": {"zip_code": "007"}, "expressions": {"lr": "1/4"}}
    done = run(alice, files, "notebooks/a.ipynb", **asked)
    assert done["status"] == "succeeded", alice.logs(done["id"])
    said, printed = alice.logs(done["id"]).splitlines()
    assert said.endswith("The notebook runs with the image's own Python.")
    assert printed == "x [[64, 32], '007', 0.25]"
    assert list_results(alice, done) == ["notebooks/a.ipynb", "notebooks/trial.csv"]
    again = alice.call("POST", f"api/v1/jobs/{done['id']}/rerun", status=201)
    assert again["notebook"] == done["notebook"] == {"path": "notebooks/a.ipynb", "kernel": None} | asked
    done = alice.wait(again["id"])
    assert alice.logs(done["id"]).splitlines()[1] == printed


def test_one_that_fails_says_so_and_comes_back_as_far_as_it_got(alice: API) -> None:
    done = run(alice, {"a.ipynb": make_notebook("print('before')", "1/0")}, "a.ipynb")
    assert (done["status"], done["reason"], done["exit_code"]) == ("failed", "CellFailed", 1)
    assert read_notebook(alice, done, "a.ipynb")[0] == "before\n"


def test_one_that_is_cancelled_comes_back_as_far_as_it_got(alice: API) -> None:
    code = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    job = run(alice, {"a.ipynb": make_notebook("print('before')", code)}, "a.ipynb", "running")
    wait_until(lambda: "begun" in alice.http.get(f"api/v1/jobs/{job['id']}/logs").text)
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    done = alice.wait(job["id"])
    assert done["status"] == "cancelled"
    assert read_notebook(alice, done, "a.ipynb") == ["before\n", "begun\n"]


def test_an_image_without_tools_for_notebooks_is_told_by_its_reason(alice: API) -> None:
    body = {"name": "x", "upload": alice.upload({"a.ipynb": "{}"}), "notebook": {"path": "a.ipynb"}}
    body["env"] = {"PATH": "/usr/bin:/bin"}
    done = alice.wait(alice.call("POST", "api/v1/jobs", status=201, json=body)["id"])
    assert (done["status"], done["reason"], done["exit_code"]) == ("failed", "NotebookToolsMissing", 90)
    assert "has neither papermill nor nbclient" in alice.logs(done["id"])
