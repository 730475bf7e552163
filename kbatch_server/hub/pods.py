"""What the pod of a user's server says: whose it is, its image, its environment. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..models.server import ServerPod
from ..templates import make_escaped_name, make_safe_name

OWNER = "hub.jupyter.org/username"
"""KubeSpawner's label with the user's slug, and its annotation with the user's name as it is."""

SERVER = "hub.jupyter.org/servername"
CONTAINER = "notebook"
"""The name of a server's own container."""

MAX_ENV_NAMES = 500
MAX_ENV_BYTES = 128 * 1024

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SERVERS_OWN = re.compile(r"(?:JUPYTERHUB|JPY|MEM|CPU|NVIDIA)_.*|JUPYTER_IMAGE(?:_SPEC)?")
_SECRET_WORD = re.compile(r"TOKEN|KEY|SECRET|PASS|PWD|CREDENTIAL|COOKIE|PRIVATE|(?:^|_)AUTH(?:_|$)")
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]{0,200}:[^/@\s]{1,200}@")


def make_user_selector(user: str) -> str:
    """Return the label selector of a user's pods, under KubeSpawner's present and earlier names."""
    # as a label's value, KubeSpawner keeps any name that is valid there, and shortens others to 32 characters
    slugs = {user, make_safe_name(user, max_length=32), make_safe_name(user), make_escaped_name(user)}
    return f"{OWNER} in ({','.join(sorted(slug for slug in slugs if _LABEL.fullmatch(slug)))})"


def is_of_server(pod: Mapping[str, Any], user: str, server: str) -> bool:
    """Whether a pod is that of this server, and neither ended nor about to end.

    Only the annotations count, which have the names unchanged: two users' labels may be the same.
    """
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    is_theirs = annotations.get(OWNER) == user and annotations.get(SERVER, "") == server
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return is_theirs and not is_over and not metadata.get("deletionTimestamp")


def find_container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the server's own container."""
    containers: list[Mapping[str, Any]] = pod["spec"]["containers"]
    return next((each for each in containers if each["name"] == CONTAINER), containers[0])


def read_pod(pod: Mapping[str, Any]) -> ServerPod:
    """Return what a job can take from the pod of a server."""
    container = find_container(pod)
    statuses = pod.get("status", {}).get("containerStatuses") or []
    image_id = next((each.get("imageID", "") for each in statuses if each["name"] == container["name"]), "")
    # an image that was loaded into the node, from no registry, has an id and nothing to pull
    digest = image_id.rpartition("@")[2] if "@" in image_id else ""
    return ServerPod(
        image=str(container.get("image", "")),
        digest=digest if _DIGEST.fullmatch(digest) else None,
        env=take_env(container.get("env") or []),
    )


def take_env(variables: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the variables of a server that its jobs may have, too, as many as a job may have.

    None that the hub or KubeSpawner sets for the server itself, none from a Secret or a ConfigMap
    (``valueFrom``), and none that may be secret by its name, or as a URL with a password.
    """
    taken: dict[str, str] = {}
    size = 0
    for each in variables:
        name, value = each["name"], each.get("value")
        if not isinstance(value, str) or each.get("valueFrom") or not _may_be_copied(name, value):
            continue
        size += len(name.encode()) + len(value.encode())
        if len(taken) == MAX_ENV_NAMES or size > MAX_ENV_BYTES:
            break
        taken[name] = value
    return taken


def _may_be_copied(name: str, value: str) -> bool:
    is_plain = _ENV_NAME.fullmatch(name) is not None and "\0" not in value
    is_secret = _SECRET_WORD.search(name.upper()) or _URL_WITH_PASSWORD.search(value)
    return is_plain and not _SERVERS_OWN.fullmatch(name) and not is_secret
