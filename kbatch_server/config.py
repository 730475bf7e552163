"""What one job may be: images, sizes, deadlines, and what its pod looks like. It runs nothing."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Bool, Dict, Float, Integer, List, Unicode
from traitlets.config import Configurable

from .choices import check_at_most, check_image, check_queue, fill_queue_name
from .errors import InvalidRequest
from .jobrequest import JobRequest
from .models import RETRY_DELAY_SECONDS, JobSpec


class JobConfig(Configurable):
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
        min=0,
        help="""CPUs that a job may use at most when it asks for no other number. None: no limit.""",
        config=True,
    )

    cpu_guarantee = Float(
        None,
        allow_none=True,
        min=0,
        help="""CPUs that are set aside for a job. None: as much as Kubernetes derives from the limit.""",
        config=True,
    )

    max_cpu_limit = Float(
        None,
        allow_none=True,
        min=0,
        help="""The largest ``cpu_limit`` that a user may ask for. None: any.""",
        config=True,
    )

    mem_limit = ByteSpecification(
        None,
        allow_none=True,
        help="""Bytes of memory that a job may use at most when it asks for no other number.

        An integer, or a string with a unit of 1024: ``512M``, ``2G``. A job that uses more is killed and
        fails with the reason OOMKilled. None: no limit.
        """,
        config=True,
    )

    mem_guarantee = ByteSpecification(
        None,
        allow_none=True,
        help="""Bytes of memory that are set aside for a job, as ``mem_limit``. None: as the limit says.""",
        config=True,
    )

    max_mem_limit = ByteSpecification(
        None,
        allow_none=True,
        help="""The largest ``mem_limit`` that a user may ask for, as ``mem_limit``. None: any.""",
        config=True,
    )

    extra_resource_limits = Dict(
        Unicode(),
        help="""Other resources of every job, like ``{"nvidia.com/gpu": "1"}``: usually set by a profile.""",
        config=True,
    )

    extra_resource_guarantees = Dict(
        Unicode(),
        help="""Other resources that are set aside for every job, as ``extra_resource_limits``.""",
        config=True,
    )

    environment = Dict(
        Unicode(),
        help="""Environment variables of every job; what the user sets wins over them.""",
        config=True,
    )

    max_retries = Integer(
        10,
        min=0,
        max=100,
        help="""The largest number of ``retries`` that a user may ask for.""",
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
        help="""The largest ``retry_delay_seconds`` that a user may ask for.""",
        config=True,
    )

    active_deadline_seconds = Integer(
        None,
        allow_none=True,
        min=1,
        help="""Seconds that a job may run when it asks for no other number. None: no limit.""",
        config=True,
    )

    max_active_deadline_seconds = Integer(
        None,
        allow_none=True,
        min=1,
        help="""The largest ``active_deadline_seconds`` that a user may ask for, and that of a job that asks
        for none where ``active_deadline_seconds`` is not set. None: any, and none.""",
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
        help="""Seconds between TERM and KILL when a job is cancelled.""",
        config=True,
    )

    keep_outputs = Bool(
        True,
        help="""Whether what a job writes under ``$KBATCH_OUTPUT_DIR`` is kept. On Kubernetes a sidecar sends
        it, which needs 1.29 or later.""",
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

    node_selector = Dict(Unicode(), help="""Labels of the nodes that a job may run on.""", config=True)

    tolerations = List(Dict(), help="""Kubernetes tolerations of a job's pods.""", config=True)

    volumes = List(
        Dict(),
        help="""Kubernetes volumes of a job's pods, like
        ``[{"name": "home", "persistentVolumeClaim": {"claimName": "claim-{username}"}}]``.""",
        config=True,
    )

    volume_mounts = List(
        Dict(),
        help="""Where ``volumes`` are mounted: ``[{"name": "home", "mountPath": "/home/jovyan"}]``.""",
        config=True,
    )

    service_account = Unicode(
        None,
        allow_none=True,
        help="""The Kubernetes service account of a job's pods. None: the namespace's default, no token.""",
        config=True,
    )

    pod_security_context = Dict(
        help="""The security context of a job's pods, in Kubernetes's words (``runAsUser``, …).""",
        config=True,
    )

    container_security_context = Dict(
        help="""The security context of a job's container, in Kubernetes's words.""", config=True
    )

    image_pull_policy = Unicode(
        None,
        allow_none=True,
        help="""Always, IfNotPresent or Never. None: Kubernetes decides.""",
        config=True,
    )

    image_pull_secrets = List(
        Unicode(), help="""Names of the Secrets that the images are pulled with.""", config=True
    )

    priority_class_name = Unicode(
        None, allow_none=True, help="""The Kubernetes PriorityClass of a job's pods.""", config=True
    )

    labels = Dict(Unicode(), help="""Labels that a job's Job and Pods get besides ours.""", config=True)

    annotations = Dict(
        Unicode(), help="""Annotations that a job's Job and Pods get besides ours.""", config=True
    )

    queue_name = Unicode(
        None,
        allow_none=True,
        help="""The LocalQueue of Kueue that jobs are handed to: it decides when they start, and may stop them
        for others. ``{username}`` and ``{profile}`` (the profile's slug, or ``default``) in it are filled in,
        like ``team-{profile}``. None: Kueue is not used. See ``KubeJobLauncher.kueue_version``.""",
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
        help="""The WorkloadPriorityClass of jobs that are handed to Kueue.""",
        config=True,
    )

    allow_user_limits = Bool(
        True,
        help="""Whether a user may ask for a ``cpu_limit`` and ``mem_limit`` of his own at all.""",
        config=True,
    )

    def make_spec(
        self,
        request: JobRequest,
        *,
        user: str = "",
        profile: str | None = None,
        code_sha256: str | None = None,
    ) -> JobSpec:
        """Return what the job of a user will be, or raise InvalidRequest that names the field."""
        return self._common_spec.model_copy(
            update={
                "image": check_image(request.image, self.image, self.allowed_images),
                "command": request.command,
                "args": request.args,
                "profile": profile,
                "upload": request.upload,
                "code_sha256": code_sha256,
                "cpu_limit": self._checked_limit(request, "cpu_limit"),
                "mem_limit": self._checked_limit(request, "mem_limit"),
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
        return JobSpec.model_validate({name: getattr(self, name) for name in ("image", *_COPIED)})

    def _checked_limit(self, request: JobRequest, field: str) -> Any:
        wanted, default = getattr(request, field), getattr(self, field)
        if wanted is None or wanted == default:
            return default
        if not self.allow_user_limits:
            raise InvalidRequest.of_field(field, "cannot be set here: choose a profile instead")
        maximum = getattr(self, f"max_{field}")
        if default is not None and maximum is None:
            maximum = default
        return check_at_most(wanted, maximum, field)

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
    "cpu_guarantee",
    "mem_guarantee",
    "extra_resource_limits",
    "extra_resource_guarantees",
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
