"""Adds the home of the user's server to the Job of a job. Pure."""

from __future__ import annotations

from posixpath import join

from ....hub.claims import HomeVolume
from ....models.job import Job
from ....slugs import MAX_LABEL, make_slug
from .affinity import REQUIRED
from .labels import PREFIX
from .manifest import Manifest
from .resources import make_init_resources
from .security import make_container_security
from .sidecar import KEEP_CONTAINER, OUTPUT_VOLUME

VOLUME = "kbatch-server-home"
FOLDER_CONTAINER = "make-results-folder"
FOLDER_MOUNT = "/kbatch-server-home"
RESULTS_FOLDER = "jobs"
"""The folder of the home in which each job has a folder for its results."""

HOME_LABEL = f"{PREFIX}home"
"""The name of the claim, on all pods that must be on the same node because of it."""

CLAIM_ANNOTATION = f"{PREFIX}home-claim"
NODE_ANNOTATION = f"{PREFIX}home-node"
"""The node where the claim was in use at the launch: the job can run on no other."""

COPY_VARIABLE = "KBATCH_TO_HOME"
"""Set for a sidecar that copies results of the working folder into the folder for results."""

FOLDER_SCRIPT = """\
mkdir -p -- "$1" 2>/dev/null && [ -w "$1" ] && exit
echo "the folder jobs/ in your home cannot be written to" | tee /dev/termination-log
exit 85
"""


def add_home(manifest: Manifest, job: Job, home: HomeVolume, *, image: str) -> None:
    """Mount a home in the pod of a Job, and keep the pod on its node; ``image`` is that of our containers."""
    template = manifest["spec"]["template"]
    pod, metadata = template["spec"], template["metadata"]
    pod["volumes"].append({"name": VOLUME, **home.source})
    mount = {"name": VOLUME, "mountPath": job.spec.home_mount_path} | _make_sub_path(home.sub_path)
    pod["containers"][0]["volumeMounts"].append(mount)
    if job.spec.results_to_home:
        _put_results(pod, job, home, image)
    if home.claim is not None and home.is_on_one_node:
        metadata["labels"] = metadata["labels"] | _make_label(home.claim)
        metadata["annotations"] = metadata["annotations"] | {CLAIM_ANNOTATION: home.claim}
        pod["affinity"] = _require_same_node(pod.get("affinity") or {}, home.claim)
    if home.node is not None:
        metadata["annotations"] = metadata["annotations"] | {NODE_ANNOTATION: home.node}
        pod["affinity"] = _require_node(pod.get("affinity") or {}, home.node)


def _put_results(pod: Manifest, job: Job, home: HomeVolume, image: str) -> None:
    """Make the folder for results one of the home, so that they are there even if the pod is killed.

    An init container makes it, as the job's own user: the kubelet would make it as root.
    """
    folder = join(RESULTS_FOLDER, job.id)
    pod["volumes"] = [each for each in pod["volumes"] if each["name"] != OUTPUT_VOLUME]
    for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
        copies = container["name"] == KEEP_CONTAINER and job.spec.collect == "workdir"
        if copies:
            container["env"] = [*container["env"], {"name": COPY_VARIABLE, "value": "1"}]
        for mount in container.get("volumeMounts") or []:
            if mount["name"] == OUTPUT_VOLUME:
                mount |= {"name": VOLUME} | _make_sub_path(join(home.sub_path, folder))
                if copies:
                    del mount["readOnly"]
    maker = {
        "name": FOLDER_CONTAINER,
        "image": image,
        "command": ["sh", "-c", FOLDER_SCRIPT, "sh", f"{FOLDER_MOUNT}/{folder}"],
        "resources": make_init_resources(job.spec),
        "securityContext": make_container_security(job.spec),
        "volumeMounts": [{"name": VOLUME, "mountPath": FOLDER_MOUNT} | _make_sub_path(home.sub_path)],
    }
    pod["initContainers"] = [maker, *(pod.get("initContainers") or [])]


def _make_label(claim: str) -> dict[str, str]:
    """Return the label of a claim's pods: its name, which docs/home.md has the hub use for servers, too."""
    return {HOME_LABEL: claim if len(claim) <= MAX_LABEL else make_slug(claim)}


def _make_sub_path(path: str) -> Manifest:
    return {"subPath": path} if path else {}


def _require_node(affinity: Manifest, node: str) -> Manifest:
    """Return the affinity with a node: each of its alternatives must be this node, too."""
    of_nodes = affinity.get("nodeAffinity") or {}
    terms = (of_nodes.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = [term | {"matchFields": [*term.get("matchFields", []), field]} for term in terms]
    return affinity | {"nodeAffinity": of_nodes | {REQUIRED: {"nodeSelectorTerms": terms}}}


def _require_same_node(affinity: Manifest, claim: str) -> Manifest:
    """Return the affinity with the node of all pods that have this claim's label, if there are any.

    Kubernetes lets the first of them run anywhere because it has the label itself. This does not work
    together with affinities to other pods, which come from the admin and take precedence.
    """
    of_pods = affinity.get("podAffinity") or {}
    if of_pods.get(REQUIRED):
        return affinity
    term = {"labelSelector": {"matchLabels": _make_label(claim)}, "topologyKey": "kubernetes.io/hostname"}
    return affinity | {"podAffinity": of_pods | {REQUIRED: [term]}}
