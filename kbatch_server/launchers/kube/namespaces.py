"""Prepares the namespaces of users for their jobs, and removes those of users who were forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from ...models.times import to_iso, utcnow
from ...templates import expand
from ..base import LauncherUnavailable, LaunchRefused
from .client import KubeClient, KubeError, KubeRefused, KubeUnavailable, make_path
from .manifests import job as manifests
from .manifests.labels import FORGOTTEN_ANNOTATION, INSTANCE_LABEL, USERNAME
from .manifests.manifest import Manifest
from .manifests.namespaces import (
    OBJECT_KINDS,
    is_current,
    is_forgotten,
    is_namespace,
    make_namespace,
    make_object,
    make_owner_labels,
)
from .namespace_traits import NamespaceTraits

_PEOPLES = (
    "jobs", "pods", "persistentvolumeclaims", "services", "cronjobs", "deployments", "statefulsets",
)  # fmt: skip
"""The kinds of things that may belong to somebody, and keep a namespace."""


class Namespaces:
    """The namespaces of one instance of the service, as the settings say.

    A namespace is prepared once in a process, and again if it was deleted since. Each step may be repeated.
    """

    def __init__(
        self,
        client: KubeClient,
        settings: NamespaceTraits,
        *,
        instance: str,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._client = client
        self._settings = settings
        self._instance = instance
        self._log = log
        self._ready: dict[str, str] = {}
        """The user for whom each namespace was prepared: KubeSpawner's names may meet."""
        self._used: Counter[str] = Counter()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._told: set[str] = set()

    @asynccontextmanager
    async def use(self, name: str, user: str) -> AsyncIterator[None]:
        """Prepare the namespace of a user\'s jobs, and keep it from being removed during the block.

        Raises KubeError, LauncherUnavailable if an object of the namespace cannot be created, and
        LaunchRefused if the user can have no namespace.
        """
        if not self._settings.enable_user_namespaces:
            yield
            return
        if not is_namespace(name):
            raise LaunchRefused("InvalidNamespace", f"{name!r}, the user's namespace, is not a valid name.")
        self._used[name] += 1
        try:
            await self._ensure_ready(name, user)
            yield
        except KubeRefused as error:
            is_gone = error.status == 404 and error.message.startswith("namespaces ")
            if is_gone and self._settings.create_user_namespaces:
                self._ready.pop(name, None)
                raise KubeUnavailable(f"the namespace {name} was deleted, and is created again") from error
            raise
        finally:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]

    def _get_lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def _ensure_ready(self, name: str, user: str) -> None:
        async with self._get_lock(name):
            if self._ready.get(name) == user:
                return
            if self._settings.create_user_namespaces:
                await self._ensure_namespace(name, user)
            fields = self._settings.get_namespace_fields(user) | {"namespace": name}
            for template in self._settings.user_namespace_objects:
                wanted = make_object(template, user=user, instance=self._instance, fields=fields)
                await self._prepare(wanted, user)
            self._ready[name] = user

    async def _ensure_namespace(self, name: str, user: str) -> None:
        fields = self._settings.get_namespace_fields(user)
        manifest = make_namespace(
            name,
            user=user,
            instance=self._instance,
            labels=expand(self._settings.user_namespace_labels, user, place=fields),
            annotations=expand(self._settings.user_namespace_annotations, user, place=fields),
        )
        path = make_path("namespaces")
        found, is_new = await self._client.ensure_created(path, manifest, is_ours=lambda _: True)
        if is_new:
            self._log.info("created the namespace %s", name)
            return
        is_ours = self._is_ours(found, user)
        if not is_ours and not self._settings.use_existing_user_namespaces:
            raise LaunchRefused(
                "NamespaceTaken",
                f"The namespace {name} exists, and was not created by this service for this user. An admin "
                "can allow it: KubeJobLauncher.use_existing_user_namespaces.",
            )
        if found["metadata"].get("deletionTimestamp"):
            raise KubeUnavailable(f"the namespace {name} is still being deleted")
        if is_ours and is_forgotten(found):
            await self._mark(found, None)

    def _is_ours(self, found: Manifest, user: str) -> bool:
        slug = make_owner_labels(user, self._instance)[USERNAME]
        return manifests.is_of(found, instance=self._instance, label=USERNAME, value=slug)

    async def _prepare(self, wanted: Manifest, user: str) -> None:
        """Create or replace an object; the error of one that is refused tells which, for user and admin."""
        metadata = wanted["metadata"]
        try:
            await self._ensure_object(wanted, user)
        except KubeRefused as error:
            if error.status == 404 and error.message.startswith("namespaces "):
                raise
            what = f"The {wanted['kind']} {metadata['name']} of the namespace {metadata['namespace']}"
            raise LauncherUnavailable(f"{what} cannot be created: {error.message}") from error

    async def _ensure_object(self, wanted: Manifest, user: str) -> None:
        metadata = wanted["metadata"]
        path = make_path(OBJECT_KINDS[wanted["kind"]][1], metadata["namespace"])
        found, is_new = await self._client.ensure_created(
            path, wanted, is_ours=lambda found: self._is_ours(found, user)
        )
        if is_new or is_current(found, wanted):
            return
        own, version = f"{path}/{metadata['name']}", found["metadata"]["resourceVersion"]
        try:
            await self._client.replace(own, wanted | {"metadata": metadata | {"resourceVersion": version}})
        except KubeRefused as error:
            if error.status != 422:
                raise
            # what cannot be changed, such as the role of a RoleBinding
            await self._client.ensure_deleted(own, uid=found["metadata"]["uid"])
            await self._client.ensure_created(path, wanted, is_ours=lambda found: is_current(found, wanted))
        self._log.info("replaced the %s %s of the namespace %s", wanted["kind"], *_get_names(wanted))

    # Users who are forgotten

    async def list_owners(self) -> set[str]:
        """Return the users who have a namespace that this service created. Raises KubeError."""
        annotations = [
            each["metadata"].get("annotations") or {}
            for each in await self._list_own()
            if not is_forgotten(each)
        ]
        return {each[USERNAME] for each in annotations if USERNAME in each}

    async def forget_user(self, user: str) -> None:
        """Mark the namespaces that this service created for a user to be removed. Raises KubeError."""
        for each in await self._list_own():
            if self._is_ours(each, user) and not is_forgotten(each):
                await self._mark(each, to_iso(utcnow()))

    async def remove_forgotten(self) -> None:
        """Remove the marked namespaces that contain nothing of anybody; the log has what keeps the others."""
        try:
            marked = [each for each in await self._list_own() if is_forgotten(each)]
            for each in marked:
                if not each["metadata"].get("deletionTimestamp"):
                    await self._remove(each)
        except KubeError as error:
            self._log.warning(
                "namespaces of forgotten users cannot be removed: %s; trying again later", error
            )

    async def _remove(self, namespace: Manifest) -> None:
        name = namespace["metadata"]["name"]
        async with self._get_lock(name):
            self._ready.pop(name, None)
            others, has_jobs = await self._look_into(name)
            if others and name not in self._told:
                self._told.add(name)
                self._log.warning(
                    "the namespace %s stays, although its user was forgotten: it contains %s",
                    name,
                    ", ".join(others[:5]) + (", …" if len(others) > 5 else ""),
                )
            if others or has_jobs or self._used[name]:
                return
            uid = namespace["metadata"]["uid"]
            await self._client.ensure_deleted(make_path("namespaces", name=name), uid=uid)
            self._log.info("removed the namespace %s: its user was forgotten", name)

    async def _look_into(self, name: str) -> tuple[list[str], bool]:
        """Return what a namespace has that is not this service\'s, and whether it has jobs of the service."""
        others, has_jobs = [], False
        for kind in _PEOPLES:
            for each in (await self._client.get(make_path(kind, name))).get("items") or []:
                labels = each["metadata"].get("labels") or {}
                if labels.get(INSTANCE_LABEL) == self._instance:
                    has_jobs = True
                else:
                    others.append(f"{kind}/{each['metadata']['name']}")
        return others, has_jobs

    async def _list_own(self) -> list[Manifest]:
        query = {"labelSelector": f"{INSTANCE_LABEL}={self._instance},{USERNAME}"}
        found: list[Manifest] = (await self._client.get(make_path("namespaces"), query)).get("items") or []
        return found

    async def _mark(self, namespace: Manifest, moment: str | None) -> None:
        metadata = namespace["metadata"]
        patch = {"metadata": {"uid": metadata["uid"], "annotations": {FORGOTTEN_ANNOTATION: moment}}}
        await self._client.patch(make_path("namespaces", name=metadata["name"]), patch)


def _get_names(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["name"], manifest["metadata"]["namespace"]
