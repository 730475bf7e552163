"""Which volume is the home of a user's server, and which node it is in use on. Pure.

The rule: the running pod's volume, else the claim in the spawner's state, else an existing claim with
KubeSpawner's safe name, else an existing one with its escaped name. None is created, and none is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from posixpath import normpath
from typing import Any

from ..templates import expand
from .pods import OWNER, find_container

Manifest = Mapping[str, Any]

MOUNTABLE = ("persistentVolumeClaim", "nfs")
"""The kinds of a server's volumes that a job can mount, too."""


@dataclass(frozen=True, slots=True)
class HomeVolume:
    """A home for the pod of a job."""

    source: dict[str, Any]
    """What Kubernetes mounts, like ``{"persistentVolumeClaim": {"claimName": …}}``."""
    sub_path: str = ""
    node: str | None = None
    """The only node that the job may run on; None: any."""
    is_on_one_node: bool = False
    """Whether all pods that mount it must be on the same node."""

    @property
    def claim(self) -> str | None:
        """The name of the claim, if it is one."""
        return (self.source.get("persistentVolumeClaim") or {}).get("claimName")


def make_claim_names(template: str, user: str, server: str) -> tuple[str, str]:
    """Return KubeSpawner's names for a server's claim: by its scheme ``safe``, and by ``escape``."""
    safe, escaped = (str(expand(template, user, server, scheme=each)) for each in ("safe", "escape"))
    return safe, escaped


def is_safe_name_of(claim: Manifest | None, user: str) -> bool:
    """Whether a claim with a user's safe name exists: one that KubeSpawner made has the user's own name."""
    return claim is not None and _find_owner(claim) in (user, None)


def is_escaped_name_of(claim: Manifest | None, user: str) -> bool:
    """Whether a claim with a user's escaped name is this user's.

    It must say so: ``a.b`` escaped is ``a-2eb``, which is also the name of another user.
    """
    return claim is not None and _find_owner(claim) == user


def _find_owner(claim: Manifest) -> str | None:
    owner: str | None = (claim["metadata"].get("annotations") or {}).get(OWNER)
    return owner


def find_volume(pod: Manifest, mount_path: str) -> HomeVolume | None:
    """Return the volume at a path of a server; None if there is none that a job can mount, too."""
    mounts = find_container(pod).get("volumeMounts") or []
    mount = next((each for each in mounts if normpath(each["mountPath"]) == normpath(mount_path)), None)
    if mount is None or mount.get("subPathExpr"):
        return None
    volumes = pod["spec"].get("volumes") or []
    volume = next(each for each in volumes if each["name"] == mount["name"])
    kind = next((kind for kind in MOUNTABLE if kind in volume), None)
    return HomeVolume({kind: dict(volume[kind])}, mount.get("subPath") or "") if kind else None


def make_volume(claim: str, sub_path: str) -> HomeVolume:
    """Return the volume of a claim."""
    return HomeVolume({"persistentVolumeClaim": {"claimName": claim}}, sub_path)


def get_access_modes(claim: Manifest) -> list[str]:
    """Return the access modes that a claim has, or, until it is bound, requests."""
    modes = claim.get("status", {}).get("accessModes") or claim["spec"].get("accessModes")
    return list(modes or [])


def find_node(pods: Iterable[Manifest], claim: str) -> str | None:
    """Return the node where a claim is in use: where a pod that mounts it runs, or else is about to start."""
    using = [pod for pod in pods if pod["spec"].get("nodeName") and _mounts(pod, claim)]
    using.sort(key=lambda pod: pod.get("status", {}).get("phase") != "Running")
    return str(using[0]["spec"]["nodeName"]) if using else None


def _mounts(pod: Manifest, claim: str) -> bool:
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    sources = [each.get("persistentVolumeClaim") or {} for each in pod["spec"].get("volumes") or []]
    return not is_over and any(source.get("claimName") == claim for source in sources)
