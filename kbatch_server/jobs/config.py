"""What one job may be: images, sizes, deadlines, and what its pod looks like. It runs nothing."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Dict, Float, Integer, List, TraitError, Unicode, validate

from ..errors import InvalidRequest
from ..models.job import RETRY_DELAY_SECONDS, JobSpec
from ..quantities import MIN_CPUS, MIN_MEMORY_BYTES, limit_guarantee, limit_guarantees
from ..slugs import MAX_LABEL, make_slug
from .podconfig import PodConfig
from .request import JobRequest


def check_image(wanted: str | None, default: str, allowed: Sequence[str]) -> str:
    """Return the image of a job: the default, or one that a pattern allows. Raises InvalidRequest."""
    if wanted is None or wanted == default:
        if not default:
            raise InvalidRequest.of_field("image", "is required: there is no default image")
        return default
    if not any(_matches(wanted, pattern) for pattern in allowed):
        known = ", ".join([*allowed, *([default] if default else [])])
        raise InvalidRequest.of_field(
            "image", f"{wanted!r} is not allowed; allowed: {known or 'only a profile'}"
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
    """Return the registry that an image, or a pattern, names, and the rest: no registry is Docker Hub.

    https://github.com/distribution/reference/blob/main/normalize.go: what stands before the first slash is
    one if it has a dot or a port, or is localhost.
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
    """Return the name of a queue, which is a label's value: a long one is cut, and stays the user's own."""
    name = template.replace("{profile}", profile or "default")
    room = MAX_LABEL - len(name.replace("{username}", ""))
    return name.replace("{username}", make_slug(user, max_length=room)) if "{username}" in name else name


def check_at_most(wanted: Any, maximum: Any, field: str) -> Any:
    """Return a number that is not more than the most that is allowed (None: any). Raises InvalidRequest."""
    if maximum is not None and wanted > maximum:
        raise InvalidRequest.of_field(field, f"is {wanted}; the maximum is {maximum}")
    return wanted


class JobConfig(PodConfig):
    """The options of one job, as the admin set them; a profile may set each of them anew.

    Where KubeSpawner has a trait of the same name, it means the same here. Strings in ``volumes``,
    ``volume_mounts``, ``node_selector``, ``labels``, ``annotations`` and ``service_account`` may hold
    ``{username}`` (safe in a name, never the same for two users) and ``{unescaped_username}``.
    """

    image = Unicode(
        "",
        help="""The image of a job that names none, like ``quay.io/jupyter/scipy-notebook:2026-10-01``.

        Empty, the default, means that every job must name one (or a profile that does).
        """,
        config=True,
    )

    allowed_images = List(
        Unicode(),
        ["*"],
        help="""The images that a user may ask for, as shell patterns: ``["quay.io/jupyter/*"]``.

        ``*`` stands for any characters, ``/`` too, but for none of a registry: ``python:*`` is of Docker Hub,
        and ``python:5000/evil``, which is a registry with a port, does not match it. Only a pattern that
        begins with ``*`` and names no registry, as ``*.example.org/*`` does, is for all of them.

        An image with a digest (``name:tag@sha256:…``), of which the tag means nothing, is not matched by a
        pattern for tags, like ``name:1.*``.

        The default, ``["*"]``, allows any; ``[]`` allows only ``image`` and the images of profiles, which
        are always allowed.
        """,
        config=True,
    )

    cpu_limit = Float(
        None,
        allow_none=True,
        min=MIN_CPUS,
        help="""The CPU limit of a job that sets none. None: ``max_cpu_limit``, and
        no limit where that is None as well.""",
        config=True,
    )

    cpu_guarantee = Float(
        None,
        allow_none=True,
        min=0,
        help="""The CPUs requested for a job, or its ``cpu_limit`` if that is less. None: as much as
        Kubernetes derives from the limit.""",
        config=True,
    )

    max_cpu_limit = Float(
        None,
        allow_none=True,
        min=MIN_CPUS,
        help="""The largest ``cpu_limit`` that a user may set, and that of a job that sets none where
        ``cpu_limit`` is not set. None: any, and none.""",
        config=True,
    )

    mem_limit = ByteSpecification(
        None,
        allow_none=True,
        help="""The memory limit, in bytes, of a job that sets none.

        An integer, or a string with a unit of 1024: ``512M``, ``2G``. A job that uses more is killed and
        fails with the reason OOMKilled. None: ``max_mem_limit``, and no limit where that is None as well.
        """,
        config=True,
    )

    mem_guarantee = ByteSpecification(
        None,
        allow_none=True,
        help="""The bytes of memory requested for a job, as ``mem_limit``, or its ``mem_limit`` if that
        is less. None: as the limit says.""",
        config=True,
    )

    max_mem_limit = ByteSpecification(
        None,
        allow_none=True,
        help="""The largest ``mem_limit`` that a user may set, as ``mem_limit``, and that of a job that
        sets none where ``mem_limit`` is not set. None: any, and none.""",
        config=True,
    )

    extra_resource_limits = Dict(
        Unicode(),
        help="""Other resources of every job, like ``{"nvidia.com/gpu": "1"}``: usually set by a profile.""",
        config=True,
    )

    extra_resource_guarantees = Dict(
        Unicode(),
        help="""Other resources that are set aside for every job, as ``extra_resource_limits``, and not more
        than those. Of an extended resource (``nvidia.com/gpu``) Kubernetes sets aside what the limit is.""",
        config=True,
    )

    environment = Dict(
        Unicode(),
        help="""Environment variables of every job; those that the user sets override them.""",
        config=True,
    )

    max_retries = Integer(
        10,
        min=0,
        max=100,
        help="""The largest number of ``retries`` that a user may set.""",
        config=True,
    )

    retry_delay_seconds = Float(
        RETRY_DELAY_SECONDS,
        min=0,
        help="""Seconds between a failed attempt and the next one of a job that asks for no other number.

        They double after each further attempt, up to ten minutes, unless the job asks for ``fixed`` ones. On
        Kubernetes an attempt never comes earlier than its Job controller allows: after 10 s, doubled each
        time, up to ten minutes.
        """,
        config=True,
    )

    max_retry_delay_seconds = Float(
        3600,
        min=0,
        max=86400,
        help="""The largest ``retry_delay_seconds`` that a user may set.""",
        config=True,
    )

    active_deadline_seconds = Integer(
        None,
        allow_none=True,
        min=1,
        help="""The time limit, in seconds, of a job that sets none. None: no limit.""",
        config=True,
    )

    max_active_deadline_seconds = Integer(
        None,
        allow_none=True,
        min=1,
        help="""The largest ``active_deadline_seconds`` that a user may set, and that of a job that sets
        none where ``active_deadline_seconds`` is not set. None: any, and none.""",
        config=True,
    )

    start_timeout_seconds = Integer(
        600,
        min=1,
        help="""Seconds that a job may be unable to start before it fails: an image that cannot be pulled, a
        container that cannot be made, a quota or an admission rule that refuses it.""",
        config=True,
    )

    schedule_timeout_seconds = Integer(
        86400,
        min=0,
        help="""Seconds that a job may wait for a node with room before it fails. Default: a day.

        Long, as the cluster may be full for hours, or grow; 0 means for ever.
        """,
        config=True,
    )

    termination_grace_period_seconds = Integer(
        30,
        min=0,
        help="""Seconds between SIGTERM and SIGKILL when a job is cancelled.""",
        config=True,
    )

    keep_outputs = Bool(
        True,
        help="""Whether the files that a job writes under ``$KBATCH_OUTPUT_DIR`` are saved as its
        results. On Kubernetes a sidecar sends it, which needs 1.29 or later.""",
        config=True,
    )

    output_timeout_seconds = Integer(
        300,
        min=5,
        help="""Seconds after the end of a job's command until its results must have been sent.

        On Kubernetes, where they come on top of ``termination_grace_period_seconds``. It must cover an outage
        of the service, too: what was not sent by then is lost.
        """,
        config=True,
    )

    ttl_seconds_after_finished = Integer(
        3600,
        min=60,
        help="""Seconds after its end until Kubernetes removes a job's Job and Pods. Its record stays.

        The time begins when the service has recorded the end: an outage of its own loses nothing.
        """,
        config=True,
    )

    queue_name = Unicode(
        None,
        allow_none=True,
        help="""The LocalQueue of Kueue that jobs are submitted to: Kueue decides when they start, and
        may preempt them. ``{username}`` and ``{profile}`` (the profile's slug, or ``default``) in it are
        filled in, like ``team-{profile}``. None: Kueue is not used. See
        ``KubeJobLauncher.kueue_version``.""",
        config=True,
    )

    allowed_queue_names = List(
        Unicode(),
        help="""The queues that a user may choose, as shell patterns; ``{username}`` stands for the user's own
        name in a safe form. Default: none, which leaves ``queue_name`` alone.""",
        config=True,
    )

    kueue_priority_class = Unicode(
        None,
        allow_none=True,
        help="""The WorkloadPriorityClass of jobs that are submitted to Kueue.""",
        config=True,
    )

    allow_user_limits = Bool(
        True,
        help="""Whether users may set ``cpu_limit`` and ``mem_limit`` themselves.""",
        config=True,
    )

    @validate("mem_limit", "max_mem_limit")
    def _validate_memory(self, proposal: Any) -> Any:
        size = proposal["value"]
        if size is not None and size < MIN_MEMORY_BYTES:
            name = f"JobConfig.{proposal['trait'].name}"
            raise TraitError(
                f"{name}: is {size} bytes; the minimum is {MIN_MEMORY_BYTES}; None means no limit"
            )
        return size

    def get_default(self, field: str) -> Any:
        """Return the ``cpu_limit`` or the ``mem_limit`` of a job that asks for none, or None for no limit."""
        default = getattr(self, field)
        return getattr(self, f"max_{field}") if default is None else default

    def make_spec(
        self,
        request: JobRequest,
        *,
        user: str = "",
        profile: str | None = None,
        code_sha256: str | None = None,
    ) -> JobSpec:
        """Return what the job of a user will be, or raise InvalidRequest that names the field."""
        cpu_limit, mem_limit = (self._checked_limit(request, name) for name in ("cpu_limit", "mem_limit"))
        return self._common_spec.model_copy(
            update={
                "image": check_image(request.image, self.image, self.allowed_images),
                "command": request.command,
                "args": request.args,
                "notebook": request.notebook,
                "collect": request.get_collect(),
                "profile": profile,
                "upload": request.upload,
                "code_sha256": code_sha256,
                "working_dir": request.working_dir or None,
                "cpu_limit": cpu_limit,
                "cpu_guarantee": limit_guarantee(self.cpu_guarantee, cpu_limit),
                "mem_limit": mem_limit,
                "mem_guarantee": limit_guarantee(self.mem_guarantee, mem_limit),
                "shm_size": self._checked_shm_size(request, mem_limit),
                "retries": check_at_most(request.retries, self.max_retries, "retries"),
                "retry_delay_seconds": self._checked_retry_delay(request.retry_delay_seconds),
                "retry_backoff": request.retry_backoff,
                "active_deadline_seconds": self._checked_deadline(request.active_deadline_seconds),
                "priority": request.priority,
                "queue_name": self._checked_queue(request.queue_name, user, profile),
            }
        )

    @cached_property
    def _common_spec(self) -> JobSpec:
        """What all jobs have in common; a request is checked already, and only its part is put in."""
        values = {name: getattr(self, name) for name in ("image", *_COPIED)}
        guarantees = limit_guarantees(self.extra_resource_guarantees, self.extra_resource_limits)
        return JobSpec.model_validate(values | {"extra_resource_guarantees": guarantees})

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
        """Return the size of /dev/shm, which is a part of the job's memory."""
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


_COPIED = (
    "extra_resource_limits",
    "code_volume_size",
    "home_volume_size",
    "output_volume_size",
    "init_resources",
    "sidecar_resources",
    "sidecar_timeout_seconds",
    "ensure_home",
    "start_timeout_seconds",
    "schedule_timeout_seconds",
    "termination_grace_period_seconds",
    "keep_outputs",
    "output_timeout_seconds",
    "ttl_seconds_after_finished",
    "node_selector",
    "tolerations",
    "volumes",
    "volume_mounts",
    "service_account",
    "pod_security_context",
    "container_security_context",
    "image_pull_policy",
    "image_pull_secrets",
    "priority_class_name",
    "kueue_priority_class",
    "labels",
    "annotations",
)
"""The traits that go into a job's spec as they are."""
