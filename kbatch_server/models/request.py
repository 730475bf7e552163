"""The request of a job, with checks for each field, and the part of it that a job keeps."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..notebooks.request import Notebook
from ..quantities import MIN_CPUS, MIN_MEMORY_BYTES
from ..validation import at_most, checked
from .secret import RegistrySecrets, SecretFiles, SecretVariables
from .server import PREFIX

MAX_ENV_BYTES = 256 * 1024
"""Maximum size of a job's environment, names and values: a Kubernetes Secret has 1 MiB at most, in base64."""

MAX_COMMAND_BYTES = 64 * 1024
"""Maximum size of a job's command, and of its arguments: the Job contains them, and has 1.5 MiB at most."""

MAX_ENV_NAMES = 1000
"""Maximum number of variables: for each, the Job contains a reference to the Secret."""

MAX_WORDS = 5000
"""Maximum number of words of a job's command, and of its arguments."""

MAX_TAGS = 32

MAX_OPTIONS = 64
"""Maximum number of options of a profile that a request may set."""

MAX_CHOICE_LENGTH = 512
"""Maximum length of a choice, which may be text of the user's own, such as an image's name."""

MAX_HUB_SCOPES = 20

RETRY_DELAY_SECONDS = 10.0
"""The delay of Kubernetes's Job controller before the second attempt; it doubles with each attempt."""

MAX_ENV_NAME_LENGTH = 200
"""Maximum length of a variable's name, which is a part of a key in the Secret: Kubernetes allows 253."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SERVER = re.compile(r"server(:[^\x00-\x1f/]+)?")
_TAG = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_MEMORY = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)(|K|M|G|T|Ki|Mi|Gi|Ti)")
_MEMORY_UNITS = {
    "": 1,
    "K": 1024,
    "M": 1024**2,
    "G": 1024**3,
    "T": 1024**4,
    "Ki": 1024,
    "Mi": 1024**2,
    "Gi": 1024**3,
    "Ti": 1024**4,
}


def parse_memory(value: Any) -> Any:
    """Return bytes of ``2147483648``, ``"2G"`` or ``"2Gi"`` (2**31, as JupyterHub counts)."""
    if not isinstance(value, str):
        return value
    match = _MEMORY.fullmatch(value)
    if not match:
        raise ValueError("must be a number of bytes, or a number with a unit, like 512M or 2G")
    return int(float(match[1]) * _MEMORY_UNITS[match[2]])


def _checked_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be letters, digits, '.', '_' and '-' (ASCII), beginning and ending with a letter or digit"
        )
    return value


def _checked_env(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _ENV_NAME.fullmatch(name) or len(name) > MAX_ENV_NAME_LENGTH:
            raise ValueError(f"{name[:60]!r} is not a valid environment variable name")
        if "\0" in text:
            raise ValueError(f"the value of {name} contains a NUL character")
    size = sum(len(name.encode()) + len(text.encode()) for name, text in value.items())
    if size > MAX_ENV_BYTES:
        raise ValueError(
            f"has {size} bytes in total; the limit is {MAX_ENV_BYTES}. Put large values into files in the ZIP"
        )
    return value


def _checked_tags(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if not _TAG.fullmatch(key) or len(key) > 63:
            raise ValueError(f"{key[:60]!r} is not a valid tag name: letters, digits, '.', '_', '/' and '-'")
    return value


def _checked_words(value: list[str]) -> list[str]:
    if any("\0" in word for word in value):
        raise ValueError("contains a NUL character")
    size = sum(len(word.encode()) + 1 for word in value)  # and what keeps words apart
    if size > MAX_COMMAND_BYTES:
        raise ValueError(
            f"has {size} bytes in total; the limit is {MAX_COMMAND_BYTES}. Put it into a file in the ZIP"
        )
    return value


def _checked_command(value: list[str]) -> list[str]:
    if not value or not value[0]:
        raise ValueError('must name a program, like ["python", "main.py"]')
    return _checked_words(value)


def _checked_folder(value: str) -> str:
    parts = [part for part in value.split("/") if part not in {"", "."}]
    if value.startswith("/") or ".." in parts or "\0" in value:
        raise ValueError("must be a path inside the code, like src/train, without '..' or a leading '/'")
    return "/".join(parts)


def _checked_unicode(value: str) -> str:
    value.encode()  # a lone surrogate, which JSON can say and UTF-8 cannot
    return value


Text = Annotated[str, AfterValidator(_checked_unicode)]
# the maximum twice: ``at_most`` comes before the elements are looked at, and ``Field`` is in the schema
_Texts = Annotated[list[Text], Field(max_length=MAX_WORDS)]
Words = Annotated[_Texts, AfterValidator(_checked_words), at_most(MAX_WORDS, "words")]
Command = Annotated[_Texts, AfterValidator(_checked_command), at_most(MAX_WORDS, "words")]
Variables = Annotated[
    dict[Text, Text],
    Field(max_length=MAX_ENV_NAMES),
    AfterValidator(_checked_env),
    at_most(MAX_ENV_NAMES, "variables"),
]


def _checked_server(value: str) -> str:
    if not _SERVER.fullmatch(value):
        raise ValueError("must be server, for your default server, or server:NAME")
    return value


def _read_home(value: Any) -> Any:
    """Return the reference of a server for true; an empty one for false."""
    return value if not isinstance(value, bool) else PREFIX if value else ""


ServerReference = Annotated[Text, Field(max_length=262), AfterValidator(_checked_server)]
"""A server of the user: ``server``, or ``server:NAME`` for one with a name."""

Home = Annotated[
    Text,
    Field(max_length=262),
    AfterValidator(lambda value: value and _checked_server(value)),
    BeforeValidator(_read_home, json_schema_input_type=bool | str),
]
"""A server's home: true for that of the default server, a reference, or false (empty) for none."""


class CancelRequest(BaseModel):
    """The reason for a cancel."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    note: Annotated[Text, Field(max_length=1000)] | None = None
    """The reason, which the job's message then contains."""


class JobRequest(BaseModel):
    """The request of a user. It can contain nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[Text, Field(min_length=1, max_length=63), AfterValidator(_checked_name)]
    command: Command | None = None
    args: Words = Field(default_factory=list)
    notebook: Notebook | None = None
    """A notebook of the code, which runs instead of a command."""
    collect: Literal["outputs", "workdir"] | None = None
    """The files that are results: those in ``$KBATCH_OUTPUT_DIR``; with ``workdir`` also new and changed
    files in the working folder. Default: ``workdir`` for a notebook of the upload, otherwise ``outputs``."""
    image: Annotated[Text, Field(min_length=1, max_length=512, pattern=r"^\S+$")] | None = None
    profile: Annotated[Text, Field(min_length=1, max_length=253)] | None = None
    profile_options: Annotated[
        dict[Text, Annotated[Text, Field(max_length=MAX_CHOICE_LENGTH)]],
        Field(max_length=MAX_OPTIONS),
        at_most(MAX_OPTIONS, "options"),
    ] = Field(default_factory=dict)
    """The choice for each option of the profile, by the option's name; text of the user's own, where the
    profile allows it, by ``NAME--unlisted-choice``. Other options have their default."""
    env: Variables = Field(default_factory=dict)
    secret_env: SecretVariables = Field(default_factory=dict)
    """Variables whose values are secrets of the user: for each variable the name of the secret."""
    secret_files: SecretFiles = Field(default_factory=dict)
    """Files in ``$KBATCH_SECRETS_DIR`` whose content is a secret: for each file the name of the secret."""
    registry_secrets: RegistrySecrets = Field(default_factory=list)
    """The names of secrets with credentials for registries, to pull the image with."""
    upload: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    working_dir: Annotated[Text, Field(max_length=2000), AfterValidator(_checked_folder)] | None = None
    """The folder of the upload in which the command runs. Default: the top folder."""
    description: Annotated[Text, Field(max_length=4096)] = ""
    tags: Annotated[
        dict[Text, Annotated[Text, Field(max_length=256)]],
        Field(max_length=MAX_TAGS),
        AfterValidator(_checked_tags),
        at_most(MAX_TAGS, "tags"),
    ] = Field(default_factory=dict)
    cpu_limit: Annotated[float, Field(ge=MIN_CPUS, le=4096, allow_inf_nan=False)] | None = None
    mem_limit: Annotated[int, BeforeValidator(parse_memory), Field(ge=MIN_MEMORY_BYTES, le=2**50)] | None = (
        None
    )
    shm_size: Annotated[int, BeforeValidator(parse_memory), Field(gt=0, le=2**50)] | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_delay_seconds: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] | None = None
    retry_backoff: Literal["exponential", "fixed"] = "exponential"
    active_deadline_seconds: Annotated[int, Field(gt=0, le=2**31 - 1)] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    hub_scopes: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=300, pattern=r"^[!-~]+$")]],
        Field(max_length=MAX_HUB_SCOPES),
        at_most(MAX_HUB_SCOPES, "scopes"),
    ] = Field(default_factory=list)
    """The hub scopes of the token in the job's ``JUPYTERHUB_API_TOKEN``; without any, it has no such token.
    """
    like: ServerReference | None = None
    """The user's server whose image, profile, environment and home the job takes, unless it sets its own."""
    home: Home | None = None
    """Whether the home of the user's server is mounted, or that of which server. Default: no, unless the job
    is like a server."""
    results_to_home: bool | None = None
    """Whether the results are files of this home, in ``jobs/`` and a folder with the job's id."""
    queue_name: (
        Annotated[Text, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
        | None
    ) = None

    @model_validator(mode="before")
    @classmethod
    def _none_is_absent(cls, data: Any) -> Any:
        """Treat a null field as an absent one."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data

    @field_validator("secret_env")
    @classmethod
    def _are_other_variables(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        _checked_env(value)
        if both := sorted(value.keys() & info.data.get("env", {}).keys()):
            raise ValueError(f"{both[0]} is also in env: a variable has one value")
        return value

    @field_validator("notebook")
    @classmethod
    def _is_in_place_of_a_command(cls, value: Notebook | None, info: ValidationInfo) -> Notebook | None:
        if value is not None and (info.data.get("command") or info.data.get("args")):
            raise ValueError("cannot be set together with a command or its arguments")
        return value

    def get_collect(self) -> Literal["outputs", "workdir"]:
        """Return which files are results."""
        return self.collect or ("workdir" if self.notebook and self.upload else "outputs")

    @classmethod
    def from_json(cls, data: Any) -> JobRequest:
        """Return the request in parsed JSON, or raise InvalidRequest with each wrong field."""
        return checked(cls, data)


class RequestedSpec(BaseModel):
    """The request of a job after the admin's defaults, profile and limits, without the environment, a secret.

    A field has the same name here and in JobRequest. The database, the JSON of a job, OpenAPI and reruns
    follow from these fields: see "Adding a field of a job" in CONTRIBUTING.md.
    """

    model_config = ConfigDict(frozen=True)

    command: list[str] | None = None
    args: list[str] = Field(default_factory=list)
    notebook: Notebook | None = None
    """The notebook that runs instead of a command."""
    collect: Literal["outputs", "workdir"] = "outputs"
    """The files that are results: those in ``$KBATCH_OUTPUT_DIR``; with ``workdir`` also new and changed
    files of the working folder."""
    image: str
    profile: str | None = None
    secret_env: dict[str, str] = Field(default_factory=dict)
    secret_files: dict[str, str] = Field(default_factory=dict)
    registry_secrets: list[str] = Field(default_factory=list)
    profile_options: dict[str, str] = Field(default_factory=dict)
    """The choice for each option of the profile, defaults included."""
    upload: str | None = None
    working_dir: str | None = None
    """The folder of the code in which the command runs; None: the top folder."""
    cpu_limit: float | None = None
    mem_limit: int | None = None
    shm_size: int | None = None
    retries: int = 0
    retry_delay_seconds: float = RETRY_DELAY_SECONDS
    retry_backoff: Literal["exponential", "fixed"] = "exponential"
    active_deadline_seconds: int | None = None
    priority: int = 0
    hub_scopes: list[str] = Field(default_factory=list)
    like: str | None = None
    """The user's server that the job is like."""
    home: str | None = None
    """The user's server whose home is mounted: ``server``, or ``server:NAME``."""
    results_to_home: bool = False
    """Whether the results are files of this home, in ``jobs/`` and a folder with the job's id."""
    queue_name: str | None = None
    """The LocalQueue of Kueue, with its templates filled in."""

    def get_requested(self) -> dict[str, Any]:
        """Return these fields, by name."""
        return dict(zip(REQUESTED, _get_requested(self), strict=True))


REQUESTED = tuple(RequestedSpec.model_fields)
"""The names of those fields."""

_get_requested = attrgetter(*REQUESTED)
