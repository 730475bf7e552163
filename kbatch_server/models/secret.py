"""A user's secrets: the request that sets one, what is shown of it, and how a job refers to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from typing_extensions import TypedDict

from ..errors import InvalidRequest
from ..validation import at_most, checked
from .times import Moment, show_time, to_iso

MAX_SECRET_NAME = 63

MAX_SECRET_BYTES = 64 * 1024
"""Maximum size of one secret. A process cannot have a variable of more than 128 KiB."""

MAX_SECRETS_BYTES = 256 * 1024
"""Maximum size of all secrets of a user, and of those that one job has, each time that it has one: the job's
Secret has them beside an environment of the same size, and Kubernetes allows 1 MiB."""

MAX_SECRET_USES = 32
"""Maximum number of variables, or of files, that a job may have from secrets."""

MAX_REGISTRIES = 8
"""Maximum number of registry credentials that a job may have."""

SECRETS_VARIABLE = "KBATCH_SECRETS_DIR"
"""The variable of a job with the path of the folder that has its secret files."""

SecretKind = Literal["value", "registry"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_FILE = re.compile(r"\.?[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REGISTRY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._/-]*)?")


def _checked_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be letters, digits, '.', '_' and '-' (ASCII), beginning and ending with a letter or digit"
        )
    return value


def _checked_file(value: str) -> str:
    if not _FILE.fullmatch(value):
        raise ValueError("must be a name like key.json: letters, digits, '.', '_' and '-', without a folder")
    return value


def _checked_registry(value: str) -> str:
    if not _REGISTRY.fullmatch(value):
        raise ValueError("must be the host of a registry, like quay.io or registry.example.org:5000")
    return value


def _checked_text(value: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # its own message contains a part of the value
        raise ValueError("contains characters that UTF-8 cannot encode") from None
    if "\0" in value:
        raise ValueError("contains a NUL character; encode binary data, for example with base64")
    if size > MAX_SECRET_BYTES:
        raise ValueError(f"has {size} bytes; the limit is {MAX_SECRET_BYTES}")
    return value


def _checked_username(value: str) -> str:
    if ":" in value or not value.isprintable():
        raise ValueError("must not contain ':' or control characters")
    return _checked_text(value)


SecretName = Annotated[str, Field(min_length=1, max_length=MAX_SECRET_NAME), AfterValidator(_checked_name)]
_FileName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_checked_file)]
_Value = Annotated[str, Field(min_length=1, max_length=MAX_SECRET_BYTES), AfterValidator(_checked_text)]

SecretFiles = Annotated[
    dict[_FileName, SecretName],
    Field(max_length=MAX_SECRET_USES),
    at_most(MAX_SECRET_USES, "files"),
]
"""The name of a secret for each file of a job."""

SecretVariables = Annotated[
    dict[str, SecretName],
    Field(max_length=MAX_SECRET_USES),
    at_most(MAX_SECRET_USES, "variables"),
]
"""The name of a secret for each variable of a job; ``models.request`` checks the variables' names."""

RegistrySecrets = Annotated[
    list[SecretName],
    Field(max_length=MAX_REGISTRIES),
    at_most(MAX_REGISTRIES, "registry credentials"),
]
"""The names of secrets with which to pull a job's image."""

_NAMES: TypeAdapter[str] = TypeAdapter(SecretName)


def check_secret_name(name: str) -> str:
    """Return the name of a secret from a URL, or raise InvalidRequest of ``name``."""
    try:
        return _NAMES.validate_python(name, strict=True)
    except ValidationError as error:
        said = str(error.errors(include_input=False, include_url=False)[0]["msg"])
        raise InvalidRequest.of_field("name", said.removeprefix("Value error, ")) from None


class RegistryLogin(BaseModel):
    """Credentials for a registry of images."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    server: str = Field(min_length=1, max_length=253)
    """The registry's host, like ``quay.io``; for Docker Hub ``docker.io``."""
    username: str = Field(min_length=1, max_length=255, repr=False)
    password: str = Field(min_length=1, max_length=MAX_SECRET_BYTES, repr=False)

    @field_validator("server")
    @classmethod
    def _check_server(cls, value: str) -> str:
        return _checked_registry(value)

    @field_validator("username")
    @classmethod
    def _check_username(cls, value: str) -> str:
        return _checked_username(value)

    @field_validator("password")
    @classmethod
    def _check_password(cls, value: str) -> str:
        return _checked_text(value)


class SecretRequest(BaseModel):
    """The new content of a secret: a value, or credentials for a registry."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    value: Annotated[_Value | None, Field(repr=False)] = None
    """The value, for variables and files of jobs."""
    registry: RegistryLogin | None = None
    """Credentials with which jobs may pull images."""

    @classmethod
    def from_json(cls, data: Any) -> SecretRequest:
        """Return the request in parsed JSON, or raise InvalidRequest, which contains no value."""
        request = checked(cls, data)
        if (request.value is None) == (request.registry is None):
            raise InvalidRequest.of_field("body", "must have either value or registry")
        return request

    @property
    def content(self) -> SecretContent:
        """The content to store."""
        if self.registry is not None:
            return SecretContent("registry", registry=self.registry)
        return SecretContent("value", value=self.value or "")


@dataclass(frozen=True, slots=True)
class SecretContent:
    """The decrypted content of a secret."""

    kind: SecretKind
    value: str = field(default="", repr=False)
    registry: RegistryLogin | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.value.encode()) if self.registry is None else len(self.registry.model_dump_json())

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, to be encrypted."""
        return {"value": self.value} if self.registry is None else {"registry": self.registry.model_dump()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SecretContent:
        """Return the content in what ``to_json`` has returned."""
        if "registry" in data:
            return cls("registry", registry=RegistryLogin.model_validate(data["registry"]))
        return cls("value", value=data["value"])


class SecretJson(TypedDict):
    """A secret, without its content, which is never shown."""

    name: str
    kind: SecretKind
    created_at: Moment
    updated_at: Moment
    used_at: Moment | None
    is_lost: bool


@dataclass(frozen=True, slots=True)
class Secret:
    """What is known of a secret without its content."""

    name: str
    kind: SecretKind
    size: int
    """The size of its content in bytes."""
    created_at: datetime
    updated_at: datetime
    """When its content was last set."""
    used_at: datetime | None = None
    """When a job was last launched with it."""
    is_lost: bool = False
    """Whether its content cannot be decrypted any more, because an admin has removed the key."""

    def to_dict(self) -> SecretJson:
        """Return the JSON of the secret."""
        return {
            "name": self.name,
            "kind": self.kind,
            "created_at": show_time(self.created_at),
            "updated_at": show_time(self.updated_at),
            "used_at": to_iso(self.used_at),
            "is_lost": self.is_lost,
        }
