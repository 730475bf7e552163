"""Stores objects in a container of Azure Blob Storage."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from traitlets import Bool, Integer, Unicode, default

from ..connector import Connector, closing_on_error
from ..models.times import utcnow
from .base import ObjectNotFound, Storage, StorageError, StoredObject
from .pieces import check_key, check_prefix, is_key, regroup
from .remote import ServiceRefused, finish, make_error

PIECE_BYTES = 4 * 2**20
"""The size of a block: a blob has at most 50,000 of them, 195 GiB with this size."""

PAGE_OBJECTS = 1000

MISSING_PACKAGES = "AzureBlobStorage needs more packages: pip install kbatch-server[azure]"

MAX_URL_SECONDS = 7 * 86400
"""The maximum validity of a user delegation key, with which an identity signs URLs, and so of these URLs: a
week."""

CLOCK_SKEW = timedelta(minutes=5)

Result = TypeVar("Result")


class AzureBlobStorage(Storage):
    """A container of blobs, named by their keys.

    It needs the account's key, a SAS token that may read, create, write, delete and list in the container, or
    an identity that Azure gives to the service. With the key or the identity it can sign URLs, so that jobs
    fetch their code from Azure directly. It never gives a SAS token to jobs.
    """

    account_name = Unicode(
        help="""The storage account's name. Default: the environment variable AZURE_ACCOUNT_NAME.""",
        config=True,
    )

    @default("account_name")
    def _default_account_name(self) -> str:
        return os.environ.get("AZURE_ACCOUNT_NAME", "")

    container = Unicode(
        help="""The container's name. The container must exist. Default: the environment variable
        AZURE_CONTAINER.
        """,
        config=True,
    )

    @default("container")
    def _default_container(self) -> str:
        return os.environ.get("AZURE_CONTAINER", "")

    sas_token = Unicode(
        help="""A SAS token for the container. Default: the environment variable AZURE_SAS_TOKEN.

        It needs the permissions read, create, write, delete and list (``rcwdl``). The service ignores it if
        ``account_key`` is set.
        """,
        config=True,
    )

    @default("sas_token")
    def _default_sas_token(self) -> str:
        return os.environ.get("AZURE_SAS_TOKEN", "")

    account_key = Unicode(
        help="""The account's key. It can also sign the URLs from which jobs fetch their code.""",
        config=True,
    )

    endpoint = Unicode(
        help="""The URL of the account's blobs, for a sovereign cloud, a private endpoint or Azurite.

        Default: ``https://{account_name}.blob.core.windows.net``.
        """,
        config=True,
    )

    @default("endpoint")
    def _default_endpoint(self) -> str:
        return f"https://{self.account_name}.blob.core.windows.net"

    use_identity = Bool(
        help="""Sign in with the identity that Azure gives to the service, without a key or a SAS token.

        The service uses what azure-identity finds: a workload identity, a service principal in the
        environment, or the machine's managed identity. The identity needs the role Storage Blob Data
        Contributor, and for signed URLs Storage Blob Delegator. Default: True if the environment variable
        AZURE_CLIENT_ID exists. The service ignores this if ``account_key`` or ``sas_token`` is set.
        """,
        config=True,
    )

    @default("use_identity")
    def _default_use_identity(self) -> bool:
        return "AZURE_CLIENT_ID" in os.environ

    endpoint_for_jobs = Unicode(
        help="""The URL of the account's blobs from inside a job, for signed URLs. Default: ``endpoint``.""",
        config=True,
    )

    sign_urls = Bool(
        True,
        help="""Let jobs fetch their code from Azure directly, with a URL that can only read this one blob.

        If jobs cannot reach the account, set this to False: then jobs fetch their code from the service, as
        they do with a SAS token.
        """,
        config=True,
    )

    ca_file = Unicode(
        help="""A PEM file with the CA certificates for the endpoint, in place of the system's.""",
        config=True,
    )

    timeout_seconds = Integer(
        60,
        min=1,
        help="""Seconds after which a request to Azure fails, including its retries.""",
        config=True,
    )

    _service: Any = None
    _client: Any = None
    _credential: Any = None
    _delegation_key: Any = None
    _delegation_ends_at = datetime.min.replace(tzinfo=UTC)

    async def open(self) -> None:
        """Create the client; raises StorageError for a missing setting, or the missing package."""
        try:
            from azure.storage.blob.aio import BlobServiceClient
        except ImportError as error:
            raise StorageError(MISSING_PACKAGES) from error

        for name, variable in (("account_name", "AZURE_ACCOUNT_NAME"), ("container", "AZURE_CONTAINER")):
            if not getattr(self, name):
                raise StorageError(f"AzureBlobStorage.{name} (or {variable} in the environment) must be set")
        if self.ca_file and not await asyncio.to_thread(Path(self.ca_file).is_file):
            raise StorageError(f"AzureBlobStorage.ca_file: file not found: {self.ca_file!r}")
        self._credential = self._make_credential()
        self._delegation_lock = asyncio.Lock()
        options = self._make_client_options()
        self._service = BlobServiceClient(
            self.endpoint, credential=self._credential, transport=_make_transport(options), **options
        )
        self._client = self._service.get_container_client(self.container)

    def _make_credential(self) -> Any:
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

        if self.account_key:
            return AzureNamedKeyCredential(self.account_name, self.account_key)
        if self.sas_token:
            return AzureSasCredential(self.sas_token.removeprefix("?"))
        if not self.use_identity:
            raise StorageError(
                "AzureBlobStorage.account_key, sas_token (or AZURE_SAS_TOKEN in the environment) "
                "or use_identity must be set"
            )
        try:
            from azure.identity.aio import DefaultAzureCredential
        except ImportError as error:
            raise StorageError(MISSING_PACKAGES) from error
        # on a server, nobody is signed in with a developer's tool
        return DefaultAzureCredential(
            exclude_cli_credential=True,
            exclude_developer_cli_credential=True,
            exclude_powershell_credential=True,
            exclude_shared_token_cache_credential=True,
            exclude_visual_studio_code_credential=True,
        )

    def _make_client_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "connection_timeout": min(10, self.timeout_seconds),
            # half of it, so that there is time for a second try
            "read_timeout": self.timeout_seconds / 2,
            "retry_total": 2,
            "initial_backoff": 1,
            "increment_base": 2,
            "random_jitter_range": 1,
            # never a larger piece in memory than this
            "max_single_get_size": PIECE_BYTES,
            "max_chunk_get_size": PIECE_BYTES,
        }
        if self.ca_file:
            options["connection_verify"] = self.ca_file
        return options

    async def close(self) -> None:
        """Close the client's connections."""
        if self._service is not None:
            await self._service.close()
        if hasattr(self._credential, "close"):
            await self._credential.close()

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Store the data of ``chunks`` under ``key`` and return its size in bytes.

        Blocks that do not become a blob cannot be read, and Azure deletes them after a week.
        """
        blob = self._blob(key)
        blocks: list[str] = []
        size = 0
        draft = secrets.token_hex(8)
        async for piece in regroup(chunks, PIECE_BYTES):
            block = base64.b64encode(f"{draft}{len(blocks):08}".encode()).decode()
            # as a file, which aiohttp sends in pieces; it would send bytes all at once
            await finish(self._ask(blob.stage_block(block, io.BytesIO(piece), length=len(piece))))
            blocks.append(block)
            size += len(piece)
        await finish(self._ask(blob.commit_block_list(blocks)))
        return size

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the object's bytes, or raise ObjectNotFound."""
        if length == 0:
            await self.get_size(key)
            return
        at = start
        end = None if length is None else start + length
        while end is None or at < end:
            try:
                async for piece in self._read_once(key, at, None if end is None else end - at):
                    yield piece
                    at += len(piece)
                return
            except ServiceRefused as error:
                if error.status == 416:  # nothing is there from here on
                    return
                if error.status != 412:
                    raise
                # the blob was replaced between two requests: continue with the new one

    async def _read_once(self, key: str, start: int, length: int | None) -> AsyncIterator[bytes]:
        stream = await self._ask(self._blob(key).download_blob(offset=start, length=length))
        pieces = stream.chunks()
        while piece := await self._ask(anext(pieces, b"")):
            yield piece

    async def get_size(self, key: str) -> int:
        """Return the object's size in bytes, or raise ObjectNotFound."""
        return int((await self._ask(self._blob(key).get_blob_properties())).size)

    async def delete(self, key: str) -> None:
        """Delete the object with that key, if it exists."""
        with contextlib.suppress(ObjectNotFound):
            await self._ask(self._blob(key).delete_blob())

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects in a folder like ``uploads/``, or all of them (``""``), in any order."""
        blobs = self._client.list_blobs(
            name_starts_with=check_prefix(prefix) or None, results_per_page=PAGE_OBJECTS
        )
        try:
            while (blob := await self._ask(anext(blobs, None))) is not None:
                if is_key(blob.name):
                    yield StoredObject(blob.name, blob.size, blob.last_modified)
        except ServiceRefused as error:
            if error.status == 403 and self.sas_token and not self.account_key:
                raise StorageError(
                    f"{error}: AzureBlobStorage.sas_token must have the permission to list (l)"
                ) from None
            raise

    async def make_url(self, key: str, *, expires_in_seconds: int) -> str | None:
        """Return a URL that reads this one blob; None with a SAS token, or unless ``sign_urls``."""
        check_key(key)
        if not self.sign_urls or (self.sas_token and not self.account_key):
            return None
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        expires_at = utcnow() + timedelta(seconds=expires_in_seconds)
        signer = {"account_key": self.account_key}
        if not self.account_key:
            expires_at = min(expires_at, utcnow() + timedelta(seconds=MAX_URL_SECONDS) - CLOCK_SKEW)
            signer = {"user_delegation_key": await self._get_delegation_key(expires_at)}
        endpoint = (self.endpoint_for_jobs or self.endpoint).rstrip("/")
        signature = generate_blob_sas(
            self.account_name,
            self.container,
            key,
            permission=BlobSasPermissions(read=True),
            expiry=expires_at,
            protocol="https" if endpoint.startswith("https:") else None,
            **signer,
        )
        return f"{endpoint}/{self.container}/{key}?{signature}"

    async def _get_delegation_key(self, until: datetime) -> Any:
        """Return a key for signing URLs that expire at ``until``: the latest one, if it lasts until then."""
        async with self._delegation_lock:
            if self._delegation_ends_at < until:
                ends_at = utcnow() + timedelta(seconds=MAX_URL_SECONDS)
                asked = self._service.get_user_delegation_key(utcnow() - CLOCK_SKEW, ends_at)
                self._delegation_key, self._delegation_ends_at = await self._ask(asked), ends_at
            return self._delegation_key

    async def _ask(self, call: Awaitable[Result]) -> Result:
        """Return Azure's answer; raises StorageError for Azure's errors, and for a timeout."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                with _mapped_errors(), closing_on_error():
                    return await call
        except TimeoutError:
            raise StorageError(
                f"Azure Blob Storage did not respond within {self.timeout_seconds} s"
            ) from None

    def _blob(self, key: str) -> Any:
        return self._client.get_blob_client(check_key(key))


def _make_transport(options: dict[str, Any]) -> Any:
    """Return azure-core's transport, with our connector; the rest is as azure-core makes it."""
    from aiohttp import ClientSession, DummyCookieJar
    from azure.core.pipeline.transport import AioHttpTransport

    session = ClientSession(
        connector=Connector(), cookie_jar=DummyCookieJar(), auto_decompress=False, trust_env=True
    )
    return AioHttpTransport(session=session, **options)


@contextlib.contextmanager
def _mapped_errors() -> Iterator[None]:
    """Turn Azure's errors into ours, without their text, which may contain a signed URL."""
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        code = getattr(error, "error_code", None) or error.reason
        if code == "BlobNotFound":
            raise ObjectNotFound("the object is not in the storage") from None
        if error.status_code is None:
            raise StorageError(
                "Azure issued no token: AzureBlobStorage.account_key and sas_token are not set, and "
                f"no identity is usable ({type(error).__name__})"
            ) from None
        code = getattr(code, "value", code) or ""  # some are of an enumeration
        raise make_error("Azure Blob Storage", error.status_code, code) from None
    except AzureError as error:
        raise StorageError(f"Azure Blob Storage does not respond ({type(error).__name__})") from None
