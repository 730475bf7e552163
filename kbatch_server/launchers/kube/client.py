"""A client of the Kubernetes API: manifests as plain dicts, and a timeout for every request.

Configuration, TLS and authentication come from the official client (``kubernetes.aio``). Its typed methods
are not used: they parse each object into pydantic models and drop the fields that they do not know, which an
admin's hook may have set.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.client.rest import RESTClientObject

from ...connector import Connector
from ...models.times import utcnow
from .manifests.manifest import Manifest

_PATHS = {
    "namespaces": "/api/v1/",
    "secrets": "/api/v1/",
    "pods": "/api/v1/",
    "events": "/api/v1/",
    "persistentvolumeclaims": "/api/v1/",
    "jobs": "/apis/batch/v1/",
    # in users' namespaces
    "limitranges": "/api/v1/",
    "resourcequotas": "/api/v1/",
    "serviceaccounts": "/api/v1/",
    "services": "/api/v1/",
    "cronjobs": "/apis/batch/v1/",
    "deployments": "/apis/apps/v1/",
    "statefulsets": "/apis/apps/v1/",
    "networkpolicies": "/apis/networking.k8s.io/v1/",
    "roles": "/apis/rbac.authorization.k8s.io/v1/",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1/",
}

_CONNECT_SECONDS = 10

SAME_CLOCK = timedelta(seconds=30)
"""Clocks that differ by no more than this count as the same: HTTP's date has whole seconds, and takes its
time."""

_BUSY = frozenset({401, 408, 429})
"""Statuses in addition to 5xx that say nothing about the request itself; 401 is our own token, which is read
again soon."""


class KubeError(Exception):
    """The API did not do what was requested; the message can be shown to an admin."""


class KubeUnavailable(KubeError):
    """The API is unreachable or too busy: try again later."""


READ_BYTES = 2**16
"""The buffer for an answer that nobody reads just now, such as a log while the storage is down, holds up to
twice this. The library's own 2 MiB would be four for each job that prints a lot."""


class KubeRefused(KubeError):
    """The API rejected the request, with its HTTP ``status``, Kubernetes's ``reason`` and its message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def make_path(kind: str, namespace: str = "", name: str = "") -> str:
    """Return the API's path of a kind like ``jobs``, in one namespace or all, or of one object."""
    path = _PATHS[kind]
    if namespace and kind != "namespaces":
        path += f"namespaces/{namespace}/"
    return path + kind + (f"/{name}" if name else "")


async def load_configuration(kubeconfig: str = "", context: str = "") -> Configuration:
    """Return the configuration of a kubeconfig file, of the service's own pod, or of the default file.

    ``kubeconfig`` has precedence; ``context`` selects one in the file. Raises ``config.ConfigException``.
    """
    # type.__call__: a plain call of the class returns a copy of the process-wide default
    found: Configuration = type.__call__(Configuration)
    found.connection_pool_maxsize = 0  # no limit: a hundred followed logs must not hold up a poll
    if kubeconfig or context or not _load_incluster(found):
        await config.load_kube_config(
            config_file=kubeconfig or None,
            context=context or None,
            client_configuration=found,
            persist_config=False,
        )
    # for each request, aiohttp would look for a proxy, and read ~/.netrc in a thread: half of its time
    found.client_session_kwargs = {"trust_env": False, "read_bufsize": READ_BYTES}
    found.proxy = found.proxy or find_proxy(found.host)
    return found


def _load_incluster(found: Configuration) -> bool:
    """Load the configuration of the service's own pod; return False outside of a pod."""
    try:
        config.load_incluster_config(client_configuration=found)
    except config.ConfigException:
        return False
    return True


def find_proxy(url: str) -> str | None:
    """Return the proxy for a URL from the environment (``HTTPS_PROXY``, ``NO_PROXY``), or None."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


class RESTClient(RESTClientObject):
    """The library's connection pool, with our connector."""

    def _create_connector(self) -> Connector:
        return Connector(limit=self.maxsize, ssl=self.ssl_context)


class KubeClient:
    """One connection pool to one API server. ``request_timeout_seconds`` limits each plain request."""

    def __init__(self, configuration: Configuration, *, request_timeout_seconds: float = 30) -> None:
        self._api = ApiClient(configuration)
        self._api.rest_client = RESTClient(configuration)
        self.ahead = timedelta()
        """How far this machine's clock was ahead of the API server's, which sets the times of objects, at its
        last answer."""
        self._timeout = aiohttp.ClientTimeout(
            total=request_timeout_seconds, sock_connect=min(_CONNECT_SECONDS, request_timeout_seconds)
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._api.close()

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> Manifest:
        """Return an object or a list; raises KubeRefused (404) if it does not exist."""
        return await self._request("GET", path, query=query)

    async def find(self, path: str) -> Manifest | None:
        """Return an object, or None if the API reports that it does not exist."""
        try:
            return await self.get(path)
        except KubeRefused as error:
            if error.status == 404:
                return None
            raise

    async def ensure_created(
        self, path: str, manifest: Manifest, *, is_ours: Callable[[Manifest], bool]
    ) -> tuple[Manifest, bool]:
        """Create an object unless it exists; return the object, and whether it is new.

        Only here may "already exists" (409) be a success: if ``is_ours`` accepts the existing object.
        Otherwise this raises KubeRefused.
        """
        try:
            return await self._request("POST", path, body=manifest), True
        except KubeRefused as error:
            if error.status != 409:
                raise
        name = manifest["metadata"]["name"]
        found = await self.find(f"{path}/{name}")
        if found is None:
            raise KubeUnavailable(f"{path}/{name} is still being deleted")
        if not is_ours(found):
            raise KubeRefused(
                409, "AlreadyExists", f"{path}/{name} exists and was not created by this service"
            )
        return found, False

    async def ensure_deleted(
        self, path: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Delete an object and its dependents; no error if it does not exist (404).

        With ``uid`` it deletes only this very object, and no other with the same name. ``grace_seconds`` is
        the grace period of a pod.
        """
        options: Manifest = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self._request("DELETE", path, body=options)
        except KubeRefused as error:
            if error.status != 404 and not (uid and error.status == 409):
                raise

    async def replace(self, path: str, manifest: Manifest) -> Manifest:
        """Replace an existing object by a whole one."""
        return await self._request("PUT", path, body=manifest)

    async def patch(self, path: str, patch: Manifest) -> Manifest:
        """Change an object by a JSON merge patch (RFC 7386)."""
        return await self._request("PATCH", path, body=patch)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, Any], *, silence_seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open a response whose body is read as it arrives; leaving the block closes its connection.

        After ``silence_seconds`` without a byte, headers included, the connection counts as dead. Errors of
        the connection inside the block, too, are raised as KubeUnavailable.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence_seconds)
        with _connection_errors(path):
            response = await self._send("GET", path, query, None, timeout)
            try:
                if response.status != 200:
                    raise _make_error(path, response.status, await response.content.read(65536))
                yield response.content
            finally:
                response.close()

    async def _request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Manifest | None = None
    ) -> Manifest:
        with _connection_errors(path):
            response = await self._send(method, path, query, body, self._timeout)
            async with response:
                data = await response.read()
        if response.status >= 300:
            raise _make_error(path, response.status, data)
        try:
            parsed: Manifest = json.loads(data)
        except ValueError:
            raise KubeUnavailable(f"{path}: the answer is not JSON") from None
        return parsed

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Manifest | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        prepared = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(*prepared, _request_timeout=timeout)
        sent: aiohttp.ClientResponse = response.response
        self.ahead = measure_ahead(sent.headers.get("Date"), utcnow())
        return sent


def measure_ahead(date: str | None, now: datetime) -> timedelta:
    """Return how far this clock (``now``) is ahead of the one that wrote ``date`` (in HTTP's format).

    Returns zero if that is unknown, or no more than an answer may take: then the clocks count as the same.
    """
    try:
        ahead = now - parsedate_to_datetime(date or "")
    except (ValueError, TypeError):  # none, not a date, or one without a zone
        return timedelta()
    return ahead if abs(ahead) > SAME_CLOCK else timedelta()


@contextmanager
def _connection_errors(path: str) -> Iterator[None]:
    """Turn errors of a connection into KubeUnavailable."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as error:
        raise KubeUnavailable(f"{path}: {str(error) or type(error).__name__}") from error


def _make_error(path: str, status: int, body: bytes) -> KubeError:
    """Return the error in an answer: a Kubernetes Status, or the response of a proxy in between."""
    try:
        said = json.loads(body)
        is_status = said.get("kind") == "Status"
        reason, message = str(said.get("reason") or ""), str(said.get("message") or "")
    except (ValueError, AttributeError):
        is_status, reason, message = False, "", ""
    # only Kubernetes's own answer says that an object does not exist: a proxy's 404 must not end a job
    if status >= 500 or status in _BUSY or not is_status:
        return KubeUnavailable(f"{path}: {status} {message or reason}".rstrip())
    return KubeRefused(status, reason or f"HTTP{status}", message or f"{path}: {status}")
