"""The requests and limits of the containers of a job's pod. Pure."""

from __future__ import annotations

import math

from ....models.job import JobSpec
from ....quantities import is_exclusive
from .manifest import Manifest

SIDECAR_DISK = "16Mi"
"""The sidecar's ephemeral storage, if the job's own container has a limit: a quota then requires one for
each."""


def make_resources(spec: JobSpec) -> Manifest:
    """Return the resources of the job's own container."""
    limits = dict(spec.extra_resource_limits)
    requests = dict(spec.extra_resource_guarantees)
    for name, amount in requests.items():
        if is_exclusive(name):  # which Kubernetes takes with a limit only
            limits.setdefault(name, amount)
    for amounts, cpu, memory in (
        (limits, spec.cpu_limit, spec.mem_limit),
        (requests, spec.cpu_guarantee, spec.mem_guarantee),
    ):
        if cpu is not None:
            amounts["cpu"] = _format_cpu(cpu)
        if memory is not None:
            amounts["memory"] = str(memory)
    return {kind: amounts for kind, amounts in (("limits", limits), ("requests", requests)) if amounts}


def make_init_resources(spec: JobSpec) -> Manifest:
    """Return the resources of the container that fetches the code.

    They are those of the job itself, unless the admin sets others: a quota may require resources for each
    container, and Kubernetes reserves the larger of init and main containers, so that the same resources add
    nothing. It needs no GPU.
    """
    return spec.init_resources or {
        kind: {name: value for name, value in amounts.items() if name in ("cpu", "memory")}
        for kind, amounts in make_resources(spec).items()
    }


def make_sidecar_resources(spec: JobSpec) -> Manifest:
    """Return the resources of the container that sends the results.

    They are always explicit, so that a LimitRange sets no default, which may be as much as the job has.
    """
    main = make_resources(spec)
    own = {kind: dict(amounts) for kind, amounts in spec.sidecar_resources.items()}
    if _is_guaranteed(main):
        own["requests"] = own.get("requests", {}) | own.get("limits", {})
    for kind, amounts in main.items():
        if "ephemeral-storage" in amounts:
            own.setdefault(kind, {}).setdefault("ephemeral-storage", SIDECAR_DISK)
    return own


def _is_guaranteed(resources: Manifest) -> bool:
    """Whether a pod with only this container has the QoS class Guaranteed: its requests equal its limits."""
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    return all(
        name in limits and requests.get(name, limits[name]) == limits[name] for name in ("cpu", "memory")
    )


def _format_cpu(cpu: float) -> str:
    """Return ``2`` or ``1500m``: Kubernetes counts in thousandths, and 0 means no limit."""
    return str(int(cpu)) if cpu == int(cpu) else f"{max(1, math.ceil(round(cpu * 1000, 6)))}m"
