"""The ephemeral volumes of a job's pod, each with a size. Pure."""

from __future__ import annotations

from ....models.job import JobSpec
from ....notebooks.launch import SETTINGS_FILE, SOURCE_FILES
from .home import HOME_DIR, HOME_VOLUME
from .manifest import Manifest
from .sidecar import CODE_DIR, CODE_VOLUME, LISTS_VOLUME, OUTPUT_DIR, OUTPUT_VOLUME

SHM_DIR = "/dev/shm"  # noqa: S108 - where POSIX's shared memory is
LISTS_SIZE = "512Mi"
"""Enough for three lists of the maximum number of files in a ZIP, with the longest names."""

SHM_VOLUME = "kbatch-shm"

NOTEBOOK_DIR = "/kbatch-notebook"
NOTEBOOK_VOLUME = "kbatch-notebook"
OWN_DIRS = (CODE_DIR, OUTPUT_DIR, HOME_DIR, NOTEBOOK_DIR)
OWN_VOLUMES = (CODE_VOLUME, OUTPUT_VOLUME, LISTS_VOLUME, HOME_VOLUME, SHM_VOLUME, NOTEBOOK_VOLUME)
"""Names and paths that an admin's own volumes and mounts must not have: Kubernetes rejects duplicates."""

NOTEBOOK_MOUNT: Manifest = {"name": NOTEBOOK_VOLUME, "mountPath": NOTEBOOK_DIR, "readOnly": True}
"""The files that run a job's notebook, from its Secret."""


def make_volumes(spec: JobSpec, *, has_home: bool) -> list[Manifest]:
    """Return the volumes. A pod that exceeds a size is evicted; shared memory is full instead."""
    volumes = [_make_volume(CODE_VOLUME, spec.code_volume_size)]
    if spec.keep_outputs:
        volumes.append(_make_volume(OUTPUT_VOLUME, spec.output_volume_size))
        volumes.append({"name": LISTS_VOLUME, "emptyDir": {"sizeLimit": LISTS_SIZE}})
    if has_home:
        volumes.append(_make_volume(HOME_VOLUME, spec.home_volume_size))
    if spec.shm_size is not None:
        volumes.append(_make_volume(SHM_VOLUME, spec.shm_size, medium="Memory"))
    return volumes


def make_notebook_volume(secret: str) -> Manifest:
    """Return the volume with the files that run a notebook (and no others) from a Secret."""
    items = [{"key": name, "path": name} for name in (*SOURCE_FILES, SETTINGS_FILE)]
    return {"name": NOTEBOOK_VOLUME, "secret": {"secretName": secret, "items": items}}


def make_mounts(spec: JobSpec, *, has_home: bool) -> list[Manifest]:
    """Return the mounts of these volumes in the job's own container."""
    mounts: list[Manifest] = [{"name": CODE_VOLUME, "mountPath": CODE_DIR}] if runs_in_code_dir(spec) else []
    if spec.keep_outputs:
        mounts.append({"name": OUTPUT_VOLUME, "mountPath": OUTPUT_DIR})
    if has_home:
        mounts.append({"name": HOME_VOLUME, "mountPath": HOME_DIR})
    if spec.shm_size is not None:
        mounts.append({"name": SHM_VOLUME, "mountPath": SHM_DIR})
    if spec.notebook is not None:
        mounts.append(NOTEBOOK_MOUNT)
    return mounts


def runs_in_code_dir(spec: JobSpec) -> bool:
    """Whether the command starts in /code: with an upload, or if results are collected from there."""
    return spec.upload is not None or spec.collect == "workdir"


def find_working_dir(spec: JobSpec) -> str | None:
    """Return the folder that the command starts in; None: that of the image."""
    if not runs_in_code_dir(spec):
        return spec.image_working_dir
    return f"{CODE_DIR}/{spec.working_dir}" if spec.working_dir else CODE_DIR


def _make_volume(name: str, size: int | None, **options: str) -> Manifest:
    limits = {} if size is None else {"sizeLimit": str(size)}
    return {"name": name, "emptyDir": {**options, **limits}}
