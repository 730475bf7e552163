"""A user's own secrets in a job's pod: files, and credentials to pull its image with. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from ....models.job import Job, JobSpec
from ....models.secret import RegistryLogin
from .manifest import Manifest

SECRETS_DIR = "/kbatch-secrets"
SECRETS_VOLUME = "kbatch-secrets"

SECRETS_MOUNT: Manifest = {"name": SECRETS_VOLUME, "mountPath": SECRETS_DIR, "readOnly": True}
"""The files of a job that are secrets. Only the job's own container has them."""

PULL_SECRET_TYPE = "kubernetes.io/dockerconfigjson"  # noqa: S105 - not a password

_FILE_PREFIX = "secret-file."

_DOCKER_HUB = "https://index.docker.io/v1/"
_NAMES_OF_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "hub.docker.com", "registry-1.docker.io"})
"""The kubelet looks for the credentials of Docker Hub under one name only."""


def make_file_data(files: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a job's Secret with its secret files."""
    return {_FILE_PREFIX + name: content for name, content in files.items()}


def make_secrets_volume(secret: str, spec: JobSpec, pod_security: Manifest) -> Manifest:
    """Return the volume with a job's secret files (and nothing else) from a Secret.

    The files belong to root. With a group for volumes, Kubernetes lets this group read them. Without one,
    everybody in the job's container can read them: which user that is may only be known to the image.
    """
    items = [{"key": _FILE_PREFIX + name, "path": name} for name in spec.secret_files]
    mode = 0o444 if pod_security.get("fsGroup") is None else 0o400
    return {
        "name": SECRETS_VOLUME,
        "secret": {"secretName": secret, "items": items, "defaultMode": mode},
    }


def make_pull_secret_name(job: Job) -> str:
    """Return the name of the Secret with a job's credentials for registries."""
    return f"{job.id}-registry"


def list_pull_secrets(job: Job) -> list[str]:
    """Return the names of the Secrets that the kubelet pulls a job's image with: the user's own first."""
    own = [make_pull_secret_name(job)] if job.spec.registry_secrets else []
    return [*own, *job.spec.image_pull_secrets]


def make_pull_data(registries: Sequence[RegistryLogin]) -> dict[str, str]:
    """Return the content of such a Secret: of two credentials for a registry the first."""
    logins = {_make_server(each.server): each for each in reversed(registries)}
    auths = {server: _make_login(login) for server, login in logins.items()}
    return {".dockerconfigjson": json.dumps({"auths": auths})}


def _make_server(server: str) -> str:
    return _DOCKER_HUB if server.partition("/")[0] in _NAMES_OF_DOCKER_HUB else server


def _make_login(login: RegistryLogin) -> dict[str, str]:
    auth = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return {"username": login.username, "password": login.password, "auth": auth}
