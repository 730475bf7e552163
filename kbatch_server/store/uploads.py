"""The records of uploads: the stored code, and when it expires."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, or_, select, update

from ..audit import AuditEntry
from ..errors import NotFound
from ..models.times import utcnow
from ..models.upload import Upload
from .audit import log_entry, put_entry
from .database import postgresql
from .database.database import Database
from .tables import jobs, uploads

_COLUMNS = (
    uploads.c.id,
    uploads.c.user,
    uploads.c.size,
    uploads.c.sha256,
    uploads.c.created_at,
    uploads.c.expires_at,
    uploads.c.code_size,
    uploads.c.code_sha256,
    uploads.c.top_folder,
)
_IS_KEPT = uploads.c.delete_requested_at.is_(None)
_IS_NAMED = exists().where(jobs.c.upload == uploads.c.id)


class UploadStore:
    """The rows of uploads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, upload: Upload) -> Upload:
        """Record an upload with its object, and return it, or the user's earlier one with this content.

        Of two simultaneous ones, one is the earlier. It then expires when the new one would have, and later
        than before, so that ``withdraw`` can tell that somebody else uses it.
        """

        def add(connection: Connection) -> Upload:
            earlier = self._renew(connection, upload)
            if earlier is None:
                connection.execute(
                    insert(uploads), {each.name: getattr(upload, each.name) for each in _COLUMNS}
                )
            return earlier or upload

        return await self._database.write(add)

    async def renew(self, upload: Upload) -> Upload | None:
        """Return the user's earlier upload with this content, or None.

        It then expires when this one would.
        """
        if await self.find_by_sha256(upload.user, upload.sha256) is None:
            return None
        return await self._database.write(lambda connection: self._renew(connection, upload))

    def _renew(self, connection: Connection, upload: Upload) -> Upload | None:
        if self._database.is_shared:
            postgresql.lock_word(connection, f"{upload.user} {upload.sha256}")
        same = uploads.c.user == upload.user, uploads.c.sha256 == upload.sha256, _IS_KEPT
        row = connection.execute(select(*_COLUMNS).where(*same).limit(1).with_for_update()).first()
        if row is None:
            return None
        earlier = _make_upload(row)
        expires_at = max(upload.expires_at, earlier.expires_at + timedelta(microseconds=1))
        connection.execute(update(uploads).where(uploads.c.id == earlier.id).values(expires_at=expires_at))
        return replace(earlier, expires_at=expires_at)

    async def withdraw(self, upload: Upload) -> bool:
        """Remove an upload that was (or was to be) added; return whether its object may be deleted.

        It may not if the same content was sent again in the meantime, and this upload was the answer.
        """
        mine = uploads.c.id == upload.id

        def withdraw(connection: Connection) -> bool:
            connection.execute(select(uploads.c.id).where(mine).with_for_update())
            unused = mine, uploads.c.expires_at == upload.expires_at, ~_IS_NAMED
            connection.execute(delete(uploads).where(*unused))
            return connection.execute(select(uploads.c.id).where(mine)).first() is None

        return await self._database.write(withdraw)

    async def get(self, upload_id: str, *, user: str) -> Upload:
        """Return an upload of this user; raises NotFound, also if it is being deleted."""
        upload = await self._find_upload(uploads.c.id == upload_id, uploads.c.user == user)
        if upload is None:
            raise NotFound(f"Upload {upload_id!r} not found.")
        return upload

    async def find_by_sha256(self, user: str, sha256: str) -> Upload | None:
        """Return the user's upload with this content, or None."""
        return await self._find_upload(uploads.c.user == user, uploads.c.sha256 == sha256)

    async def find_ids(self, upload_ids: Collection[str]) -> set[str]:
        """Return the ids with an existing upload, including uploads that are being deleted."""
        statement = select(uploads.c.id).where(uploads.c.id.in_(upload_ids))
        return await self._database.read(lambda connection: set(connection.scalars(statement)))

    async def list_expired(
        self, now: datetime, *, after: Upload | None = None, limit: int = 100
    ) -> list[Upload]:
        """Return expired uploads that no job uses, and those whose deletion has begun.

        ``after`` is the last upload of the previous page.
        """
        statement = (
            select(*_COLUMNS)
            .where(or_(~_IS_KEPT, uploads.c.expires_at < now), ~_IS_NAMED)
            .order_by(uploads.c.expires_at, uploads.c.id)
            .limit(limit)
        )
        if after is not None:
            end = uploads.c.expires_at
            is_later = (end > after.expires_at) | ((end == after.expires_at) & (uploads.c.id > after.id))
            statement = statement.where(is_later)
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_make_upload(row) for row in rows]

    async def begin_delete(self, upload_id: str, *, now: datetime, audit: AuditEntry | None = None) -> bool:
        """Return whether the upload's object may be deleted: it has expired and no job uses it.

        From then on no new job can use it, so that every accepted job has its code. The caller calls
        ``delete`` after deleting the object. The first call adds the audit entry.
        """
        lock = select(uploads.c.delete_requested_at).where(uploads.c.id == upload_id).with_for_update()
        statement = (
            update(uploads)
            .where(uploads.c.id == upload_id, or_(~_IS_KEPT, uploads.c.expires_at < now), ~_IS_NAMED)
            .values(delete_requested_at=utcnow())
        )

        def begin(connection: Connection) -> tuple[bool, AuditEntry | None]:
            # if several processes write: the next statement sees every job that was accepted before
            begun_at = connection.execute(lock).scalar()
            may_delete = connection.execute(statement).rowcount > 0
            return may_delete, put_entry(connection, audit) if may_delete and begun_at is None else None

        may_delete, entry = await self._database.write(begin)
        log_entry(entry)
        return may_delete

    async def delete(self, upload_id: str) -> None:
        """Remove the row of an upload whose object is deleted."""
        statement = delete(uploads).where(uploads.c.id == upload_id)
        await self._database.write(lambda connection: connection.execute(statement))

    async def _find_upload(self, *conditions: ColumnElement[bool]) -> Upload | None:
        statement = select(*_COLUMNS).where(*conditions, _IS_KEPT).order_by(uploads.c.created_at).limit(1)
        row = await self._database.read(lambda connection: connection.execute(statement).first())
        return None if row is None else _make_upload(row)


def _make_upload(row: Any) -> Upload:
    return Upload(*row)
