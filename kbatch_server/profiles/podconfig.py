"""Settings of a job's pod: its nodes, its volumes, its helper containers. It runs nothing."""

from __future__ import annotations

from posixpath import normpath
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from pydantic import ValidationError
from traitlets import Bool, Callable, Dict, Enum, Integer, List, TraitError, Unicode, Union, validate
from traitlets.config import Configurable

from ..launchers.kube.manifests.filled import TEMPLATES
from ..launchers.kube.manifests.volumes import OWN_DIRS, SHM_DIR
from ..models.job import JobSpec
from ..templates import FIELDS
from .podparts import (
    PART_DICTS,
    PART_LISTS,
    check_containers,
    check_dict,
    check_list,
    check_template,
    check_unique,
    check_volumes,
    list_parts,
)
from .spawner import JobSpawner, resolve

GIB = 2**30

FUNCTIONS = (
    "uid",
    "gid",
    "fs_gid",
    "supplemental_gids",
    "container_security_context",
    "pod_security_context",
)
"""The traits that may be functions, called when a job is submitted."""

_FIELDS_OF_CLAIM = tuple(field for field in FIELDS if field != "pvc_name")


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

    tolerations = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Kubernetes tolerations of the jobs' pods.""",
        config=True,
    )

    node_affinity_preferred = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Nodes that a job prefers: PreferredSchedulingTerms of Kubernetes, like
        ``[{"weight": 1, "preference": {"matchExpressions": [...]}}]``.
        """,
        config=True,
    )

    node_affinity_required = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Nodes that a job may run on: NodeSelectorTerms of Kubernetes, like
        ``[{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["batch"]}]}]``.
        """,
        config=True,
    )

    pod_affinity_preferred = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Pods that a job prefers to run near: WeightedPodAffinityTerms of Kubernetes.""",
        config=True,
    )

    pod_affinity_required = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Pods that a job must run near: PodAffinityTerms of Kubernetes.""",
        config=True,
    )

    pod_anti_affinity_preferred = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Pods that a job prefers not to run near: WeightedPodAffinityTerms of Kubernetes.""",
        config=True,
    )

    pod_anti_affinity_required = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Pods that a job must not run near: PodAffinityTerms of Kubernetes.""",
        config=True,
    )

    scheduler_name = Unicode(
        None,
        allow_none=True,
        help="""The Kubernetes scheduler of the jobs' pods. None: the cluster's default.""",
        config=True,
    )

    uid = Union(
        [Integer(min=0), Callable()],
        default_value=None,
        allow_none=True,
        help="""The user id of a job's containers (``runAsUser``), or a function that takes the spawner
        and returns one. None: that of the image, or of ``pod_security_context``.
        """,
        config=True,
    )

    gid = Union(
        [Integer(min=0), Callable()],
        default_value=None,
        allow_none=True,
        help="""The group id of a job's containers (``runAsGroup``), or a function that takes the spawner
        and returns one. None: that of the image, or of ``pod_security_context``.
        """,
        config=True,
    )

    fs_gid = Union(
        [Integer(min=0), Callable()],
        default_value=None,
        allow_none=True,
        help="""The group that owns a job's volumes (``fsGroup``), and to which its containers belong, or a
        function that takes the spawner and returns one.
        """,
        config=True,
    )

    supplemental_gids = Union(
        [List(Integer(min=0)), Callable()],
        default_value=[],
        help="""More groups to which a job's containers belong (``supplementalGroups``), or a function that
        takes the spawner and returns a list.
        """,
        config=True,
    )

    privileged = Bool(
        False,
        help="""Whether a job's own container is privileged: it can do on its node whatever root can.

        Kubernetes also requires ``allow_privilege_escalation`` to be True or None.
        """,
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

    volumes = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Kubernetes volumes of the jobs' pods, like
        ``[{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{user_server}"}}]``,
        which is the claim of the user's server on the hub (KubeSpawner's ``pvc_name_template``).
        The service's own volumes have names that begin with ``kbatch-``.
        """,
        config=True,
    )

    volume_mounts = Union(
        [List(Dict()), Dict()],
        default_value=[],
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

    pod_security_context = Union(
        [Dict(), Callable()],
        default_value={},
        help="""The Kubernetes security context of the jobs' pods (``runAsUser``, …), or a function that takes
        the spawner and returns one. It takes precedence over ``fs_gid`` and ``supplemental_gids``.
        """,
        config=True,
    )

    container_security_context = Union(
        [Dict(), Callable()],
        default_value={},
        help="""The Kubernetes security context of the jobs' containers, or a function that takes the spawner
        and returns one. It takes precedence over ``uid``, ``gid``, ``privileged`` and
        ``allow_privilege_escalation``.
        """,
        config=True,
    )

    image_pull_policy = Unicode(
        None,
        allow_none=True,
        help="""``Always``, ``IfNotPresent`` or ``Never``. None: Kubernetes decides.""",
        config=True,
    )

    image_pull_secrets = Union(
        [List(Union([Unicode(), Dict()])), Unicode()],
        default_value=[],
        help="""The Secrets for pulling images: a list of names, or of dicts like ``{"name": "registry"}``, or
        one name.
        """,
        config=True,
    )

    priority_class_name = Unicode(
        None, allow_none=True, help="""The Kubernetes PriorityClass of the jobs' pods.""", config=True
    )

    extra_labels = Dict(
        Unicode(),
        help="""Extra labels of each Job, its pods and its Secret. The service's own take precedence.""",
        config=True,
    )

    extra_annotations = Dict(
        Unicode(),
        help="""Extra annotations of each Job, its pods and its Secret. The service's own take precedence.""",
        config=True,
    )

    slug_scheme = Enum(
        ["safe", "escape"],
        "safe",
        help="""What ``{username}`` and ``{user_server}`` stand for in templates: set the same here and for
        KubeSpawner.

        ``safe``: always a valid name. ``escape``: what KubeSpawner before 7.0 used; such a name may be
        invalid.
        """,
        config=True,
    )

    pvc_name_template = Unicode(
        "claim-{user_server}",
        help="""What ``{pvc_name}`` stands for in templates: the name of the claim that the hub makes for a
        user. Set the same here and for KubeSpawner. A job never creates a claim.
        """,
        config=True,
    )

    working_dir = Unicode(
        None,
        allow_none=True,
        help="""The folder that a job without uploaded code starts in. None: that of the image.

        A job with uploaded code starts in ``/code``, or in the folder of its code that its user chose.
        """,
        config=True,
    )

    automount_service_account_token = Bool(
        None,
        allow_none=True,
        help="""Whether a job's pod gets the token of its service account. None: not without
        ``service_account``; with it, the account's own setting applies, which is to give the token by
        default.
        """,
        config=True,
    )

    lifecycle_hooks = Dict(
        help="""Kubernetes's lifecycle hooks of a job's own container: ``postStart`` and ``preStop``, like
        ``{"postStart": {"exec": {"command": ["/bin/sh", "-c", "date > /tmp/started"]}}}``.

        Kubernetes runs ``postStart`` at the same time as the job's command. It runs ``preStop`` if it stops
        the job, and not if the job ends by itself.
        """,
        config=True,
    )

    init_containers = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Containers that run to their end, one after the other, before a job's own: to prepare its home
        folder, for example.

        They run after the one that fetches the code. If one fails, so does the job.
        """,
        config=True,
    )

    extra_containers = Union(
        [List(Dict()), Dict()],
        default_value=[],
        help="""Containers that run beside a job's own, such as a proxy for a database.

        They are native sidecars, which needs Kubernetes 1.29 or later: they start before the job's command,
        start again if they end, and end when the job has ended. How they end does not matter for the job.
        What must run to its end belongs to ``init_containers``.
        """,
        config=True,
    )

    extra_container_config = Dict(
        help="""More fields of a job's own container, like ``{"envFrom": [{"configMapRef": {"name": "x"}}]}``.

        Each replaces the whole field of that name, whatever other traits have set. Fields that a job needs
        for itself stop the start.
        """,
        config=True,
    )

    extra_pod_config = Dict(
        help="""More fields of the spec of a job's pod, like
        ``{"dnsConfig": {"searches": ["example.org"]}, "runtimeClassName": "gvisor"}``.

        Each replaces the whole field of that name, whatever other traits have set. Fields that a job needs
        for itself stop the start.
        """,
        config=True,
    )

    @validate(*TEMPLATES)
    def _validate_template(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name in ("init_containers", "extra_containers"):
            other = "extra_containers" if name == "init_containers" else "init_containers"
            value = check_containers(name, value, getattr(self, other))
        elif name == "volumes":
            value = check_volumes(value)
        elif name == "volume_mounts":
            value = check_list(name, value)
            check_unique(name, _list_paths(value), OWN_DIRS)
        elif name == "extra_pod_config":
            value = check_dict(name, value)
        # a claim's name has no place in its own template
        check_template(name, value, _FIELDS_OF_CLAIM if name == "pvc_name_template" else FIELDS)
        return value

    @validate(*sorted(set(PART_LISTS) - set(TEMPLATES)))
    def _validate_list(self, proposal: Any) -> Any:
        return check_list(proposal["trait"].name, proposal["value"])

    @validate(*sorted(set(PART_DICTS) - set(TEMPLATES)))
    def _validate_dict(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        return value if callable(value) else check_dict(name, value)

    @validate("privileged")
    def _validate_privileged(self, proposal: Any) -> bool:
        is_privileged: bool = proposal["value"]
        if is_privileged and self.allow_privilege_escalation is False:
            # Kubernetes would reject each pod
            raise TraitError(
                "JobConfig.privileged: needs JobConfig.allow_privilege_escalation = True or None"
            )
        return is_privileged

    @validate("image_pull_secrets")
    def _validate_image_pull_secrets(self, proposal: Any) -> Any:
        value = proposal["value"]
        listed = [value] if isinstance(value, str) else value
        for each in listed:
            if isinstance(each, dict) and not (set(each) == {"name"} and isinstance(each["name"], str)):
                raise TraitError(
                    f'JobConfig.image_pull_secrets: {each!r} must be a name, or like {{"name": "registry"}}'
                )
        return [each["name"] if isinstance(each, dict) else each for each in listed if each]

    @property
    def has_own_shm(self) -> bool:
        """Whether the admin mounts a volume as the jobs' shared memory."""
        return SHM_DIR in _list_paths(self.volume_mounts)

    def get_parts(self, name: str) -> Any:
        """Return a trait's value as a job's spec has it: parts as a list, and a function's as unset."""
        value = getattr(self, name)
        if name in PART_LISTS:
            return list_parts(value)
        if not callable(value):
            return value
        return {"supplemental_gids": [], "uid": None, "gid": None, "fs_gid": None}.get(name, {})

    async def call_functions(self, spec: JobSpec, spawner: JobSpawner) -> JobSpec:
        """Return the spec with what the admin's functions return for the user of a job.

        Raises WrongFunction if a function returns something else than it should, and whatever it raises.
        """
        values: dict[str, Any] = {}
        for name in FUNCTIONS:
            if callable(function := getattr(self, name)):
                value = await resolve(function, spawner)
                values[name] = _check_returned(name, value)
        if not values:
            return spec
        try:
            checked = JobSpec.model_validate({"image": spec.image} | values)
        except ValidationError as error:
            problem = error.errors()[0]
            raise WrongFunction(
                f"JobConfig.{problem['loc'][0]}: the function returned {problem['input']!r}: {problem['msg']}"
            ) from None
        return spec.model_copy(update={name: getattr(checked, name) for name in values})


class WrongFunction(Exception):
    """A function of the admin's returned something that its trait cannot be."""


def _check_returned(name: str, value: Any) -> Any:
    """Return what a function returned, with the keys of a security context in camelCase."""
    if value is None:
        return {"supplemental_gids": [], "uid": None, "gid": None, "fs_gid": None}.get(name, {})
    try:
        return check_dict(name, value) if name in PART_DICTS else value
    except TraitError as error:
        raise WrongFunction(f"{error} (returned by the function)") from None


def _list_paths(mounts: Any) -> list[str]:
    return [normpath(str(each.get("mountPath"))) for each in list_parts(mounts)]
