"""Reads the secrets that a job names, when it is launched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..launchers.base import LaunchRefused
from ..models.job import Job
from ..models.secret import MAX_SECRETS_BYTES, RegistryLogin, SecretContent
from ..store.secrets import SecretStore


@dataclass(frozen=True, slots=True)
class JobSecrets:
    """The secrets of one job in the form in which it has them."""

    env: dict[str, str] = field(default_factory=dict, repr=False)
    """The values of variables."""
    files: dict[str, str] = field(default_factory=dict, repr=False)
    """The content of files, by name."""
    registries: tuple[RegistryLogin, ...] = field(default=(), repr=False)


async def read_secrets(records: SecretStore, job: Job) -> JobSecrets:
    """Return the secrets that a job names, decrypted; the caller must not keep them longer than its launch.

    Raises LaunchRefused, with a sentence for the user, if one no longer exists, cannot be decrypted or is now
    of another kind, or if they have become too large.
    """
    spec = job.spec
    names = {*spec.secret_env.values(), *spec.secret_files.values(), *spec.registry_secrets}
    if not names:
        return JobSecrets()
    contents = await records.use(job.user, names)
    values = _pick(contents, {*spec.secret_env.values(), *spec.secret_files.values()})
    logins = _pick(contents, spec.registry_secrets)
    found = JobSecrets(
        env={variable: _get_value(name, values[name]) for variable, name in spec.secret_env.items()},
        files={file: _get_value(name, values[name]) for file, name in spec.secret_files.items()},
        registries=tuple(_get_login(name, logins[name]) for name in spec.registry_secrets),
    )
    size = sum(len(text.encode()) for text in (*found.env.values(), *found.files.values()))
    if size > MAX_SECRETS_BYTES:
        raise LaunchRefused(
            "TooLarge",
            f"The job's secrets have {size} bytes now; the limit is {MAX_SECRETS_BYTES}. Use fewer in a job.",
        )
    return found


def _pick(contents: Mapping[str, SecretContent | None], names: Collection[str]) -> dict[str, SecretContent]:
    found = {}
    for name in sorted(names):
        if name not in contents:
            message = f"The secret {name!r} no longer exists. Set it again, and run the job again."
            raise LaunchRefused("SecretNotFound", message)
        content = contents[name]
        if content is None:
            raise LaunchRefused(
                "SecretLost",
                f"The secret {name!r} was encrypted with a key that the service no longer has. Set it again, "
                "and run the job again.",
            )
        found[name] = content
    return found


def _get_value(name: str, content: SecretContent) -> str:
    if content.registry is not None:
        raise LaunchRefused(
            "WrongSecret",
            f"The secret {name!r} now has credentials for a registry, and no value. Set it again, and run "
            "the job again.",
        )
    return content.value


def _get_login(name: str, content: SecretContent) -> RegistryLogin:
    if content.registry is None:
        raise LaunchRefused(
            "WrongSecret",
            f"The secret {name!r} no longer has credentials for a registry. Set it again, and run the job "
            "again.",
        )
    return content.registry
