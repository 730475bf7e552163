"""Make the container beside a job's own that sends what the job wrote, once its command has ended. Pure.

A native sidecar: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....models.job import JobSpec
from ....models.results import OutputLimits
from .script import read_script

Manifest = dict[str, Any]

KEEP_CONTAINER = "keep-outputs"
CODE_DIR = "/code"
CODE_VOLUME = "kbatch-code"
OUTPUT_DIR = "/kbatch-outputs"
OUTPUT_VOLUME = "kbatch-outputs"
OUTPUT_VARIABLE = "KBATCH_OUTPUT_DIR"
OUTPUTS_URL_KEY = "outputs-url"

ROOT = "/kbatch"
"""Where the sidecar has the folders that it packs, which are the names in the tar: see ``selection``."""

LISTS_VOLUME = "kbatch-lists"
"""Lists of files, which the job does not see: of those that were unpacked, of those that are sent."""

LISTS_MOUNT = {"name": LISTS_VOLUME, "mountPath": f"{ROOT}/lists"}

MAX_SAID_LENGTH = 200
"""Characters of the sidecar's last word that are passed on."""

NOTE_SCRIPT = read_script("lists", "note")
"""Is added to the script of the container that unpacks the code, in that folder."""

SEND_SCRIPT = read_script("lists", "send")
"""For busybox; any image with sh, nc (with -e), tar, timeout, find, stat, awk, sort, xargs, tr, sed, head,
wc, cat, ln, mkdir, readlink and, for https, ssl_client will do."""


def make_sidecar(
    spec: JobSpec,
    limits: OutputLimits,
    *,
    image: str,
    url: Manifest,
    resources: Manifest,
    security_context: Manifest,
) -> Manifest:
    """Return the container; ``url`` is the variable ``KBATCH_OUTPUTS_URL``, which comes from the Secret."""
    folders = {"outputs": OUTPUT_DIR} | ({"workdir": CODE_DIR} if spec.collect == "workdir" else {})
    env = {
        "KBATCH_FOLDERS": " ".join(f"{name}={path}" for name, path in folders.items()),
        "KBATCH_MAX_BYTES": str(limits.max_bytes),
        "KBATCH_MAX_FILES": str(limits.max_files),
    }
    mounts = [
        {"name": OUTPUT_VOLUME, "mountPath": f"{ROOT}/outputs", "readOnly": True},
        LISTS_MOUNT,
        {"name": CODE_VOLUME, "mountPath": f"{ROOT}/workdir", "readOnly": True},
    ]
    return {
        "name": KEEP_CONTAINER,
        "image": image,
        "restartPolicy": "Always",
        "command": ["sh", "-c", SEND_SCRIPT],
        "env": [url, *({"name": name, "value": value} for name, value in env.items())],
        "resources": resources,
        "securityContext": security_context,
        "volumeMounts": mounts[: 1 + len(folders)],
    }


def explain_unsent(pods: Sequence[Manifest]) -> str:
    """Return why nothing was sent, from what the newest pod's sidecar said last; ``pods`` oldest first."""
    said = ""
    for pod in pods:
        for each in pod["status"].get("initContainerStatuses") or []:
            if each["name"] == KEEP_CONTAINER:
                said = ((each.get("state") or {}).get("terminated") or {}).get("message") or ""
    why = " ".join(said.split())[:MAX_SAID_LENGTH]
    return f"The results were not sent before the pod ended{': ' if why else ''}{why}."
