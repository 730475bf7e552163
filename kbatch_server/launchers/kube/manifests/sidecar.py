"""Makes the container that sends the results once the job's command has ended. Pure.

It is a native sidecar: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
"""

from __future__ import annotations

from collections.abc import Sequence

from ....models.job import JobSpec
from ....models.results import OutputLimits
from .manifest import Manifest
from .script import read_script

KEEP_CONTAINER = "keep-outputs"
CODE_DIR = "/code"
CODE_VOLUME = "kbatch-code"
OUTPUT_DIR = "/kbatch-outputs"
OUTPUT_VOLUME = "kbatch-outputs"
OUTPUT_VARIABLE = "KBATCH_OUTPUT_DIR"
OUTPUTS_URL_KEY = "outputs-url"

ROOT = "/kbatch"
"""The path in the sidecar of the folders to pack, whose names are also those in the tar: see
``selection``."""

LISTS_VOLUME = "kbatch-lists"
"""Lists of files, which the job cannot see: the unpacked files, and the files to send."""

LISTS_MOUNT = {"name": LISTS_VOLUME, "mountPath": f"{ROOT}/lists"}

MAX_SAID_LENGTH = 200
"""The maximum length of the sidecar's message."""

NOTE_SCRIPT = read_script("lists", "note")
"""Added to the script of the container that unpacks the code; it runs in that folder."""

SEND_SCRIPT = read_script("lists", "send")
"""For busybox; any image with sh, nc (with -e), tar, timeout, find, stat, awk, sort, xargs, tr, sed, head,
wc, cat, ln, mkdir, readlink and, for https, ssl_client works."""


def make_sidecar(
    spec: JobSpec,
    limits: OutputLimits,
    *,
    image: str,
    url: Manifest,
    resources: Manifest,
    security_context: Manifest,
) -> Manifest:
    """Return the container; ``url`` is the variable ``KBATCH_OUTPUTS_URL`` from the Secret."""
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
    """Return why no results arrived, from the message of the newest pod's sidecar; ``pods`` oldest first."""
    said = ""
    for pod in pods:
        for each in pod["status"].get("initContainerStatuses") or []:
            if each["name"] == KEEP_CONTAINER:
                said = ((each.get("state") or {}).get("terminated") or {}).get("message") or ""
    why = " ".join(said.split())[:MAX_SAID_LENGTH]
    return f"The results were not sent before the pod ended{': ' if why else ''}{why}."
