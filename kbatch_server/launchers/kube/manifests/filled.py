"""Fills in the templates in a job's spec, for its user and the place where it runs. Pure."""

from __future__ import annotations

from dataclasses import replace

from ....models.job import Job
from ....templates import expand

TEMPLATES = (
    "extra_annotations",
    "extra_containers",
    "extra_labels",
    "extra_pod_config",
    "init_containers",
    "node_selector",
    "pvc_name_template",
    "service_account",
    "volume_mounts",
    "volumes",
    "working_dir",
)
"""The traits whose strings are templates."""

_FIELDS = (
    *(name for name in TEMPLATES if name not in ("pvc_name_template", "working_dir")),
    "env_sources",
    "image_working_dir",
)


def fill_templates(job: Job, *, namespace: str, hub_namespace: str) -> Job:
    """Return the job with the templates of its spec filled in.

    ``hub_namespace`` is where the hub runs, for ``{hubnamespace}``. As for KubeSpawner, the namespace
    ``default`` is called ``user`` there.
    """
    spec = job.spec
    place = {
        "namespace": namespace,
        "hubnamespace": "user" if hub_namespace == "default" else hub_namespace,
    }
    claim = expand(spec.pvc_name_template, job.user, scheme=spec.slug_scheme, place=place)
    place["pvc_name"] = claim
    filled = {
        name: expand(value, job.user, scheme=spec.slug_scheme, place=place)
        for name in _FIELDS
        if (value := getattr(spec, name))
    }
    return replace(job, spec=spec.model_copy(update=filled))
