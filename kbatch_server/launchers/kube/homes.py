"""Finds the pod and the home of a user's server on Kubernetes. It changes nothing, and creates nothing."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ...hub import claims, pods
from ...hub.claims import HomeVolume
from ...models.job import Job
from ...models.server import HubServer, ServerPod, describe_server, parse_reference
from ...templates import expand
from ..base import LaunchRefused
from .client import KubeClient, KubeRefused, make_path
from .manifests.manifest import Manifest
from .manifests.serverhome import CLAIM_ANNOTATION, NODE_ANNOTATION

PAGE = 100
"""The number of pods in an answer: parsing all of a large namespace at once would delay requests."""

UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"
NO_HOME = "HomeNotFound"


class Homes:
    """The homes of users' servers. Each method may raise KubeError: then nothing is known."""

    def __init__(self, client: KubeClient, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._client = client
        self._log = log

    async def read_server(self, user: str, server: HubServer, namespace: str) -> ServerPod | None:
        """Return what the pod of a running server says; None if this service finds none, or may not read it.

        ``namespace`` is where to look if the hub does not show the server's.
        """
        try:
            pod = await self._find_pod(user, server.name, server, server.namespace or namespace)
        except KubeRefused as error:
            self._log.warning("the pod of a server cannot be read: %s", error.message)
            return None
        return pods.read_pod(pod) if pod is not None else None

    async def find(self, job: Job, server: HubServer | None, namespace: str) -> HomeVolume:
        """Return the home for a job in a namespace; ``server`` is what the hub says, None if it says nothing.

        Raises LaunchRefused, with a sentence, if there is none that the job can mount.
        """
        spec, name = job.spec, parse_reference(str(job.spec.home))
        if server is not None and server.namespace not in (None, namespace):
            raise LaunchRefused(
                "HomeElsewhere",
                f"The home of {describe_server(name)} is in the namespace {server.namespace}, and jobs run "
                f"in {namespace}, where Kubernetes cannot mount it. Ask an admin to set "
                "KubeJobLauncher.namespace.",
            )
        pod = await self._find_pod(job.user, name, server, namespace)
        home = claims.find_volume(pod, spec.home_mount_path) if pod is not None else None
        if pod is not None and home is None:
            raise LaunchRefused(
                NO_HOME,
                f"The home of {describe_server(name)} is not a volume at {spec.home_mount_path} that a job "
                "can mount. Submit the job without home, or ask an admin.",
            )
        if home is None:
            sub_path = expand(spec.home_subpath, job.user, name)
            home = claims.make_volume(await self._find_claim(job, name, server, namespace), sub_path)
        return await self._place(home, job, namespace)

    async def find_node(self, namespace: str, claim: str) -> str | None:
        """Return the node where a claim is in use; None if no pod on any node mounts it."""
        found = [pod async for page in self._list_pods(namespace) for pod in page]
        return claims.find_node(found, claim)

    async def has_moved(self, pod: Manifest, namespace: str) -> bool:
        """Whether the home of a pod that waits for a node is no longer in use there."""
        annotations = pod["metadata"].get("annotations") or {}
        node = annotations.get(NODE_ANNOTATION)
        return node is not None and node != await self.find_node(namespace, annotations[CLAIM_ANNOTATION])

    async def _find_pod(
        self, user: str, name: str, server: HubServer | None, namespace: str
    ) -> Manifest | None:
        if server is not None and server.pod_name is not None:
            found = await self._client.find(make_path("pods", namespace, server.pod_name))
            return found if found is not None and pods.is_of_server(found, user, name) else None
        selector = {"labelSelector": pods.make_user_selector(user), "limit": PAGE}
        listed = (await self._client.get(make_path("pods", namespace), selector)).get("items") or []
        return next((pod for pod in listed if pods.is_of_server(pod, user, name)), None)

    async def _find_claim(self, job: Job, name: str, server: HubServer | None, namespace: str) -> str:
        """Return the name of the claim of a server that does not run."""
        if server is not None and server.pvc_name is not None:
            if await self._read_claim(namespace, server.pvc_name) is None:
                raise LaunchRefused(
                    NO_HOME,
                    f"The claim of {describe_server(name)}, {server.pvc_name}, does not exist in the "
                    f"namespace {namespace}. Start the server once, or ask an admin.",
                )
            return server.pvc_name
        safe, escaped = claims.make_claim_names(job.spec.pvc_name_template, job.user, name)
        if claims.is_safe_name_of(await self._read_claim(namespace, safe), job.user):
            return safe
        if escaped != safe and claims.is_escaped_name_of(
            await self._read_claim(namespace, escaped), job.user
        ):
            return escaped
        names = f"no claim {safe}" if escaped == safe else f"neither a claim {safe} nor {escaped}"
        raise LaunchRefused(
            NO_HOME,
            f"There is no home of {describe_server(name)}: {names} is in the namespace {namespace}. Start "
            "the server once, then submit the job again.",
        )

    async def _read_claim(self, namespace: str, name: str) -> Manifest | None:
        try:
            return await self._client.find(make_path("persistentvolumeclaims", namespace, name))
        except KubeRefused as error:
            if error.status in (400, 422):  # the escaped name of some users is no valid name
                return None
            raise

    async def _place(self, home: HomeVolume, job: Job, namespace: str) -> HomeVolume:
        """Return the home with the node on which it can be mounted."""
        if home.claim is None:
            return home
        claim = await self._read_claim(namespace, home.claim)
        if claim is None or claim["metadata"].get("deletionTimestamp"):
            raise LaunchRefused(
                NO_HOME, f"The claim of your home, {home.claim}, is being deleted. Ask an admin."
            )
        modes = claims.get_access_modes(claim)
        if "ReadWriteOncePod" in modes:
            raise LaunchRefused(
                "HomeNotShared",
                f"The claim of your home, {home.claim}, has the access mode ReadWriteOncePod: only one pod "
                "can use it, and that is your server. Submit the job without home.",
            )
        if "ReadWriteMany" in modes or job.spec.home_placement == "any":
            return home
        node = await self.find_node(namespace, home.claim)
        return replace(home, is_on_one_node=True, node=node)

    async def _list_pods(self, namespace: str) -> AsyncIterator[list[Manifest]]:
        query: dict[str, Any] = {"fieldSelector": UNFINISHED, "limit": PAGE}
        while True:
            page = await self._client.get(make_path("pods", namespace), query)
            yield page.get("items") or []
            query["continue"] = page.get("metadata", {}).get("continue")
            if not query["continue"]:
                return
