"""Settings of a job's pod: its nodes, its volumes, its helper containers. It runs nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from posixpath import normpath
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from ..launchers.kube.manifests.volumes import OWN_DIRS, OWN_VOLUMES, SHM_DIR
from ..templates import find_problem

GIB = 2**30


class PodConfig(Configurable):
    """The options of a job's pod, as the admin set them."""

    code_volume_size = ByteSpecification(
        32 * GIB,
        allow_none=True,
        help="""The maximum size, in bytes, of ``/code``: the code of a job and the files that it writes
        beside it. Default: 32 GiB.

        The node evicts a job that writes more, and the job fails with a message that gives the reason. None:
        as much as is free on the node's disk, which all pods of the node share.
        """,
        config=True,
    )

    output_volume_size = ByteSpecification(
        16 * GIB,
        allow_none=True,
        help="""The maximum size, in bytes, of the files that a job writes under ``$KBATCH_OUTPUT_DIR``: see
        ``code_volume_size``. Default: 16 GiB.

        The service keeps up to ``Outputs.max_output_bytes`` of them.
        """,
        config=True,
    )

    home_volume_size = ByteSpecification(
        8 * GIB,
        allow_none=True,
        help="""The maximum size, in bytes, of the home folder that ``ensure_home`` creates: see
        ``code_volume_size``. Default: 8 GiB.
        """,
        config=True,
    )

    ensure_home = Bool(
        True,
        help="""Whether a job that cannot write to its HOME gets a home folder of its own, ``/kbatch-home``.

        This happens when the cluster or the admin sets a user that the image does not know. If the job can
        write to its HOME, it keeps it. Otherwise, the service also unsets variables such as
        ``XDG_CACHE_HOME`` if the job cannot write to their folders. The check needs ``/bin/sh`` in the image:
        set this to False for images without a shell. For a single job, its user can set HOME in ``env``,
        which disables the check. A job without a ``command`` is not checked either.
        """,
        config=True,
    )

    init_resources = Dict(
        help="""The resources of the init container that fetches the code, in the form of
        ``sidecar_resources``.

        Default: the CPUs and the memory of the job itself. The job needs them only after this container has
        ended, so the pod requests no more.
        """,
        config=True,
    )

    sidecar_resources = Dict(
        default_value={
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"cpu": "200m", "memory": "64Mi"},
        },
        help="""The resources of the sidecar that sends the results of a job, as in the spec of a container.

        They come on top of the job's own. If a LimitRange of the namespace requires more for each container,
        set more. If the requests of a job equal its limits, the sidecar also requests as much as its limits,
        so that the pod keeps the QoS class Guaranteed.
        """,
        config=True,
    )

    sidecar_timeout_seconds = Integer(
        30,
        min=0,
        help="""Seconds after the end of a job's command until the service stops a pod that is kept alive by
        another container, such as the proxy of a service mesh, that something else added to it. 0: never.

        Such a container could run forever. The status of the job does not depend on it.
        """,
        config=True,
    )

    node_selector = Dict(Unicode(), help="""Labels that a node must have to run a job.""", config=True)

    tolerations = List(Dict(), help="""Kubernetes tolerations of the jobs' pods.""", config=True)

    node_affinity_preferred = List(
        Dict(),
        help="""Nodes that a job prefers: PreferredSchedulingTerms of Kubernetes, like
        ``[{"weight": 1, "preference": {"matchExpressions": [...]}}]``.
        """,
        config=True,
    )

    node_affinity_required = List(
        Dict(),
        help="""Nodes that a job may run on: NodeSelectorTerms of Kubernetes, like
        ``[{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["batch"]}]}]``.
        """,
        config=True,
    )

    pod_affinity_preferred = List(
        Dict(),
        help="""Pods that a job prefers to run near: WeightedPodAffinityTerms of Kubernetes.""",
        config=True,
    )

    pod_affinity_required = List(
        Dict(), help="""Pods that a job must run near: PodAffinityTerms of Kubernetes.""", config=True
    )

    pod_anti_affinity_preferred = List(
        Dict(),
        help="""Pods that a job prefers not to run near: WeightedPodAffinityTerms of Kubernetes.""",
        config=True,
    )

    pod_anti_affinity_required = List(
        Dict(), help="""Pods that a job must not run near: PodAffinityTerms of Kubernetes.""", config=True
    )

    scheduler_name = Unicode(
        None,
        allow_none=True,
        help="""The Kubernetes scheduler of the jobs' pods. None: the cluster's default.""",
        config=True,
    )

    uid = Integer(
        None,
        allow_none=True,
        min=0,
        help="""The user id of a job's containers (``runAsUser``). None: that of the image, or of
        ``pod_security_context``.
        """,
        config=True,
    )

    gid = Integer(
        None,
        allow_none=True,
        min=0,
        help="""The group id of a job's containers (``runAsGroup``). None: that of the image, or of
        ``pod_security_context``.
        """,
        config=True,
    )

    fs_gid = Integer(
        None,
        allow_none=True,
        min=0,
        help="""The group that owns a job's volumes (``fsGroup``), and to which its containers belong.""",
        config=True,
    )

    supplemental_gids = List(
        Integer(min=0),
        help="""More groups to which a job's containers belong (``supplementalGroups``).""",
        config=True,
    )

    allow_privilege_escalation = Bool(
        False,
        allow_none=True,
        help="""Whether a job's programs may gain privileges that the job does not have, as ``sudo`` does.
        None: Kubernetes's default, which is to allow it.
        """,
        config=True,
    )

    volumes = List(
        Dict(),
        help="""Kubernetes volumes of the jobs' pods, like
        ``[{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{user_server}"}}]``,
        which is the claim of the user's server on the hub (KubeSpawner's ``pvc_name_template``).
        The service's own volumes have names that begin with ``kbatch-``.
        """,
        config=True,
    )

    volume_mounts = List(
        Dict(),
        help="""Where to mount ``volumes``: ``[{"name": "home", "mountPath": "/home/jovyan"}]``.

        Each needs its own path, and none of the service's: ``/code``, ``/kbatch-home``, ``/kbatch-notebook``
        and ``/kbatch-outputs``. Paths inside these are allowed.
        """,
        config=True,
    )

    service_account = Unicode(
        None,
        allow_none=True,
        help="""The Kubernetes service account of the jobs' pods. None: the namespace's default, without a
        token.
        """,
        config=True,
    )

    pod_security_context = Dict(
        help="""The Kubernetes security context of the jobs' pods (``runAsUser``, …). It takes precedence over
        ``fs_gid`` and ``supplemental_gids``.
        """,
        config=True,
    )

    container_security_context = Dict(
        help="""The Kubernetes security context of the jobs' containers. It takes precedence over ``uid``,
        ``gid`` and ``allow_privilege_escalation``.
        """,
        config=True,
    )

    image_pull_policy = Unicode(
        None,
        allow_none=True,
        help="""``Always``, ``IfNotPresent`` or ``Never``. None: Kubernetes decides.""",
        config=True,
    )

    image_pull_secrets = List(Unicode(), help="""Names of the Secrets for pulling images.""", config=True)

    priority_class_name = Unicode(
        None, allow_none=True, help="""The Kubernetes PriorityClass of the jobs' pods.""", config=True
    )

    labels = Dict(Unicode(), help="""Extra labels of each Job and its pods.""", config=True)

    annotations = Dict(Unicode(), help="""Extra annotations of each Job and its pods.""", config=True)

    @validate("node_selector", "labels", "annotations", "service_account")
    def _validate_template(self, proposal: Any) -> Any:
        _check_template(proposal["trait"].name, proposal["value"])
        return proposal["value"]

    @validate("volumes")
    def _validate_volumes(self, proposal: Any) -> Any:
        _check_unique("volumes", [each.get("name") for each in proposal["value"]], OWN_VOLUMES)
        _check_template("volumes", proposal["value"])
        return proposal["value"]

    @validate("volume_mounts")
    def _validate_volume_mounts(self, proposal: Any) -> Any:
        _check_unique("volume_mounts", _list_paths(proposal["value"]), OWN_DIRS)
        _check_template("volume_mounts", proposal["value"])
        return proposal["value"]

    @property
    def has_own_shm(self) -> bool:
        """Whether the admin mounts a volume as the jobs' shared memory."""
        return SHM_DIR in _list_paths(self.volume_mounts)


def _list_paths(mounts: Sequence[dict[str, Any]]) -> list[str]:
    return [normpath(str(each.get("mountPath"))) for each in mounts]


def _check_template(trait: str, value: Any) -> None:
    """Raise TraitError for a brace that is no field of a template."""
    problem = find_problem(value)
    if problem:
        raise TraitError(f"JobConfig.{trait}: {problem}")


def _check_unique(trait: str, names: Sequence[Any], taken: Collection[str]) -> None:
    """Raise TraitError for a name or path that the service, or another entry, uses."""
    for number, name in enumerate(names):
        if name in taken:
            raise TraitError(f"JobConfig.{trait}: {name} is the service's own; choose another")
        if name in names[:number]:
            raise TraitError(f"JobConfig.{trait}: {name} appears twice")
