"""Keeps objects in a container of Azure Blob Storage."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

from traitlets import Unicode, default

from ..models import utcnow
from .base import ObjectNotFound, Storage, StorageError
from .pieces import check_key, regroup

PIECE_BYTES = 4 * 2**20
"""One block: a blob has at most 50,000 of them, 195 GiB with this size."""

TIMEOUT_SECONDS = 60
"""The longest wait for the service's next byte."""


class AzureBlobStorage(Storage):
    """A container of blobs, named by their keys.

    It is used with the account's key, or with a SAS token that may read, create, write and delete in the
    container. Only with the key can it sign URLs, so that jobs fetch their code from Azure itself: the
    account's SAS token is never handed out.
    """

    account_name = Unicode(
        help="""The storage account's name. Default: the environment's AZURE_ACCOUNT_NAME.""", config=True
    )

    @default("account_name")
    def _default_account_name(self) -> str:
        return os.environ.get("AZURE_ACCOUNT_NAME", "")

    container = Unicode(
        help="""The container's name; it must be there. Default: the environment's AZURE_CONTAINER.""",
        config=True,
    )

    @default("container")
    def _default_container(self) -> str:
        return os.environ.get("AZURE_CONTAINER", "")

    sas_token = Unicode(
        help="""A SAS token for the container. Default: the environment's AZURE_SAS_TOKEN.

        It needs the permissions read, create, write and delete (``rcwd``). Not used when there is an
        ``account_key``.
        """,
        config=True,
    )

    @default("sas_token")
    def _default_sas_token(self) -> str:
        return os.environ.get("AZURE_SAS_TOKEN", "")

    account_key = Unicode(
        help="""The account's key, which can also sign the URLs that jobs fetch their code from.""",
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

    _client: Any = None

    async def open(self) -> None:
        """Make the client; raises StorageError for a missing setting, or the missing package."""
        try:
            from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
            from azure.storage.blob.aio import ContainerClient
        except ImportError as error:
            raise StorageError(
                "AzureBlobStorage needs more packages: pip install kbatch-server[azure]"
            ) from error

        for name, variable in (("account_name", "AZURE_ACCOUNT_NAME"), ("container", "AZURE_CONTAINER")):
            if not getattr(self, name):
                raise StorageError(f"AzureBlobStorage.{name} (or {variable} in the environment) must be set")
        credential: Any
        if self.account_key:
            credential = AzureNamedKeyCredential(self.account_name, self.account_key)
        elif self.sas_token:
            credential = AzureSasCredential(self.sas_token.removeprefix("?"))
        else:
            raise StorageError(
                "AzureBlobStorage.account_key or sas_token (or AZURE_SAS_TOKEN in the environment) is missing"
            )
        self._client = ContainerClient(
            self.endpoint,
            self.container,
            credential=credential,
            connection_timeout=TIMEOUT_SECONDS,
            read_timeout=TIMEOUT_SECONDS,
            retry_total=3,
            # never a larger piece in memory than this
            max_single_get_size=PIECE_BYTES,
            max_chunk_get_size=PIECE_BYTES,
        )

    async def close(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            await self._client.close()

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Keep what ``chunks`` yields under ``key`` and return its size in bytes.

        Blocks that are never made into a blob cannot be read, and Azure drops them after a week.
        """
        blob = self._blob(key)
        blocks: list[str] = []
        size = 0
        async for piece in regroup(chunks, PIECE_BYTES):
            block = base64.b64encode(b"%08d" % len(blocks)).decode()
            with _mapped_errors():
                # a file, which aiohttp sends bit by bit: bytes it would send in one go
                await blob.stage_block(block, io.BytesIO(piece), length=len(piece))
            blocks.append(block)
            size += len(piece)
        try:
            with _mapped_errors():
                await blob.commit_block_list(blocks)
        except asyncio.CancelledError:  # it may have been made, and nobody was told
            await asyncio.shield(self.delete(key))
            raise
        return size

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the object's bytes, or raise ObjectNotFound."""
        if length == 0:
            await self.get_size(key)
            return
        with _mapped_errors(past_end_is_empty=True):
            stream = await self._blob(key).download_blob(offset=start, length=length)
            async for piece in stream.chunks():
                yield piece

    async def get_size(self, key: str) -> int:
        """Return the object's size in bytes, or raise ObjectNotFound."""
        with _mapped_errors():
            return int((await self._blob(key).get_blob_properties()).size)

    async def delete(self, key: str) -> None:
        """See to it that there is no object with that key."""
        with contextlib.suppress(ObjectNotFound), _mapped_errors():
            await self._blob(key).delete_blob()

    async def make_url(self, key: str, *, expires_in_seconds: int) -> str | None:
        """Return a URL that reads this one blob, or None when there is only the account's SAS token."""
        if not self.account_key:
            return None
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        signature = generate_blob_sas(
            self.account_name,
            self.container,
            check_key(key),
            account_key=self.account_key,
            permission=BlobSasPermissions(read=True),
            expiry=utcnow() + timedelta(seconds=expires_in_seconds),
            protocol="https" if self.endpoint.startswith("https:") else None,
        )
        return f"{self._blob(key).url}?{signature}"

    def _blob(self, key: str) -> Any:
        return self._client.get_blob_client(check_key(key))


@contextlib.contextmanager
def _mapped_errors(*, past_end_is_empty: bool = False) -> Iterator[None]:
    """Turn Azure's errors into ours. Theirs are cut off, as their text may hold a URL with its signature."""
    from azure.core.exceptions import AzureError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        code = getattr(error, "error_code", None) or error.reason
        if code == "BlobNotFound":
            raise ObjectNotFound("there is no such object in the storage") from None
        if not (past_end_is_empty and error.status_code == 416):
            raise StorageError(f"Azure Blob Storage answered {error.status_code} {code}") from None
    except AzureError as error:
        raise StorageError(f"Azure Blob Storage does not answer ({type(error).__name__})") from None
