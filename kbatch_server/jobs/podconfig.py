"""What a job's pod looks like: where it runs, what it mounts, and what serves it. It runs nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from posixpath import normpath
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, validate
from traitlets.config import Configurable

from ..launchers.kube.manifests.volumes import OWN_DIRS, OWN_VOLUMES, SHM_DIR

GIB = 2**30


class PodConfig(Configurable):
    """The options of a job's pod, as the admin set them."""

    shm_size = ByteSpecification(
        None,
        allow_none=True,
        help="""Bytes of shared memory (``/dev/shm``) of a job that asks for no other number, as
        ``mem_limit``.

        What is in it counts as memory of the job, and so to its ``mem_limit``. None: what the container
        runtime gives, which is 64 MiB. Jobs that are processes of one machine share that of the machine.
        Where ``volume_mounts`` has a volume at ``/dev/shm``, that is the jobs' shared memory: this has no
        effect, and a job that sets ``shm_size`` is refused.
        """,
        config=True,
    )

    max_shm_size = ByteSpecification(
        None,
        allow_none=True,
        help="""The largest ``shm_size`` that a user may set, as ``mem_limit``. None: as much as the job's
        ``mem_limit``.""",
        config=True,
    )

    code_volume_size = ByteSpecification(
        32 * GIB,
        allow_none=True,
        help="""Bytes that the code of a job and what it writes beside it, in ``/code``, may have. Default:
        32 GiB.

        The node evicts a job that writes more, and the job fails with a message that says so. None: as much
        as the node's disk has, which all pods of the node share.
        """,
        config=True,
    )

    output_volume_size = ByteSpecification(
        16 * GIB,
        allow_none=True,
        help="""Bytes that a job may write under ``$KBATCH_OUTPUT_DIR``, as ``code_volume_size``. Default:
        16 GiB.

        ``Outputs.max_output_bytes`` says how much of it is kept.
        """,
        config=True,
    )

    home_volume_size = ByteSpecification(
        8 * GIB,
        allow_none=True,
        help="""Bytes that a job may write to the home folder that it is given by ``ensure_home``, as
        ``code_volume_size``. Default: 8 GiB.""",
        config=True,
    )

    ensure_home = Bool(
        True,
        help="""Whether a job gets a home folder of its own, ``/kbatch-home``, where it may not write to its
        HOME, as when the cluster or the admin chooses a user that the image does not know.

        Variables such as ``XDG_CACHE_HOME`` that name folders which the job may not write to are unset then.
        The HOME of the image stays where the job may write to it. The check needs ``/bin/sh`` in the image.
        Set it to False for images without a shell; for a single job, its user sets HOME in ``env``, and then
        nothing is checked. Nor is it for a job without a ``command``.
        """,
        config=True,
    )

    init_resources = Dict(
        help="""What the container that fetches the code asks for and may use, as ``sidecar_resources``.
        Default: the CPU and the memory of the job itself, which it needs later only, so that nothing is
        added.""",
        config=True,
    )

    sidecar_resources = Dict(
        default_value={
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"cpu": "200m", "memory": "64Mi"},
        },
        help="""What the container that sends the results of a job asks for and may use, in Kubernetes's
        words.

        It comes on top of what the job itself asks for. Where a LimitRange of the namespace wants more in
        each container, set as much. In the pod of a job whose requests are its limits, the limits are asked
        for, so that the pod's quality of service stays Guaranteed.
        """,
        config=True,
    )

    sidecar_timeout_seconds = Integer(
        30,
        min=0,
        help="""Seconds after the end of a job's command until a container that something else put into its
        pod is ended, such as the proxy of a service mesh, which would run for ever. The job's result is
        that of its command. 0: never.""",
        config=True,
    )

    node_selector = Dict(Unicode(), help="""Labels of the nodes that a job may run on.""", config=True)

    tolerations = List(Dict(), help="""Kubernetes tolerations of a job's pods.""", config=True)

    volumes = List(
        Dict(),
        help="""Kubernetes volumes of a job's pods, like
        ``[{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{username}"}}]``. The service's own
        have names that begin with ``kbatch-``.""",
        config=True,
    )

    volume_mounts = List(
        Dict(),
        help="""Where to mount ``volumes``: ``[{"name": "home", "mountPath": "/home/jovyan"}]``. Each needs a
        path of its own, and none that the service uses: ``/code``, ``/kbatch-home``, ``/kbatch-notebook`` and
        ``/kbatch-outputs``. A path inside of these may be used.""",
        config=True,
    )

    service_account = Unicode(
        None,
        allow_none=True,
        help="""The Kubernetes service account of a job's pods. None: the namespace's default, no token.""",
        config=True,
    )

    pod_security_context = Dict(
        help="""The security context of a job's pods, as in Kubernetes (``runAsUser``, …).""",
        config=True,
    )

    container_security_context = Dict(
        help="""The security context of a job's container, as in Kubernetes.""", config=True
    )

    image_pull_policy = Unicode(
        None,
        allow_none=True,
        help="""Always, IfNotPresent or Never. None: Kubernetes decides.""",
        config=True,
    )

    image_pull_secrets = List(
        Unicode(), help="""Names of the Secrets used to pull the images.""", config=True
    )

    priority_class_name = Unicode(
        None, allow_none=True, help="""The Kubernetes PriorityClass of a job's pods.""", config=True
    )

    labels = Dict(Unicode(), help="""Extra labels of a job's Job and Pods.""", config=True)

    annotations = Dict(Unicode(), help="""Extra annotations of a job's Job and Pods.""", config=True)

    @validate("volumes")
    def _validate_volumes(self, proposal: Any) -> Any:
        _check_unique("volumes", [each.get("name") for each in proposal["value"]], OWN_VOLUMES)
        return proposal["value"]

    @validate("volume_mounts")
    def _validate_volume_mounts(self, proposal: Any) -> Any:
        _check_unique("volume_mounts", _list_paths(proposal["value"]), OWN_DIRS)
        return proposal["value"]

    @property
    def has_own_shm(self) -> bool:
        """Whether the admin mounts a volume as the jobs' shared memory."""
        return SHM_DIR in _list_paths(self.volume_mounts)


def _list_paths(mounts: Sequence[dict[str, Any]]) -> list[str]:
    return [normpath(str(each.get("mountPath"))) for each in mounts]


def _check_unique(trait: str, names: Sequence[Any], taken: Collection[str]) -> None:
    """Raise TraitError for a name or path that the service, or another entry, has."""
    for number, name in enumerate(names):
        if name in taken:
            raise TraitError(f"JobConfig.{trait}: {name} is the service's own; choose another")
        if name in names[:number]:
            raise TraitError(f"JobConfig.{trait}: {name} is there twice")
