"""Checks a request against the admin's settings, and makes the spec of the job. It runs nothing."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Callable, Dict, Float, Integer, List, TraitError, Unicode, Union, validate

from ..errors import InvalidRequest
from ..models.job import JobSpec
from ..models.request import REQUESTED, RETRY_DELAY_SECONDS, JobRequest, RequestedSpec
from ..quantities import MIN_CPUS, MIN_MEMORY_BYTES, limit_guarantee, limit_guarantees
from ..templates import fill_label
from .environment import check_environment, list_sources, make_environment
from .homeconfig import SET_LATER, HomeConfig
from .podconfig import PodConfig
from .spawner import JobSpawner


def check_image(wanted: str | None, default: str, allowed: Sequence[str]) -> str:
    """Return the image of a job: the default, or one that a pattern allows. Raises InvalidRequest."""
    if wanted is None or wanted == default:
        if not default:
            raise InvalidRequest.of_field("image", "is required: there is no default image")
        return default
    if not any(_matches(wanted, pattern) for pattern in allowed):
        known = ", ".join([*allowed, *([default] if default else [])])
        raise InvalidRequest.of_field(
            "image", f"{wanted!r} is not allowed; allowed: {known or 'only the images of profiles'}"
        )
    return wanted


def _matches(image: str, pattern: str) -> bool:
    if "@" in image and "@" not in pattern and ":" in pattern.rpartition("/")[2]:
        return False
    allowed_registry, allowed_name = _split_registry(pattern)
    if pattern.startswith("*") and not allowed_registry:
        return fnmatch.fnmatchcase(image, pattern)
    registry, name = _split_registry(image)
    return fnmatch.fnmatchcase(registry, allowed_registry) and fnmatch.fnmatchcase(name, allowed_name)


def _split_registry(image: str) -> tuple[str, str]:
    """Return the registry (empty for Docker Hub) and the rest of an image's name or of a pattern.

    The part before the first slash is a registry if it has a dot or a port, or is ``localhost``:
    https://github.com/distribution/reference/blob/main/normalize.go
    """
    first, slash, rest = image.partition("/")
    return (first, rest) if slash and (first == "localhost" or set(first) & set(".:")) else ("", image)


def check_queue(wanted: str | None, default: str | None, allowed: Sequence[str]) -> str | None:
    """Return the queue of a job: the default, or one that a pattern allows. Raises InvalidRequest."""
    if wanted is None or wanted == default:
        return default
    if not any(fnmatch.fnmatchcase(wanted, pattern) for pattern in allowed):
        raise InvalidRequest.of_field(
            "queue_name", f"{wanted!r} is not allowed; allowed: {', '.join(allowed) or 'none'}"
        )
    return wanted


def fill_queue_name(template: str, user: str, profile: str | None) -> str:
    """Return a queue's name for a user. As a label's value, a long one is shortened, and stays unique."""
    return fill_label(template.replace("{profile}", profile or "default"), user)


def check_hub_scopes(wanted: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """Return the scopes for a job's token of the hub, each once. Raises InvalidRequest for another one."""
    for scope in wanted:
        if scope not in allowed:
            known = ", ".join(allowed) or "none; an admin sets JobConfig.allowed_hub_scopes"
            raise InvalidRequest.of_field("hub_scopes", f"{scope[:300]!r} is not allowed; allowed: {known}")
    return list(dict.fromkeys(wanted))


def check_at_most(wanted: Any, maximum: Any, field: str) -> Any:
    """Return ``wanted`` unless it exceeds the maximum (None: no maximum). Raises InvalidRequest."""
    if maximum is not None and wanted > maximum:
        raise InvalidRequest.of_field(field, f"is {wanted}; the maximum is {maximum}")
    return wanted


class JobConfig(HomeConfig, PodConfig):
    """The options of one job, as the admin set them. A profile can override each.

    Traits that KubeSpawner has too mean the same here. Strings in ``volumes``, ``volume_mounts``,
    ``init_containers``, ``extra_containers``, ``extra_pod_config``, ``node_selector``, ``extra_labels``,
    ``extra_annotations``, ``environment``, ``working_dir`` and ``service_account`` are templates with
    KubeSpawner's fields: ``{username}`` and ``{user_server}`` (safe in a name; what the hub's default server
    has), ``{unescaped_username}``, ``{escaped_username}``, ``{pvc_name}``, ``{namespace}``, and more. Write
    ``{{`` and ``}}`` for braces.
    """

    image = Unicode(
        "",
        help="""The image of jobs that do not name one, like ``quay.io/jupyter/scipy-notebook:2026-10-01``.

        If empty (the default), every job must name an image, or a profile that has one.
        """,
        config=True,
    )

    allowed_images = List(
        Unicode(),
        ["*"],
        help="""The images that users may choose, as shell patterns: ``["quay.io/jupyter/*"]``.

        ``*`` matches any characters, including ``/``, but not the name of a registry: ``python:*`` matches
        images on Docker Hub, and not ``python:5000/evil``, which names a registry with a port. Only a pattern
        that begins with ``*`` and names no registry, like ``*/scipy-notebook``, matches any registry;
        ``*.example.org/*`` names one.

        A pattern for tags, like ``name:1.*``, does not match an image with a digest (``name:tag@sha256:…``),
        because its tag has no meaning.

        The default, ``["*"]``, allows any image. ``[]`` allows only ``image`` and the images of profiles,
        which are always allowed.
        """,
        config=True,
    )

    cpu_limit = Float(
        None,
        allow_none=True,
        min=MIN_CPUS,
        help="""The CPU limit of jobs that do not set one. None: ``max_cpu_limit``, or no limit if that is
        None too.
        """,
        config=True,
    )

    cpu_guarantee = Float(
        None,
        allow_none=True,
        min=0,
        help="""The CPUs that each job requests, or its ``cpu_limit`` if that is less. None or 0: Kubernetes
        derives the request from the limit.
        """,
        config=True,
    )

    max_cpu_limit = Float(
        None,
        allow_none=True,
        min=MIN_CPUS,
        help="""The maximum ``cpu_limit`` that users may set. It also applies to jobs that set none if
        ``cpu_limit`` is None. None: no maximum.
        """,
        config=True,
    )

    mem_limit = ByteSpecification(
        None,
        allow_none=True,
        help="""The memory limit, in bytes, of jobs that do not set one.

        An integer, or a string with a unit of 1024: ``512M``, ``2G``. Kubernetes kills a job that uses more,
        and the job fails with the reason OOMKilled. None: ``max_mem_limit``, or no limit if that is None too.
        """,
        config=True,
    )

    mem_guarantee = ByteSpecification(
        None,
        allow_none=True,
        help="""The bytes of memory (see ``mem_limit``) that each job requests, or its ``mem_limit`` if that
        is less. None or 0: Kubernetes derives the request from the limit.
        """,
        config=True,
    )

    max_mem_limit = ByteSpecification(
        None,
        allow_none=True,
        help="""The maximum ``mem_limit`` that users may set; units as for ``mem_limit``. It also applies to
        jobs that set none if ``mem_limit`` is None. None: no maximum.
        """,
        config=True,
    )

    shm_size = ByteSpecification(
        None,
        allow_none=True,
        help="""Bytes of shared memory (``/dev/shm``) of jobs that set no ``shm_size``; units as for
        ``mem_limit``.

        The files in it count as memory of the job, and so towards its ``mem_limit``. None: the default of
        the container runtime, which is 64 MiB. Jobs of LocalProcessJobLauncher share the machine's
        ``/dev/shm``. If ``volume_mounts`` has a volume at ``/dev/shm``, that volume is the jobs' shared
        memory. Then this setting has no effect, and the service rejects jobs that set ``shm_size``.
        """,
        config=True,
    )

    max_shm_size = ByteSpecification(
        None,
        allow_none=True,
        help="""The maximum ``shm_size`` that users may set; units as for ``mem_limit``. None: the job's
        ``mem_limit``.
        """,
        config=True,
    )

    extra_resource_limits = Dict(
        Union([Unicode(), Integer(), Float()]),
        help="""Limits of other resources for every job, like ``{"nvidia.com/gpu": "1"}``. Usually a profile
        sets them.
        """,
        config=True,
    )

    extra_resource_guarantees = Dict(
        Union([Unicode(), Integer(), Float()]),
        help="""Requests of other resources for every job, at most as large as the ``extra_resource_limits``.
        For an extended resource (``nvidia.com/gpu``), Kubernetes always requests as much as the limit.
        """,
        config=True,
    )

    environment = Dict(
        Union([Unicode(), Dict(), Callable()]),
        help="""Environment variables of every job. Variables that the user sets override them.

        A value is a string, which is a template; or a function, which may be async, that takes the spawner
        and returns a string; or a dict in the form of Kubernetes's EnvVar, like
        ``{"valueFrom": {"secretKeyRef": {"name": "dask", "key": "address"}}}``. ``$(NAME)`` in a string
        stands for another of these variables, or for JUPYTERHUB_USER. Strings, and what functions return, are
        in each job's own Secret only, so they may be secret.
        """,
        config=True,
    )

    max_retries = Integer(
        10,
        min=0,
        max=100,
        help="""The maximum number of ``retries`` that users may set.""",
        config=True,
    )

    retry_delay_seconds = Float(
        RETRY_DELAY_SECONDS,
        min=0,
        help="""Seconds between a failed attempt and the next one, for jobs that set no
        ``retry_delay_seconds``.

        They double after each further attempt, up to ten minutes, unless the job sets ``retry_backoff`` to
        ``fixed``. On Kubernetes, the Job controller has a minimum: 10 s, doubled after each attempt, up to
        ten minutes.
        """,
        config=True,
    )

    max_retry_delay_seconds = Float(
        3600,
        min=0,
        max=86400,
        help="""The maximum ``retry_delay_seconds`` that users may set.""",
        config=True,
    )

    active_deadline_seconds = Integer(
        None,
        allow_none=True,
        min=1,
        help="""The time limit, in seconds, of jobs that do not set one. None:
        ``max_active_deadline_seconds``, or no limit if that is None too.
        """,
        config=True,
    )

    max_active_deadline_seconds = Integer(
        None,
        allow_none=True,
        min=1,
        help="""The maximum ``active_deadline_seconds`` that users may set. It also applies to jobs that set
        none if ``active_deadline_seconds`` is None. None: no maximum.
        """,
        config=True,
    )

    start_timeout_seconds = Integer(
        600,
        min=1,
        help="""Seconds after which a job fails if it cannot start: because its image cannot be pulled, its
        container cannot be created, or a quota or an admission rule rejects its pod.
        """,
        config=True,
    )

    schedule_timeout_seconds = Integer(
        86400,
        min=0,
        help="""Seconds that a job may wait for a node with enough free resources before it fails. Default: a
        day. 0: forever.

        Set a long time, because the cluster may be full for hours, or may have to add nodes.
        """,
        config=True,
    )

    termination_grace_period_seconds = Integer(
        30,
        min=0,
        help="""Seconds between SIGTERM and SIGKILL when the service stops a job.""",
        config=True,
    )

    keep_outputs = Bool(
        True,
        help="""Whether to save the files that a job writes under ``$KBATCH_OUTPUT_DIR`` as its results. On
        Kubernetes a sidecar sends them, which needs Kubernetes 1.29 or later.
        """,
        config=True,
    )

    output_timeout_seconds = Integer(
        300,
        min=5,
        help="""Seconds after the end of a job's command within which the job must send its results. For
        Kubernetes only.

        This time is in addition to ``termination_grace_period_seconds``. Choose a time longer than any
        outage of the service that you expect: results that a job could not send in this time are lost.
        """,
        config=True,
    )

    ttl_seconds_after_finished = Integer(
        3600,
        min=60,
        help="""Seconds after a job's end until Kubernetes removes its Job and pods. Its record stays.

        The time begins when the service has recorded the end, so an outage of the service loses nothing.
        """,
        config=True,
    )

    queue_name = Unicode(
        None,
        allow_none=True,
        help="""The Kueue LocalQueue that the service submits jobs to: Kueue decides when they start, and may
        preempt them.

        The service replaces ``{username}`` and ``{profile}`` (the profile's slug, or ``default``) in it:
        ``team-{profile}``. None: do not use Kueue. See ``KubeJobLauncher.kueue_version``.
        """,
        config=True,
    )

    allowed_queue_names = List(
        Unicode(),
        help="""The queues that users may choose, as shell patterns. ``{username}`` stands for the user's own
        name in a safe form. Default: none; all jobs use ``queue_name``.
        """,
        config=True,
    )

    kueue_priority_class = Unicode(
        None,
        allow_none=True,
        help="""The WorkloadPriorityClass of jobs that the service submits to Kueue.""",
        config=True,
    )

    allowed_hub_scopes = List(
        Unicode(),
        help="""The hub scopes that jobs may request, in ``hub_scopes``, for a token of the hub: see
        docs/job-tokens.md.

        A request must name them exactly as they are here, with their filter: ``access:servers!user``. A token
        never has more than its user. The default is none. Before you set it, give this service the scope
        ``tokens!group=NAME``, and never ``tokens`` without a group: with that, whoever controls the service
        controls the hub.
        """,
        config=True,
    )

    max_children = Integer(
        100,
        min=0,
        max=100_000,
        help="""The maximum number of jobs that a job may submit with its own token, in ``KBATCH_JOB_TOKEN``:
        see docs/job-tokens.md. They count towards the limits of the job's user. 0: none.
        """,
        config=True,
    )

    max_child_depth = Integer(
        1,
        min=0,
        max=10,
        help="""How deep jobs may submit jobs: 1 means that the jobs of a job may not submit others.""",
        config=True,
    )

    allow_user_limits = Bool(
        True,
        help="""Whether users may set ``cpu_limit``, ``mem_limit`` and ``shm_size`` themselves.""",
        config=True,
    )

    @validate("extra_resource_limits", "extra_resource_guarantees")
    def _validate_resources(self, proposal: Any) -> dict[str, str]:
        return {name: str(amount) for name, amount in proposal["value"].items()}

    @validate("environment")
    def _validate_environment(self, proposal: Any) -> Any:
        return check_environment(proposal["value"])

    @validate("mem_limit", "max_mem_limit")
    def _validate_memory(self, proposal: Any) -> Any:
        size = proposal["value"]
        if size is not None and size < MIN_MEMORY_BYTES:
            name = f"JobConfig.{proposal['trait'].name}"
            raise TraitError(
                f"{name}: is {size} bytes; the minimum is {MIN_MEMORY_BYTES}; None means no limit"
            )
        return size

    async def make_environment(self, spawner: JobSpawner) -> dict[str, str]:
        """Return the variables of the admin's whose values the service knows, for a user's job."""
        return await make_environment(
            self.environment,
            spawner,
            scheme=self.slug_scheme,
            pvc_name_template=self.pvc_name_template,
        )

    def get_default(self, field: str) -> Any:
        """Return the ``cpu_limit`` or the ``mem_limit`` of a job that sets none; None means no limit."""
        default = getattr(self, field)
        return getattr(self, f"max_{field}") if default is None else default

    def make_spec(
        self,
        request: JobRequest,
        *,
        user: str = "",
        profile: str | None = None,
    ) -> JobSpec:
        """Return the spec of a user's job, or raise InvalidRequest with the field."""
        cpu_limit, mem_limit = (self._checked_limit(request, name) for name in ("cpu_limit", "mem_limit"))
        asked = {name: getattr(request, name) for name in REQUESTED}
        # those that the admin, or another field, has a say in
        checked = {
            "image": check_image(request.image, self.image, self.allowed_images),
            "collect": request.get_collect(),
            "profile": profile,
            "working_dir": request.working_dir or None,
            "cpu_limit": cpu_limit,
            "cpu_guarantee": limit_guarantee(self.cpu_guarantee or None, cpu_limit),
            "mem_limit": mem_limit,
            "mem_guarantee": limit_guarantee(self.mem_guarantee or None, mem_limit),
            "shm_size": self._checked_shm_size(request, mem_limit),
            "retries": check_at_most(request.retries, self.max_retries, "retries"),
            "retry_delay_seconds": self._checked_retry_delay(request.retry_delay_seconds),
            "active_deadline_seconds": self._checked_deadline(request.active_deadline_seconds),
            "queue_name": self._checked_queue(request.queue_name, user, profile),
            "hub_scopes": check_hub_scopes(request.hub_scopes, self.allowed_hub_scopes),
            **self.check_home(request, keeps_outputs=self.keep_outputs),
        }
        return self._common_spec.model_copy(update=asked | checked)

    @cached_property
    def _common_spec(self) -> JobSpec:
        """The part of the spec that all jobs share, validated only once; requests are already checked."""
        values = {name: self.get_parts(name) for name in ("image", *_COPIED)}
        guarantees = limit_guarantees(self.extra_resource_guarantees, self.extra_resource_limits)
        return JobSpec.model_validate(
            values
            | {
                "extra_resource_guarantees": guarantees,
                "image_working_dir": self.working_dir or None,
                "env_sources": list_sources(self.environment),
            }
        )

    def _checked_limit(self, request: JobRequest, field: str) -> Any:
        wanted, default = getattr(request, field), self.get_default(field)
        if wanted is None or wanted == default:
            return default
        if not self.allow_user_limits:
            raise InvalidRequest.of_field(field, "cannot be set here: choose a profile instead")
        maximum = getattr(self, f"max_{field}")
        if default is not None and maximum is None:
            maximum = default
        return check_at_most(wanted, maximum, field)

    def _checked_shm_size(self, request: JobRequest, mem_limit: int | None) -> Any:
        """Return the size of /dev/shm, at most the job's memory."""
        wanted, default = request.shm_size, self.shm_size
        if self.has_own_shm:
            if wanted is not None:
                raise InvalidRequest.of_field(
                    "shm_size", "cannot be set here: the admin mounts a volume at /dev/shm"
                )
            return None
        if wanted is None or wanted == default:
            return limit_guarantee(default, mem_limit)
        if not self.allow_user_limits:
            raise InvalidRequest.of_field("shm_size", "cannot be set here: choose a profile instead")
        return check_at_most(wanted, limit_guarantee(self.max_shm_size or wanted, mem_limit), "shm_size")

    def _checked_queue(self, wanted: str | None, user: str, profile: str | None) -> str | None:
        default = None if self.queue_name is None else fill_queue_name(self.queue_name, user, profile)
        allowed = [fill_queue_name(each, user, profile) for each in self.allowed_queue_names]
        return check_queue(wanted, default, allowed)

    def _checked_retry_delay(self, wanted: float | None) -> float:
        if wanted is None or wanted == self.retry_delay_seconds:
            return float(self.retry_delay_seconds)
        delay: float = check_at_most(wanted, self.max_retry_delay_seconds, "retry_delay_seconds")
        return delay

    def _checked_deadline(self, wanted: int | None) -> Any:
        if wanted is None:
            return self.active_deadline_seconds or self.max_active_deadline_seconds
        return check_at_most(wanted, self.max_active_deadline_seconds, "active_deadline_seconds")


_LIMITED = {"cpu_guarantee", "mem_guarantee", "extra_resource_guarantees"}
"""What a job's own limits may lower."""

_MADE = {"env_sources", "image_working_dir"}
"""What a job has of traits with other names."""

_OWN = set(JobSpec.model_fields) - set(RequestedSpec.model_fields)

_COPIED = tuple(sorted(_OWN - _LIMITED - _MADE - SET_LATER))
"""The traits that every job has as they are."""
"""The traits that ``make_spec`` copies into a job's spec unchanged."""
