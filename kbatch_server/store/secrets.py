"""The secrets that users keep for their jobs; their content is encrypted before it is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from ..audit import AuditEntry
from ..errors import Forbidden, NotFound
from ..keyring import BadKey, Keyring
from ..models.secret import MAX_SECRETS_BYTES, Secret, SecretContent
from ..models.times import utcnow
from .audit import log_entry, put_entry
from .database import postgresql
from .database.database import Database
from .tables import secrets

RENEWED_AT_ONCE = 100
"""The number of secrets to encrypt anew in one transaction: others write, too."""

_SHOWN = tuple(
    secrets.c[name] for name in ("name", "kind", "size", "created_at", "updated_at", "used_at", "key_id")
)


class SecretStore:
    """The rows of users' secrets.

    A secret's content is encrypted together with its user and its name, so nobody who can write to the
    database can pass one user's secret to the jobs of another.
    """

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def put(
        self, user: str, name: str, content: SecretContent, *, max_secrets: int, audit: AuditEntry
    ) -> tuple[Secret, bool]:
        """Set a user's secret, or replace its content; return it and whether it is new.

        Raises Forbidden if the user would have more than ``max_secrets``, or more than MAX_SECRETS_BYTES.
        """
        now = utcnow()
        secret = Secret(name, content.kind, content.size, now, now)
        values = {
            "kind": content.kind,
            "content": self._seal(user, name, content),
            "key_id": self._keyring.key_ids[0],
            "size": content.size,
            "updated_at": now,
        }
        own = secrets.c.user == user, secrets.c.name == name

        def put(connection: Connection) -> tuple[Secret, bool]:
            if self._database.is_shared:  # of two that arrive together, the later counts the earlier one
                postgresql.lock_word(connection, f"secrets of {user}")
            self._check_room(connection, user, secret, max_secrets)
            put_entry(connection, audit)
            changed = update(secrets).where(*own).values(values)
            row = connection.execute(changed.returning(secrets.c.created_at, secrets.c.used_at)).first()
            if row is not None:
                return replace(secret, created_at=row.created_at, used_at=row.used_at), False
            connection.execute(insert(secrets).values(user=user, name=name, created_at=now, **values))
            return secret, True

        put_secret = await self._database.write(put)
        log_entry(audit)
        return put_secret

    def _check_room(self, connection: Connection, user: str, secret: Secret, max_secrets: int) -> None:
        others = select(func.count(), func.coalesce(func.sum(secrets.c.size), 0)).where(
            secrets.c.user == user, secrets.c.name != secret.name
        )
        count, size = connection.execute(others).one()
        if count >= max_secrets:
            message = (
                f"You have {count} secrets; the limit is {max_secrets}. Delete one first."
                if max_secrets
                else "This service keeps no secrets of users: the admin has turned them off."
            )
            raise Forbidden(message, reason="TooManySecrets")
        if size + secret.size > MAX_SECRETS_BYTES:
            raise Forbidden(
                f"Your secrets would have {size + secret.size} bytes in total; the limit is "
                f"{MAX_SECRETS_BYTES}. Delete one first.",
                reason="TooManySecrets",
            )

    async def list(self, user: str, names: Collection[str] | None = None) -> list[Secret]:
        """Return a user's secrets by name: all, or those of ``names`` that exist."""
        statement = select(*_SHOWN).where(secrets.c.user == user).order_by(secrets.c.name)
        if names is not None:
            statement = statement.where(secrets.c.name.in_(names))
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [self._make_secret(row) for row in rows]

    async def delete(self, user: str, name: str, *, audit: AuditEntry) -> None:
        """Delete a user's secret; raises NotFound."""
        statement = delete(secrets).where(secrets.c.user == user, secrets.c.name == name)

        def remove(connection: Connection) -> None:
            if not connection.execute(statement).rowcount:
                raise NotFound(f"Secret {name!r} not found.")
            put_entry(connection, audit)

        await self._database.write(remove)
        log_entry(audit)

    async def use(self, user: str, names: Collection[str]) -> Mapping[str, SecretContent | None]:
        """Return the contents of a user's secrets by name, and record that they are used now.

        Secrets that do not exist are missing; the content of one whose key was removed is None.
        """
        statement = (
            update(secrets)
            .where(secrets.c.user == user, secrets.c.name.in_(names))
            .values(used_at=utcnow())
            .returning(secrets.c.name, secrets.c.content)
        )
        rows = await self._database.write(lambda connection: connection.execute(statement).all())
        return {row.name: self._open(user, row.name, row.content) for row in rows}

    async def forget(self, user: str, *, before: datetime | None = None) -> int:
        """Delete a user's secrets, and return their number; ``before`` keeps those that were set since."""
        statement = delete(secrets).where(secrets.c.user == user)
        if before is not None:
            statement = statement.where(secrets.c.updated_at < before)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def renew(self) -> int:
        """Encrypt secrets of older keys with the first key, and return their number.

        Afterwards an admin can remove the older keys. Secrets whose key is missing stay as they are.
        """
        first, *older = self._keyring.key_ids
        statement = (
            select(secrets.c.user, secrets.c.name, secrets.c.content)
            .where(secrets.c.key_id.in_(older))
            .limit(RENEWED_AT_ONCE)
            .with_for_update()
        )

        def renew(connection: Connection) -> int:
            rows = connection.execute(statement).all()
            for user, name, content in rows:
                sealed = self._keyring.seal(self._keyring.unseal(content))
                own = secrets.c.user == user, secrets.c.name == name
                connection.execute(update(secrets).where(*own).values(content=sealed, key_id=first))
            return len(rows)

        total = 0
        while older and (count := await self._database.write(renew)):
            total += count
        return total

    def _seal(self, user: str, name: str, content: SecretContent) -> bytes:
        return self._keyring.seal({"user": user, "name": name, **content.to_json()})

    def _open(self, user: str, name: str, sealed: bytes) -> SecretContent | None:
        try:
            data = self._keyring.unseal(sealed)
        except BadKey:
            return None
        is_own = (data["user"], data["name"]) == (user, name)
        return SecretContent.from_json(data) if is_own else None

    def _make_secret(self, row: RowMapping) -> Secret:
        values: dict[str, Any] = dict(row)
        is_lost = values.pop("key_id") not in self._keyring.key_ids
        return Secret(**values, is_lost=is_lost)
