"""The actions of users on their secrets: set, list, delete; and the check of those that a job names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from traitlets import Instance, Integer
from traitlets.config import LoggingConfigurable

from ..audit import Action, make_entry
from ..errors import InvalidRequest
from ..models.job import JobSpec
from ..models.request import JobRequest
from ..models.secret import MAX_SECRETS_BYTES, Secret, SecretKind, SecretRequest
from ..models.user import User
from ..store.secrets import SecretStore

_KIND_NAMES: Mapping[SecretKind, str] = {
    "value": "a value",
    "registry": "credentials for a registry",
}


class Secrets(LoggingConfigurable):
    """The secrets that users keep for their jobs.

    Users reach only their own secrets. Admins can neither read, list nor set those of others.
    """

    max_secrets = Integer(
        50,
        min=0,
        help="""The maximum number of secrets that a user may keep. 0: users cannot keep any.

        A secret may have 64 KiB, and all secrets of a user together 256 KiB.
        """,
        config=True,
    )

    records = Instance(SecretStore)

    async def set(self, user: User, name: str, request: SecretRequest) -> tuple[Secret, bool]:
        """Set a secret of the user, or replace it; return it and whether it is new.

        Raises Forbidden if the user has too many, or too large ones.
        """
        entry = make_entry(Action.SET_SECRET, name, user.name)
        return await self.records.put(
            user.name, name, request.content, max_secrets=self.max_secrets, audit=entry
        )

    async def list(self, user: User) -> list[Secret]:
        """Return all secrets of the user by name, without their content."""
        return await self.records.list(user.name)

    async def delete(self, user: User, name: str) -> None:
        """Delete a secret of the user; raises NotFound. Jobs that were launched with it keep it."""
        await self.records.delete(user.name, name, audit=make_entry(Action.DELETE_SECRET, name, user.name))

    async def check(self, user: User, spec: JobSpec) -> None:
        """Raise InvalidRequest, with the field, unless the user has all secrets that a job names."""
        if not (spec.secret_env or spec.secret_files or spec.registry_secrets):
            return
        known = {each.name: each for each in await self.list(user)}
        for field, names in (("secret_env", spec.secret_env), ("secret_files", spec.secret_files)):
            for key, name in names.items():
                _check_one(f"{field}.{key}", name, known, "value")
        for number, name in enumerate(spec.registry_secrets):
            _check_one(f"registry_secrets[{number}]", name, known, "registry")
        size = sum(known[name].size for name in (*spec.secret_env.values(), *spec.secret_files.values()))
        if size > MAX_SECRETS_BYTES:
            field = "secret_files" if spec.secret_files else "secret_env"
            raise InvalidRequest.of_field(
                field,
                f"the job's secrets have {size} bytes, each counted as often as the job has it; the limit is "
                f"{MAX_SECRETS_BYTES}",
            )


def list_names(spec: JobSpec | JobRequest) -> list[str]:
    """Return the names of all secrets that a job, or the request of one, names, sorted."""
    return sorted({*spec.secret_env.values(), *spec.secret_files.values(), *spec.registry_secrets})


def _check_one(field: str, name: str, known: Mapping[str, Secret], kind: SecretKind) -> None:
    secret = known.get(name)
    if secret is None:
        names = _join(each.name for each in known.values() if each.kind == kind)
        raise InvalidRequest.of_field(
            field, f"you have no secret {name!r} with {_KIND_NAMES[kind]}; you have: {names}"
        )
    if secret.kind != kind:
        raise InvalidRequest.of_field(
            field, f"the secret {name!r} has {_KIND_NAMES[secret.kind]}, not {_KIND_NAMES[kind]}"
        )
    if secret.is_lost:
        raise InvalidRequest.of_field(
            field,
            f"the secret {name!r} was encrypted with a key that the service no longer has: set it again",
        )


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
