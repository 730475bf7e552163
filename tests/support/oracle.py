"""KubeSpawner's own pod of a user, to compare a job's pod with: same user, same configuration, same choices.

A job is what its user's server would be, less what only a server needs and plus what only a job needs.
These differences are listed here, each with its reason, and nowhere else: whatever remains must be equal.
KubeSpawner runs as it is; only its connection to Kubernetes is replaced, which it does not use to make a pod.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest import mock

import kubespawner.spawner
from kubernetes_asyncio.client import ApiClient
from traitlets.config import Config

from kbatch_server.launchers.kube.manifests.filled import fill_templates
from kbatch_server.launchers.kube.manifests.job import FETCH_CONTAINER, MAIN_CONTAINER, make_job
from kbatch_server.launchers.kube.manifests.sidecar import KEEP_CONTAINER
from kbatch_server.launchers.kube.manifests.volumes import OWN_VOLUMES
from kbatch_server.models.job import Job
from kbatch_server.models.request import JobRequest
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.user import User
from kbatch_server.profiles.profiles import Profiles
from kbatch_server.quantities import parse_quantity

Pod = dict[str, Any]
"""A pod in the form of JSON, or a part of one."""

NAMESPACE = "jobs"
"""The namespace of the jobs, and of the servers that they are compared with."""

JOB_ID = "job-1"

USER_ID = 7
"""The user's number in the hub's database, which no job knows."""

SERVER_LABELS = frozenset(
    {
        # KubeSpawner finds its servers by these; a job has labels of its own, by which the service finds it
        "app",
        "app.kubernetes.io/component",
        "app.kubernetes.io/managed-by",
        "app.kubernetes.io/name",
        "component",
        "heritage",
        "hub.jupyter.org/servername",
        "hub.jupyter.org/username",
    }
)
SERVER_ANNOTATIONS = frozenset(
    {
        # who has a server, and which hub made it; a job names its user in an annotation of its own
        "hub.jupyter.org/jupyterhub-version",
        "hub.jupyter.org/kubespawner-version",
        "hub.jupyter.org/servername",
        "hub.jupyter.org/username",
    }
)
SERVER_CONTAINER = frozenset(
    {
        "name",  # "notebook"; a job's is "job"
        "args",  # the server's command; a job has its user's
        "command",
        "ports",  # the hub connects to a server, and nobody to a job
    }
)
SERVER_POD = frozenset(
    {
        "containers",  # compared by themselves, as the four keys after this
        "initContainers",
        "volumes",
        "restartPolicy",  # a server is started again if it fails; a job's attempts are the Job controller's
    }
)
SERVER_VARIABLES = ("JPY_", "JUPYTERHUB_")
"""The beginnings of the variables with which a server finds the hub and may call it. A job has
``JUPYTERHUB_USER`` of them, and none of the server's secrets."""

LAUNCH_VARIABLES = frozenset(
    {
        # these are the same for a job, but the launch adds them after the admin's: see LaunchBuilder
        "CPU_GUARANTEE",
        "CPU_LIMIT",
        "JUPYTER_IMAGE",
        "JUPYTER_IMAGE_SPEC",
        "MEM_GUARANTEE",
        "MEM_LIMIT",
    }
)
JOB_LABELS = "kbatch.jupyter.org/"
"""The beginning of the labels and annotations by which the service finds its jobs."""

JOB_VARIABLES = "KBATCH_"
"""The beginning of the variables with which a job finds its results' folder."""

ACCOUNT_VARIABLES = frozenset({"LOGNAME", "USER"})
"""The user's name, for programs that look for an account: a job's image may have none for it."""

JOB_ANNOTATIONS = frozenset(
    {
        # autoscalers must not remove the node of a job, which would lose what it has computed
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "karpenter.sh/do-not-disrupt",
    }
)
JOB_POD = frozenset(
    {
        "enableServiceLinks",  # a job sees no other pods' services in its environment
        "schedulingGates",  # they delay a job's next attempt
        "terminationGracePeriodSeconds",  # a job's own trait
    }
)
JOB_CONTAINERS = frozenset({FETCH_CONTAINER, KEEP_CONTAINER})
"""They fetch a job's code and send its results."""

JOB_SECCOMP = {"type": "RuntimeDefault"}
"""A job's pod has this profile, as Kubernetes's standard "restricted" requires, unless the admin sets one."""


async def make_server_pod(
    user: str,
    config: Mapping[str, Any],
    *,
    groups: Sequence[str] = (),
    profile_list: Any = None,
    user_options: Mapping[str, Any] | None = None,
) -> Pod:
    """Return the pod that KubeSpawner makes for a user's server.

    ``config`` has values of ``c.KubeSpawner``, ``user_options`` what the user chose on the spawn page.
    """
    settings = Config()
    # deep copies: KubeSpawner changes its configuration in place when it applies a profile
    settings.KubeSpawner.update(copy.deepcopy(dict(config)))
    if profile_list is not None:
        settings.KubeSpawner.profile_list = copy.deepcopy(profile_list)
    with _make_spawner(settings, user, groups=groups, user_options=dict(user_options or {})) as spawner:
        await spawner.load_user_options()
        pod = await spawner.get_pod_manifest()
    return to_json(pod)


def expand_template(template: str, user: str, server: str = "", *, scheme: str = "safe") -> str:
    """Return a template as KubeSpawner fills it in for a user's server, which may have a name."""
    settings = Config()
    settings.KubeSpawner.slug_scheme = scheme
    named = SimpleNamespace(name=server, server=None)
    with _make_spawner(settings, user, orm_spawner=named) as spawner:
        filled: str = spawner._expand_user_properties(template)
    return filled


@contextmanager
def _make_spawner(
    settings: Config, user: str, *, groups: Sequence[str] = (), **options: Any
) -> Iterator[Any]:
    owner = SimpleNamespace(
        name=user, id=USER_ID, url="/user/x/", groups=[SimpleNamespace(name=group) for group in groups]
    )
    hub = SimpleNamespace(
        public_host="", url="http://hub:8081/hub/", base_url="/hub/", api_url="http://hub:8081/hub/api"
    )
    kube = kubespawner.spawner
    with (
        mock.patch.object(kube, "load_config"),
        mock.patch.object(kube, "shared_client"),
        mock.patch.object(kube.KubeSpawner, "_namespace_default", return_value=NAMESPACE),
    ):
        spawner = kube.KubeSpawner(config=settings, user=owner, hub=hub, api_token="t", **options)
        spawner.namespace = settings.KubeSpawner.get("namespace", NAMESPACE)
        yield spawner


def to_json(model: Any) -> Pod:
    """Return an object of the Kubernetes client's as it is sent to Kubernetes."""
    client = ApiClient.__new__(ApiClient)  # without a connection, which it does not need for this
    client.configuration = SimpleNamespace(datetime_format=None)
    made: Pod = client.sanitize_for_serialization(model)
    return made


async def make_job_pod(
    user: str,
    config: Mapping[str, Any],
    *,
    groups: Sequence[str] = (),
    profile_list: Any = None,
    request: Mapping[str, Any] | None = None,
) -> tuple[Pod, dict[str, str]]:
    """Return the pod of a user's job, and the variables of the admin's in its Secret.

    ``config`` has values of ``c.JobConfig``, ``profile_list`` that of ``c.Profiles``, ``request`` fields of
    the request, such as the profile that the user chose.
    """
    settings = Config()
    settings.JobConfig.update(copy.deepcopy(dict(config)))
    if profile_list is not None:
        settings.Profiles.profile_list = copy.deepcopy(profile_list)
    profiles = Profiles(config=settings)
    asked = JobRequest(name="job", command=["true"], **(request or {}))
    owner = User(name=user, groups=tuple(groups))
    spec = await profiles.make_spec(owner, asked)
    job = Job(id=JOB_ID, user=user, name="job", spec=spec, created_at=datetime.now(UTC), groups=list(groups))
    env = await profiles.get_environment(owner, spec)
    made = make_job(
        fill_templates(job, namespace=NAMESPACE, hub_namespace=NAMESPACE),
        # with HOME of its own a job is not given one, which is a job's own matter
        env_names={*env, "HOME"},
        namespace=NAMESPACE,
        instance="hub",
        init_image="busybox",
        output_limits=OutputLimits(),
    )
    return made["spec"]["template"], env


def compare_server(pod: Pod) -> Pod:
    """Return what a job must have of its user's server, in parts that ``compare_job`` returns, too."""
    spec = pod["spec"]
    [server, *extra] = spec["containers"]
    env = {
        name: each
        for name, each in _replace_references(server.get("env") or [], {}).items()
        if not name.startswith(SERVER_VARIABLES) and name not in LAUNCH_VARIABLES
    }
    return _without_empty(
        {
            "labels": _without(pod["metadata"].get("labels"), SERVER_LABELS),
            "annotations": _without(pod["metadata"].get("annotations"), SERVER_ANNOTATIONS),
            "container": _make_comparable(_without(server, SERVER_CONTAINER | {"env"})),
            "env": env,
            "initContainers": spec.get("initContainers"),
            "extraContainers": extra,
            "volumes": spec.get("volumes"),
            "pod": _without(spec, SERVER_POD),
        }
    )


def compare_job(pod: Pod, env: Mapping[str, str]) -> Pod:
    """Return the same parts of a job's pod; ``env`` are the variables of the admin's in its Secret."""
    spec = copy.deepcopy(pod["spec"])
    [main, *others] = spec["containers"]
    assert main["name"] == MAIN_CONTAINER
    assert not others, "the job would not end while another container runs"
    first = [each for each in spec.get("initContainers") or [] if each["name"] not in JOB_CONTAINERS]
    # a server's extra containers run beside it; a job's are native sidecars, which end with it
    extra = [each for each in first if each.pop("restartPolicy", None) == "Always"]
    # the launcher fills the Secret, to which the pod refers
    secret = {name: {"name": name, "value": value} for name, value in env.items()}
    known = {"JUPYTERHUB_USER": pod["metadata"]["annotations"][f"{JOB_LABELS}username"]} | dict(env)
    listed = [
        each
        for each in main["env"]
        if each.get("valueFrom", {}).get("secretKeyRef", {}).get("name") != JOB_ID
        and each["name"] not in ACCOUNT_VARIABLES
    ]
    main["volumeMounts"] = [each for each in main["volumeMounts"] if each["name"] not in OWN_VOLUMES]
    if spec["securityContext"].get("seccompProfile") == JOB_SECCOMP:
        del spec["securityContext"]["seccompProfile"]
    return _without_empty(
        {
            "labels": _without(pod["metadata"]["labels"], SERVER_LABELS, JOB_LABELS),
            "annotations": _without(pod["metadata"]["annotations"], JOB_ANNOTATIONS, JOB_LABELS),
            "container": _make_comparable(_without(main, SERVER_CONTAINER | {"env"})),
            "env": {
                name: each
                for name, each in (secret | _replace_references(listed, known)).items()
                if not name.startswith((JOB_VARIABLES, *SERVER_VARIABLES)) and name not in LAUNCH_VARIABLES
            },
            "initContainers": [each for each in first if each not in extra],
            "extraContainers": extra,
            "volumes": [each for each in spec["volumes"] if each["name"] not in OWN_VOLUMES],
            "pod": _without(spec, SERVER_POD | JOB_POD),
        }
    )


async def compare(
    user: str,
    config: Mapping[str, Any],
    *,
    groups: Sequence[str] = (),
    profile_list: Any = None,
    user_options: Mapping[str, Any] | None = None,
    request: Mapping[str, Any] | None = None,
) -> tuple[Pod, Pod]:
    """Return what must be equal: the parts of the job's pod, and those of the server's.

    A test asserts that the first equals the second. ``user_options`` is what the user chose for a server, and
    ``request`` has the fields with which the same user chooses the same for a job.
    """
    server = await make_server_pod(
        user, config, groups=groups, profile_list=profile_list, user_options=user_options
    )
    # a job has no default image
    settings = {"image": kubespawner.spawner.KubeSpawner.image.default_value} | dict(config)
    job, env = await make_job_pod(user, settings, groups=groups, profile_list=profile_list, request=request)
    return compare_job(job, env), compare_server(server)


def _replace_references(variables: Sequence[Pod], known: Mapping[str, str]) -> dict[str, Pod]:
    """Return variables by name, with references to known and to earlier ones replaced, as Kubernetes does."""
    values = dict(known)
    replaced: dict[str, Pod] = {}

    def find(part: re.Match[str]) -> str:
        return "$" if part[0] == "$$" else values.get(part[1], part[0])

    for each in variables:
        name = each["name"]
        replaced[name] = each
        if "valueFrom" not in each:
            values[name] = re.sub(r"\$\$|\$\(([^()]+)\)", find, each.get("value") or "")
            replaced[name] = {"name": name, "value": values[name]}
    return replaced


def _without(values: Mapping[str, Any] | None, names: frozenset[str], prefix: str | None = None) -> Pod:
    return {
        name: value
        for name, value in (values or {}).items()
        if name not in names and not (prefix and name.startswith(prefix))
    }


def _make_comparable(container: Pod) -> Pod:
    """Return a container with its resources as numbers: ``1.5`` and ``1500m`` are the same."""
    resources = container.get("resources") or {}
    amounts = {
        kind: {name: _parse(amount) for name, amount in each.items()}
        for kind, each in resources.items()
        if kind in ("limits", "requests")
    }
    return container | {"resources": {**resources, **amounts}}


def _parse(amount: Any) -> Decimal:
    return parse_quantity(str(amount))


def _without_empty(value: Any) -> Any:
    """Return it without the empty lists and dicts that the one has and the other does not."""
    if isinstance(value, dict):
        cleaned = {name: _without_empty(each) for name, each in value.items()}
        return {name: each for name, each in cleaned.items() if each not in (None, [], {})}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value
