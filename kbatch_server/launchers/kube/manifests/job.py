"""Makes the manifests for a job: a Job and its Secret. Pure: values in, dicts out.

Their fields: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ....models.job import Job, JobSpec
from ....models.results import OutputLimits
from ....models.secret import SECRETS_VARIABLE, RegistryLogin
from ....notebooks.launch import make_command
from ....slugs import make_slug
from . import sidecar
from .affinity import make_affinity
from .gates import ATTEMPT_GATE, has_own_delay
from .home import make_account_env, needs_home, wrap_command
from .labels import (
    INSTANCE_LABEL,
    JOB_ID_LABEL,
    JOB_NAME_ANNOTATION,
    LAUNCHED_ANNOTATION,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    RETRIES_ANNOTATION,
    USERNAME,
)
from .manifest import Manifest
from .resources import make_init_resources, make_resources, make_sidecar_resources
from .script import read_script
from .secrets import (
    PULL_SECRET_TYPE,
    SECRETS_DIR,
    list_pull_secrets,
    make_pull_data,
    make_pull_secret_name,
    make_secrets_volume,
)
from .security import make_container_security, make_main_security, make_pod_security
from .sidecar import CODE_DIR, CODE_VOLUME, OUTPUT_DIR, OUTPUT_VARIABLE, OUTPUTS_URL_KEY
from .volumes import (
    NOTEBOOK_DIR,
    find_working_dir,
    make_mounts,
    make_notebook_volume,
    make_volumes,
)

MAIN_CONTAINER = "job"
FETCH_CONTAINER = "fetch-code"
OWN_CONTAINERS = (MAIN_CONTAINER, FETCH_CONTAINER, sidecar.KEEP_CONTAINER)
"""Names that an admin's own containers must not have."""

CODE_URL_KEY = "code-url"
ENV_KEY_PREFIX = "env."

FETCH_SCRIPT = read_script("fetch")
"""For busybox; any image with sh, wget, timeout, sha256sum, unzip, sed and tee works."""

LEFTOVER_TTL_SECONDS = 30 * 86400
"""How long a Job stays after its end if no service notices it. A service that does sets the admin's time. A
Job that is gone before its end is in the record would count as lost, or be created again."""

STAYS_ANNOTATIONS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations that keep autoscalers from removing the node of a pod that must not run again.
https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md,
https://karpenter.sh/docs/concepts/disruption/"""


def make_job(
    job: Job,
    *,
    env_names: Collection[str],
    namespace: str,
    instance: str,
    init_image: str,
    output_limits: OutputLimits,
    code_sha256: str | None = None,
) -> Manifest:
    """Return the Job of a job, suspended: the launcher resumes it when its Secret exists.

    ``env_names`` are the variables whose values are in the Secret with the same name; ``code_sha256`` is the
    hash of the ZIP at the URL that is in there, too. The templates in the job's spec are filled in already
    (``fill_templates``), here and below.
    """
    spec = job.spec
    labels, annotations = make_labels(job, instance), make_annotations(job)
    job_spec: Manifest = {
        "suspend": True,
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": spec.retries,
        # Never two pods of one job at once, not even while the first one is shutting down.
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": LEFTOVER_TTL_SECONDS,
        "template": {
            "metadata": {"labels": labels, "annotations": _make_pod_annotations(spec) | annotations},
            "spec": make_pod_spec(
                job, output_limits, env_names=env_names, init_image=init_image, code_sha256=code_sha256
            ),
        },
    }
    if spec.retries:
        # Kubernetes replaces a disrupted pod (eviction, preemption, a lost node), which does not count as an
        # attempt. Not without retries: the pod may have done half of its work, which must not run twice.
        job_spec["podFailurePolicy"] = {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
            ]
        }
    if spec.active_deadline_seconds is not None:
        # The service ends the job at its deadline. Kubernetes does so later, if the service is down: it would
        # give a command that ignores TERM all of the time for the results.
        slack_seconds = spec.output_timeout_seconds if spec.keep_outputs else 0
        job_spec["activeDeadlineSeconds"] = spec.active_deadline_seconds + slack_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job.id,
            "namespace": namespace,
            "labels": labels | _make_kueue_labels(spec),
            "annotations": annotations | ({RETRIES_ANNOTATION: str(spec.retries)} if spec.retries else {}),
        },
        "spec": job_spec,
    }


def _make_pod_annotations(spec: JobSpec) -> dict[str, str]:
    """Return the annotations of a pod that the admin's annotations override."""
    return {} if spec.retries else STAYS_ANNOTATIONS


def _make_kueue_labels(spec: JobSpec) -> dict[str, str]:
    """Return the label of a Job's priority class; that of its queue follows when Kueue gets the Job."""
    if spec.queue_name is None or spec.kueue_priority_class is None:
        return {}
    return {PRIORITY_LABEL: spec.kueue_priority_class}


def make_secret(
    job: Job,
    *,
    env: Mapping[str, str],
    files: Mapping[str, str],
    code_url: str | None,
    outputs_url: str | None,
    namespace: str,
    instance: str,
    owner_uid: str,
) -> Manifest:
    """Return the Secret with a job's environment, files, and the URLs for its code and its results.

    Kubernetes deletes it with its Job.
    """
    data = {ENV_KEY_PREFIX + name: value for name, value in env.items()} | dict(files)
    if code_url is not None:
        data[CODE_URL_KEY] = code_url
    if outputs_url is not None:
        data[OUTPUTS_URL_KEY] = outputs_url
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _make_owned_metadata(
            job, job.id, namespace=namespace, instance=instance, owner_uid=owner_uid
        ),
        "type": "Opaque",
        "stringData": data,
    }


def make_pull_secret(
    job: Job, registries: Sequence[RegistryLogin], *, namespace: str, instance: str, owner_uid: str
) -> Manifest:
    """Return the Secret with the user's credentials for registries; Kubernetes deletes it with its Job."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _make_owned_metadata(
            job, make_pull_secret_name(job), namespace=namespace, instance=instance, owner_uid=owner_uid
        ),
        "type": PULL_SECRET_TYPE,
        "stringData": make_pull_data(registries),
    }


def _make_owned_metadata(job: Job, name: str, *, namespace: str, instance: str, owner_uid: str) -> Manifest:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job.id, "uid": owner_uid}
    return {
        "name": name,
        "namespace": namespace,
        "labels": make_labels(job, instance),
        "annotations": make_annotations(job),
        "ownerReferences": [owner],
    }


def make_launch_patch(uid: str, *, queue_name: str | None = None) -> Manifest:
    """Return the patch that resumes a Job; it applies only to the Job with this uid (else 409).

    With a queue, the Job stays suspended: from now on Kueue resumes it.
    """
    metadata: Manifest = {"uid": uid, "annotations": {LAUNCHED_ANNOTATION: "true"}}
    if queue_name is not None:
        return {"metadata": metadata | {"labels": {QUEUE_LABEL: queue_name}}}
    return {"metadata": metadata, "spec": {"suspend": False}}


def get_retries(job: Manifest) -> int:
    """Return the number of a Job's retries."""
    said = (job["metadata"].get("annotations") or {}).get(RETRIES_ANNOTATION)
    return int(job["spec"].get("backoffLimit", 0) if said is None else said)


def is_launched(job: Manifest) -> bool:
    """Whether this service has launched the Job: see ``make_launch_patch``."""
    return LAUNCHED_ANNOTATION in (job["metadata"].get("annotations") or {})


def make_ttl_patch(job: Job, uid: str) -> Manifest:
    """Return the patch that lets Kubernetes remove the Job with this uid after its time to live."""
    return {
        "metadata": {"uid": uid},
        "spec": {"ttlSecondsAfterFinished": job.spec.ttl_seconds_after_finished},
    }


def secret_keys(job: Manifest) -> set[str]:
    """Return the keys of its Secret that a Job's pod needs to start."""
    spec, name = job["spec"]["template"]["spec"], job["metadata"]["name"]
    references = [
        (variable.get("valueFrom") or {}).get("secretKeyRef") or {}
        for container in [*(spec.get("initContainers") or []), *spec["containers"]]
        for variable in container.get("env") or []
    ]
    volumes = [volume.get("secret") or {} for volume in spec["volumes"]]
    items = [item for each in volumes if each.get("secretName") == name for item in each.get("items") or []]
    return {each["key"] for each in (*references, *items) if each.get("name", name) == name and "key" in each}


def make_labels(job: Job, instance: str) -> dict[str, str]:
    """Return the labels of all objects of a job: the admin's and ours, which take precedence."""
    return {
        **job.spec.extra_labels,
        "app.kubernetes.io/name": "kbatch-job",
        "app.kubernetes.io/managed-by": "kbatch-server",
        "app.kubernetes.io/component": "job",
        INSTANCE_LABEL: instance,
        JOB_ID_LABEL: job.id,
        USERNAME: make_slug(job.user),
    }


def make_annotations(job: Job) -> dict[str, str]:
    """Return the annotations of all objects of a job; only they contain the user's name unchanged."""
    return {
        **job.spec.extra_annotations,
        USERNAME: job.user,
        JOB_NAME_ANNOTATION: job.name,
    }


def is_of(manifest: Manifest, *, instance: str, label: str = JOB_ID_LABEL, value: str) -> bool:
    """Whether this service (``instance``) created the object, for the job (or other ``label``) ``value``."""
    labels = manifest["metadata"].get("labels") or {}
    return labels.get(INSTANCE_LABEL) == instance and labels.get(label) == value


def make_pod_spec(
    job: Job,
    output_limits: OutputLimits,
    *,
    env_names: Collection[str],
    init_image: str,
    code_sha256: str | None = None,
) -> Manifest:
    """Return the spec of a job's pod: the user's container and its helpers.

    ``extra_pod_config`` replaces whole fields, as for KubeSpawner.
    """
    spec = job.spec
    pod: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _get_grace_seconds(spec),
        # Else the pod gets a variable for each Service of the namespace, and tells what runs there.
        "enableServiceLinks": False,
        "securityContext": make_pod_security(spec),
        "containers": [_make_main_container(job, env_names)],
        "volumes": [
            *make_volumes(spec, has_home=needs_home(spec, env_names)),
            *spec.volumes,
        ],
    }
    if spec.automount_service_account_token is not None:
        pod["automountServiceAccountToken"] = spec.automount_service_account_token
    elif spec.service_account is None:
        pod["automountServiceAccountToken"] = False
    if has_own_delay(spec):
        pod["schedulingGates"] = [{"name": ATTEMPT_GATE}]
    if init_containers := _make_init_containers(job, init_image, output_limits, code_sha256):
        pod["initContainers"] = init_containers
    if spec.notebook is not None:
        pod["volumes"].append(make_notebook_volume(job.id))
    if spec.secret_files:
        pod["volumes"].append(make_secrets_volume(job.id, spec, pod["securityContext"]))
    optional = {
        "nodeSelector": spec.node_selector,
        "affinity": make_affinity(spec),
        "schedulerName": spec.scheduler_name,
        "tolerations": spec.tolerations,
        "serviceAccountName": spec.service_account,
        "imagePullSecrets": [{"name": name} for name in list_pull_secrets(job)],
        "priorityClassName": spec.priority_class_name,
    }
    return pod | {key: value for key, value in optional.items() if value} | spec.extra_pod_config


def _get_grace_seconds(spec: JobSpec) -> int:
    """Return the pod's grace period: the command's own, plus the time for sending the results."""
    extra = spec.output_timeout_seconds if spec.keep_outputs else 0
    return spec.termination_grace_period_seconds + extra


def make_sizes(spec: JobSpec) -> dict[str, Manifest]:
    """Return the requests and limits of each container in a job's pod, by the container's name."""
    sizes = {MAIN_CONTAINER: make_resources(spec)}
    if spec.upload is not None:
        sizes[FETCH_CONTAINER] = make_init_resources(spec)
    if spec.keep_outputs:
        sizes[sidecar.KEEP_CONTAINER] = make_sidecar_resources(spec)
    return sizes


def _make_init_containers(
    job: Job, image: str, output_limits: OutputLimits, code_sha256: str | None
) -> list[Manifest]:
    """Return the containers that start before the user's, first the one that fetches the code.

    Kubernetes ends sidecars in the opposite order: the one that sends the results is last here, so that it
    does not wait for an extra container which ignores that it should end.
    """
    containers = []
    if job.spec.upload is not None:
        containers.append(_make_fetch_container(job, image, code_sha256 or ""))
    containers += job.spec.init_containers
    containers += [each | {"restartPolicy": "Always"} for each in job.spec.extra_containers]
    if job.spec.keep_outputs:
        keeper = sidecar.make_sidecar(
            job.spec,
            output_limits,
            image=image,
            url=_make_secret_env("KBATCH_OUTPUTS_URL", job.id, OUTPUTS_URL_KEY),
            resources=make_sidecar_resources(job.spec),
            security_context=make_container_security(job.spec),
        )
        containers.append(keeper)
    return containers


def _make_main_container(job: Job, env_names: Collection[str]) -> Manifest:
    spec = job.spec
    has_home = needs_home(spec, env_names)
    env = [_make_secret_env(name, job.id, ENV_KEY_PREFIX + name) for name in sorted(env_names)]
    env += make_account_env(job.user, {*env_names, *(each["name"] for each in spec.env_sources)})
    env += [each for each in spec.env_sources if each["name"] not in env_names]
    if spec.keep_outputs:
        # the service's value wins: it looks for results only there
        env = [each for each in env if each["name"] != OUTPUT_VARIABLE]
        env.append({"name": OUTPUT_VARIABLE, "value": OUTPUT_DIR})
    if spec.secret_files:
        env = [each for each in env if each["name"] != SECRETS_VARIABLE]
        env.append({"name": SECRETS_VARIABLE, "value": SECRETS_DIR})
    mounts = make_mounts(spec, has_home=has_home)
    container: Manifest = {
        "name": MAIN_CONTAINER,
        "image": spec.image,
        "env": env,
        "resources": make_resources(spec),
        "securityContext": make_main_security(spec),
        "volumeMounts": [*mounts, *spec.volume_mounts],
    }
    command = [_escape(word) for word in _get_command(spec)]
    optional = {
        "workingDir": find_working_dir(spec),
        # escaped: Kubernetes would expand `$(NAME)`, which users mean literally
        "command": wrap_command(command) if has_home else command,
        "args": [_escape(word) for word in spec.args],
        "imagePullPolicy": spec.image_pull_policy,
        "lifecycle": spec.lifecycle_hooks,
    }
    return container | {key: value for key, value in optional.items() if value} | spec.extra_container_config


def _get_command(spec: JobSpec) -> list[str]:
    return spec.command or [] if spec.notebook is None else make_command(NOTEBOOK_DIR)


def _make_fetch_container(job: Job, init_image: str, code_sha256: str) -> Manifest:
    working_dir = job.spec.working_dir
    collects = job.spec.keep_outputs and job.spec.collect == "workdir"
    return {
        "name": FETCH_CONTAINER,
        "image": init_image,
        "command": ["sh", "-c", FETCH_SCRIPT + (sidecar.NOTE_SCRIPT if collects else "")],
        "env": [
            _make_secret_env("KBATCH_CODE_URL", job.id, CODE_URL_KEY),
            {"name": "KBATCH_CODE_SHA256", "value": code_sha256},
            *([{"name": "KBATCH_WORKING_DIR", "value": _escape(working_dir)}] if working_dir else []),
        ],
        "resources": make_init_resources(job.spec),
        "securityContext": make_container_security(job.spec),
        "volumeMounts": [
            {"name": CODE_VOLUME, "mountPath": CODE_DIR},
            *([sidecar.LISTS_MOUNT] if collects else []),
        ],
    }


def _make_secret_env(name: str, secret: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _escape(word: str) -> str:
    """Escape a word against Kubernetes, which replaces ``$(X)`` and shortens ``$$``."""
    return word.replace("$", "$$") if "$$" in word or "$(" in word else word
