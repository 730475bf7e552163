"""The objects of a cluster as a test says them, for the parts that only read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbatch_server.launchers.kube.client import KubeRefused

CLAIMS = "persistentvolumeclaims"


class KubeDouble:
    """Answers as the API server would, with its pages; ``asked`` are the paths of all requests."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refused: dict[str, KubeRefused] = {}

    def add(self, kind: str, namespace: str, manifest: dict[str, Any]) -> None:
        self.objects[f"/api/v1/namespaces/{namespace}/{kind}/{manifest['metadata']['name']}"] = manifest

    def add_claim(
        self, name: str, *modes: str, owner: str | None = None, namespace: str = "jobs", **metadata: Any
    ) -> None:
        annotations = {} if owner is None else {"hub.jupyter.org/username": owner}
        manifest = {
            "metadata": {"name": name, "annotations": annotations, **metadata},
            "spec": {"accessModes": list(modes or ["ReadWriteOnce"])},
        }
        self.add(CLAIMS, namespace, manifest)

    async def find(self, path: str) -> dict[str, Any] | None:
        self.asked.append(path)
        if path in self.refused:
            raise self.refused[path]
        return self.objects.get(path)

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self.asked.append(path)
        if path in self.refused:
            raise self.refused[path]
        query = query or {}
        items = [each for at, each in self.objects.items() if at.startswith(f"{path}/")]
        if "labelSelector" in query:
            name, _, values = query["labelSelector"].partition(" in ")
            wanted = values.strip("()").split(",")
            items = [each for each in items if each["metadata"].get("labels", {}).get(name) in wanted]
        start = int(query.get("continue") or 0)
        end = start + int(query["limit"])
        more = {"continue": str(end)} if end < len(items) else {}
        return {"items": items[start:end], "metadata": more}


def make_server_pod(
    user: str = "alice",
    server: str = "",
    *,
    name: str = "jupyter-alice",
    label: str | None = None,
    home: Mapping[str, Any] | None = None,
    sub_path: str = "",
    node: str = "node-1",
    phase: str = "Running",
    env: list[dict[str, Any]] | None = None,
    image: str = "quay.io/lab/image:1",
    image_id: str = "",
) -> dict[str, Any]:
    """Return the pod of a server as KubeSpawner makes it."""
    annotations = {"hub.jupyter.org/username": user} | (
        {"hub.jupyter.org/servername": server} if server else {}
    )
    home = home or {"persistentVolumeClaim": {"claimName": f"claim-{user}"}}
    mount = {"name": "home", "mountPath": "/home/jovyan"} | ({"subPath": sub_path} if sub_path else {})
    container = {"name": "notebook", "image": image, "env": env or [], "volumeMounts": [mount]}
    return {
        "metadata": {
            "name": name,
            "annotations": annotations,
            "labels": {"hub.jupyter.org/username": label or user},
        },
        "spec": {"nodeName": node, "containers": [container], "volumes": [{"name": "home", **home}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "notebook", "imageID": image_id}]},
    }
