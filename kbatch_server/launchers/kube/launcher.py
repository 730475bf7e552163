"""Runs jobs on Kubernetes: the order of the calls, and what their answers mean for a job."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import traitlets
from kubernetes.aio.config import ConfigException
from traitlets import Float, Instance, TraitError, Unicode, validate

from ...errors import KBatchError, Unavailable
from ...failpoints import reach
from ...hooks import Hooks
from ...models.job import Job, JobEvent, JobStatus
from ...models.server import HubServer, ServerPod
from ...models.times import utcnow
from ..base import JobLauncher, Launch, LauncherUnavailable, LaunchRefused, LogNotFound, LogPiece
from .apply import (
    check_is_same,
    end_pods,
    ensure_secrets,
    open_gates,
    raise_limit,
)
from .client import KubeClient, KubeRefused, KubeUnavailable, load_configuration, make_path
from .errors import launch_errors, read_errors
from .homes import Homes
from .job_objects import JobObjects, Place, is_behind, make_timed_status
from .logs import NO_LOG, FollowedLog
from .manifests import job as manifests
from .manifests.filled import fill_templates
from .manifests.manifest import Manifest
from .manifests.serverhome import add_home
from .manifests.sidecar import explain_unsent
from .namespace_traits import NamespaceTraits
from .namespaces import Namespaces
from .pod_hook import modify_pod
from .reflector import Reflector, Seen
from .reflectors import Reflectors
from .status.pods import START_PROBLEMS, find_state, find_strangers, is_ending, is_over, sort_pods

_LOOK_AGAIN_SECONDS = 5
"""Seconds that a reader waits for news of a log that has not begun, before it checks by itself."""

IDLE_POLLS = 3
"""After how many polls a namespace without running jobs is not watched any more, where each is by itself."""
HOME_SECONDS = 60
"""Seconds that a job waits for the node of its home before the service checks that this is still its node."""

_GONE = "The pod was deleted before all of its log was read."


class KubeJobLauncher(NamespaceTraits, JobLauncher):
    """Creates a Kubernetes Job for each job, with a Secret that it owns.

    It creates the Job suspended, then its Secret, and then resumes the Job. So each step can be repeated, no
    object is ever without an owner, and the next launch repairs what a crash between two steps left.
    """

    runs_notebooks = True
    has_secret_files = True
    has_registries = True
    mounts_homes = True

    hooks = Instance(Hooks, ())

    instance = Unicode(
        "kbatch",
        help="""The value of the label ``kbatch.jupyter.org/instance`` on all objects that the service
        creates. It separates the jobs of two services on one cluster. Default: ``kbatch``. If you change it,
        the service no longer finds the existing jobs.
        """,
        config=True,
    )

    init_image = Unicode(
        "busybox:1.36",
        help="""The image of the containers that fetch a job's code and send its results. It needs ``sh``,
        ``wget``, ``timeout``, ``sha256sum``, ``sed``, ``tee``, ``unzip``, ``nc``, ``tar``, ``wc``, ``awk``,
        ``cat``, ``find``, ``head``, ``ln``, ``mkdir``, ``readlink``, ``sort``, ``stat``, ``tr``, ``xargs``
        and, if ``SignedLinks.url_for_jobs`` is ``https``, ``ssl_client``. Busybox has all of them. Default:
        ``busybox:1.36``. Example: ``registry.example.org/busybox:1.36``.
        """,
        config=True,
    )

    kueue_version = Unicode(
        help="""The version of Kueue's API, like ``v1beta1``, if the service submits jobs to Kueue
        (``JobConfig.queue_name``). The service then watches Kueue's Workloads, to tell users why their jobs
        wait. Default: it watches none.
        """,
        config=True,
    )

    modify_pod_hook: Any = traitlets.Callable(
        None,
        allow_none=True,
        help="""A function that changes the pods of a job before the service creates its Job, as KubeSpawner's
        hook changes that of a server. It takes (spawner, pod), and may be async.

        ``pod`` is a V1Pod of the Python package ``kubernetes`` (``kubernetes.client``), with the job's id as
        its name. The function changes it and returns it; None means the same pod. The values of environment
        variables are in the job's Secret, so the function does not see them. ``spawner`` has ``user.name``,
        ``user.groups``, ``user_options`` (with ``profile``), ``job_id``, ``namespace`` and ``log``. The
        function may add containers, volumes, labels and more, but must not remove a container, or change a
        label of the service. An ``InvalidRequest`` that it raises fails the job with its message. After
        another error, the launch is tried again later. ``Hooks`` has the time limit. Default: none. Example::

            def modify_pod_hook(spawner, pod):
                pod.spec.runtime_class_name = "gvisor"
                return pod

            c.KubeJobLauncher.modify_pod_hook = modify_pod_hook
        """,
        config=True,
    )

    kubeconfig = Unicode(
        help="""The path of a kubeconfig file. Default: the service account of the pod that the service runs
        in, or, outside of a cluster, the file that KUBECONFIG names, else ``~/.kube/config``.
        """,
        config=True,
    )

    context = Unicode(
        help="""The context in the kubeconfig file. Default: the current context of the file. Example:
        ``minikube``.
        """,
        config=True,
    )

    request_timeout_seconds = Float(
        30,
        min=1,
        help="""Seconds until a request to Kubernetes times out. The service tries again later. Default: 30.
        """,
        config=True,
    )

    max_launches_per_second = Float(
        20,
        min=0,
        help="""The maximum number of jobs that are launched per second, so that a thousand submits at once do
        not overload the API server. (A launch takes three requests.) Default: 20; 0 means no limit.
        """,
        config=True,
    )

    poll_seconds = Float(
        300,
        min=1,
        help="""Seconds between two polls of each job, in addition to the changes that a watch reports.
        Default: 300.
        """,
        config=True,
    )

    @validate("instance")
    def _validate_instance(self, proposal: Any) -> str:
        value: str = proposal.value
        if len(value) > 63 or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", value):
            raise TraitError(f"KubeJobLauncher.instance must be a valid value of a label, not {value!r}")
        return value

    client: KubeClient
    reflector: Reflector | Reflectors
    namespaces: Namespaces
    job_objects: JobObjects

    async def open(self) -> None:
        """Connect; raises TraitError for a wrong setting, but not if the API server is down."""
        try:
            configuration = await load_configuration(self.kubeconfig, self.context)
        except (ConfigException, OSError) as error:
            raise TraitError(
                "KubeJobLauncher.kubeconfig must name a kubeconfig file, unless the service runs in a pod or "
                f"KUBECONFIG names one: {error}"
            ) from None
        self.client = KubeClient(configuration, request_timeout_seconds=self.request_timeout_seconds)
        self.namespaces = Namespaces(self.client, self, instance=self.instance, log=self.log)
        self._make_view(lambda job_id: None)

    async def close(self) -> None:
        """Close every connection."""
        if hasattr(self, "client"):
            await self.client.close()

    async def start(self, on_change: Callable[[str], None]) -> None:
        """Begin to watch."""
        self._make_view(on_change)
        await self.reflector.start()

    async def stop(self) -> None:
        """End the watches, and forget what they saw."""
        reflector = self.reflector
        self._make_view(lambda job_id: None)
        await reflector.stop()

    @property
    def _homes(self) -> Homes:
        return Homes(self.client, self.log)

    def _make_view(self, on_change: Callable[[str], None]) -> None:
        def make_reflector(namespace: str) -> Reflector:
            return Reflector(
                self.client,
                namespace=namespace,
                instance=self.instance,
                kueue_version=self.kueue_version,
                on_change=on_change,
                log=self.log,
            )

        if not self.enable_user_namespaces:
            self.reflector = make_reflector(self.namespace)
        elif self.watch_all_namespaces:
            self.reflector = make_reflector("")
        else:
            self.reflector = Reflectors(make_reflector, idle_seconds=IDLE_POLLS * self.poll_seconds)
        self.job_objects = JobObjects(
            self.client,
            self.reflector,
            instance=self.instance,
            load_seconds=self.request_timeout_seconds,
            kueue_version=self.kueue_version,
        )

    async def check(self) -> None:
        """Request one Job, which tests the network, the credentials and the permissions.

        If the service watches each namespace by itself, and none has jobs now, it requests the version.
        """
        namespace = self.reflector.namespace
        with read_errors():
            if namespace is None:
                await self.client.get("/version")
            else:
                await self.client.get(make_path("jobs", namespace), {"limit": 1})

    async def launch(self, job: Job, launch: Launch) -> dict[str, object]:
        """Create the Job suspended, then its Secret, then resume it; skip steps that are done."""
        place = self._find_place(job)
        if job.launch_begun_at is not None and (made := await self._find_launched(place)):
            return Place(place.namespace, place.name, made["metadata"]["uid"]).state
        home = None
        if job.spec.home is not None:
            with launch_errors():
                home = await self._homes.find(job, launch.server, place.namespace)
            # it is the home even if the image has another, and in place of one that is made for the job
            launch = replace(launch, env={"HOME": job.spec.home_mount_path} | launch.env)
        job = fill_templates(job, namespace=place.namespace, hub_namespace=self.hub_namespace)
        manifest = manifests.make_job(
            job,
            env_names=launch.env.keys(),
            namespace=place.namespace,
            instance=self.instance,
            init_image=self.init_image,
            output_limits=launch.output_limits,
            code_sha256=launch.code_sha256,
        )
        if home is not None:
            add_home(manifest, job, home, image=self.init_image)
        await self._modify_pod(manifest, job, launch.spawner)
        with launch_errors():
            async with self.namespaces.use(place.namespace, job.user):
                return await self._create(job, launch, manifest, place)

    async def _create(self, job: Job, launch: Launch, manifest: Manifest, place: Place) -> dict[str, object]:
        made, _ = await self.client.ensure_created(
            make_path("jobs", place.namespace),
            manifest,
            is_ours=lambda found: self.job_objects.is_ours(found, place),
        )
        place = Place(place.namespace, place.name, made["metadata"]["uid"])
        reach("launch.3")
        if not manifests.is_launched(made):
            await check_is_same(self.client, made, manifest, place)
            await ensure_secrets(self.client, job, launch, place, instance=self.instance)
            reach("launch.4")
            patch = manifests.make_launch_patch(str(place.uid), queue_name=job.spec.queue_name)
            await self.client.patch(place.path, patch)
        return place.state

    async def poll(self, job: Job) -> JobStatus | None:
        """Return the job's state from the watches; None only if the API also reports that it is gone."""
        place = self._find_place(job)
        seen = await self._look(place)
        if seen is None:
            return None
        status = make_timed_status(seen, job.spec, self.client.ahead)
        if status.is_overdue(job.spec) or status.is_past_deadline() or is_behind(seen):
            # ask again before the job ends: the clock may have changed, or the watch reported the Job's end
            # before that of its pod
            with read_errors():
                seen = await self.job_objects.ask(place)
            status = make_timed_status(seen, job.spec, self.client.ahead) if seen is not None else status
        if seen is not None and seen.pods and _waits_for_node(status):
            with read_errors():
                newest = sort_pods(list(seen.pods.values()))[-1]
                status.never_began = await self._homes.has_moved(newest, place.namespace)
        return status

    async def release(self, job: Job) -> None:
        """Open the gate of the job's pod, and do not count attempts that a node rejected."""
        place = self._find_place(job)
        with read_errors():
            pods = await self.job_objects.list_pods(place)
            await open_gates(self.client, pods)
            await raise_limit(self.client, await self.job_objects.find_job(place), pods, job.spec)

    async def finish(self, job: Job) -> None:
        """Delete the pod whose command has ended; the Job creates another if there is a retry."""
        with read_errors():
            pods = await self.job_objects.list_pods(self._find_place(job))
            await end_pods(self.client, filter(find_strangers, pods), job.spec, log=self.log)

    async def terminate(self, job: Job) -> bool:
        """Delete the pods and the Job with its Secret; return whether the API has none of them left.

        The sidecar still sends the results once the command has ended.
        """
        place = self._find_place(job)
        with read_errors():
            found = await self.job_objects.find_job(place)
            pods = await self.job_objects.list_pods(place)
            await end_pods(self.client, pods, job.spec, log=self.log)
            if found is not None:
                await self.client.ensure_deleted(place.path, uid=found["metadata"]["uid"])
            return found is None and not pods

    async def is_ending(self, job: Job) -> bool:
        """Return whether a pod still runs, such as one that sends results; end pods without a Job."""
        place = self._find_place(job)
        seen = await self._look(place, *(pod.name for pod in job.pods))
        with read_errors():
            pods = list(seen.pods.values()) if seen is not None else await self.job_objects.list_pods(place)
            if seen is None:
                await end_pods(self.client, pods, job.spec, log=self.log)
        return any(is_ending(pod) for pod in pods)

    async def find_outputs_problem(self, job: Job) -> str | None:
        """Return why the sidecar did not send the results."""
        seen = await self._look(self._find_place(job), *(pod.name for pod in job.pods))
        return explain_unsent(sort_pods(list(seen.pods.values())) if seen is not None else [])

    async def clean(self, job: Job) -> None:
        """Let Kubernetes remove the Job some time after its end; delete one that never started.

        Not earlier: if a Job is gone, its end must be in the record.
        """
        place = self._find_place(job)
        with read_errors():
            found = await self.job_objects.find_job(place)
            if found is None:
                return
            uid = found["metadata"]["uid"]
            if manifests.is_launched(found):
                await self.client.patch(place.path, manifests.make_ttl_patch(job, uid))
            else:
                await self.client.ensure_deleted(place.path, uid=uid)

    async def read_log(self, job: Job, pod: str, position: dict[str, Any] | None) -> AsyncIterator[LogPiece]:
        """Yield the log of the user's container in a pod, from its start (it waits for that) to its end."""
        place = self._find_place(job)
        await self._wait_for_log(place, pod)
        try:
            log = FollowedLog(self.client, place.namespace, pod, position=position).follow()
            async with aclosing(log) as pieces:
                async for each in pieces:
                    yield LogPiece(each.data, each.position, datetime.fromtimestamp(each.second, UTC))
        except KubeRefused as error:
            if error.status == 404:
                raise LogNotFound(NO_LOG if error.reason == NO_LOG else _GONE) from None
            raise LauncherUnavailable(error.message) from error
        except KubeUnavailable as error:
            raise LauncherUnavailable(str(error)) from error

    async def events(self, job: Job) -> list[JobEvent]:
        """Return the newest events of the Job and its pods; empty if they are gone."""
        seen = await self._look(self._find_place(job))
        events = sorted(seen.events.values(), key=lambda event: event.last) if seen else []
        return [event.to_job_event() for event in events]

    @property
    def keeps_users(self) -> bool:
        """Whether it creates namespaces for users."""
        return bool(self.enable_user_namespaces and self.create_user_namespaces)

    async def list_owners(self) -> set[str]:
        """Return the users who have a namespace that this service created."""
        if not self.keeps_users:
            return set()
        with read_errors():
            return await self.namespaces.list_owners()

    async def forget_user(self, user: str) -> None:
        """Mark the user's namespace, so that it is removed when it is empty."""
        if self.keeps_users:
            with read_errors():
                await self.namespaces.forget_user(user)

    async def remove_forgotten(self) -> None:
        """Remove the empty namespaces of forgotten users."""
        if self.keeps_users:
            await self.namespaces.remove_forgotten()

    async def read_server(self, user: str, server: HubServer) -> ServerPod | None:
        """Return what the pod of a server says."""
        namespace = self.get_namespace(user)
        with read_errors():
            return await self._homes.read_server(user, server, namespace)

    def _find_place(self, job: Job) -> Place:
        if "uid" in job.state:
            return Place(*(str(job.state[key]) for key in ("namespace", "name", "uid")))
        return Place(self.get_namespace(job.user), job.id, None)

    async def _find_launched(self, place: Place) -> Manifest | None:
        """Return the Job that an earlier, interrupted launch has already launched, or None."""
        with read_errors():
            found = await self.job_objects.find_job(place)
        return found if found is not None and manifests.is_launched(found) else None

    async def _modify_pod(self, manifest: Manifest, job: Job, spawner: Any) -> None:
        if not self.modify_pod_hook:
            return
        try:
            await modify_pod(self.hooks, self.modify_pod_hook, manifest, job, spawner)
        except Unavailable as error:
            raise LauncherUnavailable(error.message) from error
        except KBatchError as error:
            raise LaunchRefused(error.reason, error.message) from error

    async def _look(self, place: Place, *pods: str) -> Seen | None:
        with read_errors():
            return await self.job_objects.look(place, pods=pods)

    async def _wait_for_log(self, place: Place, name: str) -> None:
        """Wait until a pod's container has a log; raises LogNotFound if it never will."""
        while True:
            with read_errors():
                pod = await self.job_objects.find_pod(place, name)
            if pod is None or pod.get("isGone"):
                raise LogNotFound(_GONE)
            state = find_state(pod)
            ended = state.get("terminated")
            if "running" in state or (ended and ended.get("reason") not in START_PROBLEMS):
                return
            if is_over(pod):
                raise LogNotFound("The command was not started.")
            reflector = await self.reflector.of(place.namespace)
            await reflector.wait_change(place.namespace, place.name, _LOOK_AGAIN_SECONDS)


def _waits_for_node(status: JobStatus) -> bool:
    """Whether a job has waited for a node for some time."""
    since = status.blocked_since if status.blocked_on == "schedule" else None
    return since is not None and (utcnow() - since).total_seconds() > HOME_SECONDS
