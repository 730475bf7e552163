"""The service's image: what is in it, how large it is, and that it asks nothing of who runs it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from kbatch_server import __version__
from tests.support import images
from tests.support.cluster import ClusterLike

MAX_OWN_BYTES = 320 * 10**6
"""Of what comes upon the base, unpacked. 284 MB now, of which 126 are the package kubernetes; a compiler,
pip's cache or the pages of JupyterHub would each be more than what is left."""

SCRIPT = f"""
set -e
test "$(id -u)" = 54321
test "$(kbatch-server --version)" = {__version__}
python3 -c 'import azure.identity, obstore, psycopg, kbatch_server.app, kbatch_server.launchers.kube.launcher'
touch /srv/kbatch/x /tmp/x
if touch /opt/kbatch-server/x 2>/dev/null || touch /x 2>/dev/null; then exit 3; fi
for tool in pip gcc cc make git; do if command -v $tool; then exit 4; fi; done
"""


@pytest.fixture(scope="module")
def archive(cluster: ClusterLike) -> Path:
    if not cluster.is_ours:
        pytest.skip("images cannot be loaded into the cluster of KUBECONFIG")
    archive = images.SERVICE_IMAGE.find()
    cluster.load_image(archive)
    return archive


def read_config(archive: Path) -> Any:
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        return json.load(tar.extractfile(manifest[0]["Config"]))["config"]


def test_it_is_small_and_says_what_it_is(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, *own = images.read_layers(archive)
    with capsys.disabled():
        print(f" base {base / 1e6:.0f} MB, kbatch-server {sum(own) / 1e6:.0f} MB ", end="")
    assert sum(own) < MAX_OWN_BYTES
    config = read_config(archive)
    assert config["User"] == "1000:1000"
    assert config["WorkingDir"] == "/srv/kbatch"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "kbatch-server"
    assert labels["org.opencontainers.image.version"] == "test"


def test_any_user_runs_it_with_a_root_file_system_that_cannot_be_written(
    archive: Path, cluster: ClusterLike
) -> None:
    container = {
        "name": "all",
        "image": images.SERVICE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", SCRIPT],
        "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": 54321, "runAsGroup": 54321},
        "volumeMounts": [{"name": "srv", "mountPath": "/srv/kbatch"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "srv", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    pod = {"containers": [container], "volumes": volumes, "restartPolicy": "Never"}
    with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as api_client:
        core = kubernetes.client.CoreV1Api(api_client)
        core.create_namespaced_pod("default", {"metadata": {"name": "image"}, "spec": pod})
        watch = kubernetes.watch.Watch()
        for event in watch.stream(core.list_namespaced_pod, "default", timeout_seconds=60):
            phase = event["object"].status.phase
            if event["object"].metadata.name == "image" and phase in ("Succeeded", "Failed"):
                break
        said = core.read_namespaced_pod_log("image", "default")
        core.delete_namespaced_pod("image", "default", grace_period_seconds=0)
    assert (phase, said) == ("Succeeded", "")
