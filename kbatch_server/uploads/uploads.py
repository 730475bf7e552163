"""Takes the code that users send, checks it, keeps it for as long as it may be needed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from jupyterhub.traitlets import ByteSpecification
from traitlets import Instance, Integer, default
from traitlets.config import LoggingConfigurable

from ..audit import AuditEntry
from ..errors import InsufficientStorage, TooLarge, TooManyRequests, Unavailable
from ..metrics import LIMITS_HELD, UPLOADED_BYTES, UPLOADS
from ..models.times import utcnow
from ..models.upload import Upload, make_upload_key
from ..models.user import User
from ..ratelimit import ConcurrencyLimit, FairLimit, RateLimit
from ..slugs import make_upload_id
from ..storage.base import ObjectNotFound, Storage, StorageError, StorageFull
from ..storage.diskspace import DiskSpace
from ..store import Store
from .zipcheck import Archive, Reader, check_archive, rewrite_archive

CHECKS = 2
"""How many ZIPs are checked at a time: each inflates, which takes a processor."""

CHECK_SECONDS = 600
"""How long it may take to check one: ten times what 10 GiB need."""

CHECK_WAIT_SECONDS = 600
"""How long one may wait for its turn to be checked."""

HOUR_SECONDS = 3600

DECODINGS = 2
"""How many large bodies of JSON with code in it are in memory at a time as more than they came."""

SETTLE_SECONDS = 10
"""How long to wait at the end for what was broken off to be cleared away."""


class Uploads(LoggingConfigurable):
    """The ZIPs of code: each an object in the storage and a row in the store, and never one alone."""

    max_upload_bytes = Integer(
        2**30,
        min=1,
        help="""The maximum size, in bytes, of one ZIP. The service streams it: a larger ZIP needs no more
        memory.
        """,
        config=True,
    )

    upload_ttl_seconds = Integer(
        7 * 24 * 3600,
        min=60,
        help="""Seconds after which the service removes an upload that no job uses, since somebody last sent
        it.
        """,
        config=True,
    )

    max_upload_seconds = Integer(
        3600,
        min=1,
        help="""Seconds within which a client must send a ZIP; the service rejects slower ones.""",
        config=True,
    )

    concurrent_uploads_per_user = Integer(
        4,
        min=1,
        help="""The maximum number of ZIPs that a user may send at the same time; one more gets 429.

        The JSON of a job with code in it counts as well if it is larger than a megabyte.
        """,
        config=True,
    )

    concurrent_uploads = Integer(
        32,
        min=1,
        help="""The maximum number of ZIPs that all users may send at the same time; one more gets 503.

        Each takes a few megabytes of memory, with some storages up to 16.
        """,
        config=True,
    )

    inflated_bytes_per_hour = ByteSpecification(
        100 * 2**30,
        help="""The average size, in bytes, of unpacked ZIPs that the service checks for one user per hour.

        An integer, or a string like ``100G``. A ZIP that would exceed it gets 429. Each replica counts
        separately. A check inflates the whole ZIP, which takes about four seconds per GiB. Users take turns,
        and the service checks one ZIP per user at a time.
        """,
        config=True,
    )

    disk = Instance(DiskSpace)
    storage = Instance(Storage)
    store = Instance(Store)

    @default("disk")
    def _default_disk(self) -> DiskSpace:
        return DiskSpace(parent=self.parent, storage=self.storage, store=self.store)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._places = ConcurrencyLimit(
            per_user=self.concurrent_uploads_per_user,
            total=self.concurrent_uploads,
            limit="concurrent_uploads",
            what="uploads",
        )
        self._checks = FairLimit(
            per_user=1, total=CHECKS, limit="concurrent_checks", what="checks of uploads"
        )
        bytes_per_hour = int(self.inflated_bytes_per_hour)
        self._inflated = RateLimit(per_second=bytes_per_hour / HOUR_SECONDS, burst=bytes_per_hour)
        self._under_way: set[asyncio.Task[Any]] = set()
        self.decoding = asyncio.Semaphore(DECODINGS)
        """Held by who has a job's JSON with code in it in memory, in more than one form."""

    def place(self, user: User) -> AbstractContextManager[None]:
        """Hold one of the user's places, for an upload that comes from outside.

        Raises TooManyRequests, and Unavailable when all places of everybody are taken.
        """
        return self._places.take(user.name)

    async def receive(
        self, user: User, chunks: AsyncIterable[bytes], *, declared_size: int | None = None
    ) -> Upload:
        """Keep the ZIP that ``chunks`` yields, and return its upload.

        The same content sent again by the same user is the earlier upload, kept for the full time again.
        Raises TooLarge, InvalidRequest (what is wrong with the ZIP), InsufficientStorage, Unavailable (the
        storage) and TooManyRequests. Whatever
        is raised, and when this is cancelled, nothing is left of it.
        """
        if declared_size is not None and declared_size > self.max_upload_bytes:
            raise TooLarge.of_body(self.max_upload_bytes, size=declared_size)
        await self.disk.check(declared_size or 0)
        counted = _Counted(chunks, self.max_upload_bytes)
        upload = self._make_upload(user, counted)
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            with _unavailable():
                await self.storage.write(upload.key, counted)
                upload = self._make_upload(user, counted, upload_id=upload.id)
                kept = await self._accept(upload)
        except BaseException:
            await self._discard(upload)
            raise
        finally:
            if task is not None:
                self._under_way.discard(task)
        UPLOADS.inc()
        UPLOADED_BYTES.inc(kept.size)
        self.log.info("upload %s: %d bytes from %s", kept.id, kept.size, kept.user)
        return kept

    async def _accept(self, upload: Upload) -> Upload:
        """Return the upload to be used for what was just written: a new one, or the user's earlier one."""
        earlier = await self.store.uploads.renew(upload)
        if earlier is not None and await self._is_whole(earlier):
            await self._delete(upload)
            return earlier
        upload, plain = await self._check(upload)
        if plain is None:
            return await self._keep(upload)
        try:
            kept = await self._keep(plain)
            await self._delete(upload)
        except BaseException:
            await self._discard(plain)
            raise
        return kept

    async def settle(self) -> None:
        """Wait until what was broken off is cleared away: at the end, when nothing more comes in."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=SETTLE_SECONDS)

    async def get(self, user: User, upload_id: str) -> Upload:
        """Return an upload of the user's, or raise NotFound."""
        return await self.store.uploads.get(upload_id, user=user.name)

    def read(self, upload: Upload, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the ZIP's bytes from ``start``, ``length`` of them or all; raises StorageError."""
        return self.storage.read(upload.key, start=start, length=length)

    async def delete_expired(self, upload_id: str, *, audit: AuditEntry | None = None) -> bool:
        """Delete an upload that has expired and return True; False when a job names it, or it was sent again.

        Raises StorageError; the upload can be used no more then, and this is to be called again.
        """
        if not await self.store.uploads.begin_delete(upload_id, now=utcnow(), audit=audit):
            return False
        await self.storage.delete(make_upload_key(upload_id))
        await self.store.uploads.delete(upload_id)
        return True

    def _make_upload(self, user: User, counted: _Counted, *, upload_id: str = "") -> Upload:
        """Return the upload of the bytes that were counted."""
        now = utcnow()
        return Upload(
            upload_id or make_upload_id(),
            user.name,
            counted.size,
            counted.sha256,
            now,
            now + timedelta(seconds=self.upload_ttl_seconds),
            code_size=counted.size,
            code_sha256=counted.sha256,
        )

    def _reader(self, upload: Upload) -> Reader:
        """Return what reads a part of an upload's object."""
        return lambda start, length: self.read(upload, start=start, length=length)

    async def _check(self, upload: Upload) -> tuple[Upload, Upload | None]:
        """Return the upload with what the ZIP told, and another where the ZIP had to be written anew.

        Raises InvalidRequest, TooManyRequests, Unavailable, StorageError.
        """

        def admit(size: int) -> None:
            wait_seconds = self._inflated.take(upload.user, size)
            if wait_seconds:
                LIMITS_HELD.labels("inflated_bytes_per_hour").inc()
                raise TooManyRequests(
                    (
                        f"Your ZIPs of this hour exceed the limit of {self.inflated_bytes_per_hour} "
                        f"unpacked bytes: send this one again in {wait_seconds} s."
                    ),
                    details={"limit": self.inflated_bytes_per_hour},
                    retry_after_seconds=wait_seconds,
                )

        with self._in_time(upload):
            async with self._checks.take(upload.user, wait_seconds=CHECK_WAIT_SECONDS):
                async with asyncio.timeout(CHECK_SECONDS):
                    archive = await check_archive(upload.size, self._reader(upload), admit=admit)
                # in a thread: both look at each entry, of which a ZIP may have very many
                top_folder = await asyncio.to_thread(archive.directory.tree.find_top_folder)
                is_plain = await asyncio.to_thread(lambda: archive.directory.is_plain)
                upload = replace(upload, top_folder=top_folder)
                if is_plain:
                    return upload, None
                return upload, await self._write_plain(upload, archive)

    async def _write_plain(self, upload: Upload, archive: Archive) -> Upload:
        """Write a ZIP anew, and return the upload of that."""
        plain = replace(upload, id=make_upload_id())
        counted = _Counted(rewrite_archive(archive, self._reader(upload)))
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.storage.write(plain.key, counted)
        except BaseException:
            await self._discard(plain)
            raise
        return replace(plain, code_size=counted.size, code_sha256=counted.sha256)

    @contextlib.contextmanager
    def _in_time(self, upload: Upload) -> Iterator[None]:
        """Say to the user that it took too long."""
        try:
            yield
        except TimeoutError:
            self.log.warning("upload %s: not checked in time", upload.id)
            raise Unavailable("The ZIP could not be checked in time. Send it again later.") from None

    async def _keep(self, upload: Upload) -> Upload:
        """Record an upload and return it, or the earlier one of the same content, whose object is there."""
        kept = await self.store.uploads.add(upload)
        if kept.id != upload.id:
            if kept.code_sha256 == upload.code_sha256 and not await self._is_whole(kept):
                self.log.warning("upload %s: its object was missing, and is restored", kept.id)
                await self.storage.write(kept.key, self.read(upload))
            await self._delete(upload)
        return kept

    async def _is_whole(self, upload: Upload) -> bool:
        try:
            return await self.storage.get_size(upload.key) == upload.code_size
        except ObjectNotFound:
            return False

    async def _discard(self, upload: Upload) -> None:
        """Leave nothing of an upload that was not accepted, also when this is cancelled once more."""
        task = asyncio.create_task(self._withdraw(upload), name=f"discard-{upload.id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _withdraw(self, upload: Upload) -> None:
        try:
            if await self.store.uploads.withdraw(upload):
                await self._delete(upload)
        except Unavailable as error:  # its row, if there is one, expires; its object, if not, is an orphan
            self.log.warning("upload %s: rejected, but its record could not be removed: %s", upload.id, error)

    async def _delete(self, upload: Upload) -> None:
        """Delete an object that has no row; one that cannot be deleted is collected later."""
        try:
            await self.storage.delete(upload.key)
        except StorageError as error:
            self.log.warning(
                "upload %s: rejected, but its object could not be deleted yet: %s", upload.id, error
            )


class _Counted:
    """The chunks as they pass, their size and their SHA-256."""

    def __init__(self, chunks: AsyncIterable[bytes], limit: int | None = None) -> None:
        self._chunks = chunks
        self._limit = limit
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self._limit is not None and self.size > self._limit:
                raise TooLarge.of_body(self._limit, received=self.size)
            self._hash.update(chunk)
            yield chunk


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    """Say to the user what the storage says."""
    try:
        yield
    except StorageFull as error:
        raise InsufficientStorage(
            "The storage is full. Tell an admin of the hub.", retry_after_seconds=600
        ) from error
    except StorageError as error:
        raise Unavailable("The storage does not respond. Try again in a moment.") from error
