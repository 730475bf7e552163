"""Takes the code that users send, checks it, keeps it for as long as it may be needed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from datetime import timedelta

from traitlets import Instance, Integer
from traitlets.config import LoggingConfigurable

from .archive import check_archive
from .errors import TooLarge, Unavailable
from .models import Upload, User, utcnow
from .slugs import make_upload_id
from .storage.base import ObjectNotFound, Storage, StorageError, StorageFull
from .store import JobStore


class Uploads(LoggingConfigurable):
    """The ZIPs of code: each an object in the storage and a row in the store, and never one alone."""

    max_upload_bytes = Integer(
        2**30,
        min=1,
        help="""Bytes of one ZIP at most. It is streamed: the memory that is needed does not depend on it.""",
        config=True,
    )

    upload_ttl_seconds = Integer(
        7 * 24 * 3600,
        min=60,
        help="""Seconds that an upload is kept after it was last sent; one that a job names stays.""",
        config=True,
    )

    storage = Instance(Storage)
    store = Instance(JobStore)

    async def receive(
        self, user: User, chunks: AsyncIterable[bytes], *, declared_size: int | None = None
    ) -> Upload:
        """Keep the ZIP that ``chunks`` yields, and return its upload.

        The same content sent again by the same user is the earlier upload, kept for the full time again.
        Raises TooLarge, InvalidRequest (what is wrong with the ZIP) and Unavailable (the storage). Whatever
        is raised, and when this is cancelled, nothing is left of it.
        """
        if declared_size is not None:
            self._check_size(declared_size)
        now = utcnow()
        expires_at = now + timedelta(seconds=self.upload_ttl_seconds)
        counted = _Counted(chunks, self._check_size)
        upload_id = make_upload_id()
        upload = Upload(upload_id, user.name, 0, "", now, expires_at)
        try:
            with _unavailable():
                await self.storage.write(upload.key, counted)
                await check_archive(
                    counted.size,
                    lambda start, length: self.storage.read(upload.key, start=start, length=length),
                )
                upload = Upload(upload_id, user.name, counted.size, counted.sha256, now, expires_at)
                earlier = await self._find_same(upload)
                if earlier is not None:
                    await self.storage.delete(upload.key)
                    return earlier
                await self.store.add_upload(upload)
        except BaseException:
            await asyncio.shield(self._discard(upload))
            raise
        self.log.info("upload %s: %d bytes from %s", upload.id, upload.size, upload.user)
        return upload

    async def get(self, user: User, upload_id: str) -> Upload:
        """Return an upload of the user's, or raise NotFound."""
        return await self.store.get_upload(upload_id, user=user.name)

    def read(self, upload: Upload, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the ZIP's bytes from ``start``, ``length`` of them or all; raises StorageError."""
        return self.storage.read(upload.key, start=start, length=length)

    async def collect(self) -> int:
        """Delete the uploads that have expired and that no job needs, and return how many."""
        now = utcnow()
        count = 0
        for upload in await self.store.list_expired_uploads(now):
            if not await self.store.begin_delete_upload(upload.id, now=now):
                continue  # sent again, or named by a job, in the meantime
            try:
                await self.storage.delete(upload.key)
            except StorageError as error:
                self.log.warning("upload %s: not deleted, trying again later: %s", upload.id, error)
                continue
            await self.store.delete_upload(upload.id)
            count += 1
        if count:
            self.log.info("%d expired uploads deleted", count)
        return count

    def _check_size(self, size: int) -> None:
        if size > self.max_upload_bytes:
            raise TooLarge(
                f"The upload has more than {self.max_upload_bytes} bytes, which is the limit.",
                details={"limit": self.max_upload_bytes, "size": size},
            )

    async def _find_same(self, upload: Upload) -> Upload | None:
        """Return the user's earlier upload of the same content, kept as long as the new one would be."""
        earlier = await self.store.find_upload_by_sha256(upload.user, upload.sha256)
        if earlier is None:
            return None
        try:
            await self.storage.get_size(earlier.key)
        except ObjectNotFound:  # the storage was changed or emptied
            return None
        return await self.store.extend_upload(earlier.id, expires_at=upload.expires_at)

    async def _discard(self, upload: Upload) -> None:
        """Leave nothing of an upload that was not accepted."""
        try:
            await self.store.delete_upload(upload.id)
            await self.storage.delete(upload.key)
        except (StorageError, Unavailable):
            self.log.warning("upload %s: not accepted, and not deleted either", upload.id, exc_info=True)


class _Counted:
    """The chunks as they pass, their size and their SHA-256."""

    def __init__(self, chunks: AsyncIterable[bytes], check_size: Callable[[int], None]) -> None:
        self._chunks = chunks
        self._check_size = check_size
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            self._check_size(self.size)
            self._hash.update(chunk)
            yield chunk


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Say to the user what the storage says."""
    try:
        yield
    except StorageFull as error:
        raise Unavailable(
            "The storage is full. Tell the admin of the hub.", retry_after_seconds=600
        ) from error
    except StorageError as error:
        raise Unavailable("The storage does not answer now. Try again in a moment.") from error
