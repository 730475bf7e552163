"""Reads the requests of the published kbatch client (a Job's manifest) into a JobRequest.

The client makes its bodies with the ``kubernetes`` package, so a body is a Job's manifest (snake_case, full
of nulls), and optionally a ConfigMap with code. The models below define the supported fields; any other field
is rejected with its path, so that nothing in a request reaches a pod by accident.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from ...errors import InvalidRequest
from ...models.job import Profile
from ...models.request import MAX_ENV_NAMES, MAX_WORDS, JobRequest
from ...quantities import parse_quantity
from ...validation import at_most, checked, parse_json

PROFILE_KEY = "kbatch.jupyter.org/profile"
"""The key of the toleration with the profile's name: the client copies a profile's image, resources and
tolerations, but not its name."""

OPTIONS_VARIABLE = "KBATCH_PROFILE_OPTIONS"
"""The variable with the choices for the profile's options, as JSON: the client has no other place for them.
The job does not get it."""

CONTAINER = "job.spec.template.spec.containers[0]"

_DECODE_CHARACTERS = 4 * 65536
"""The amount of base64 to decode at a time: a multiple of 4."""

_UNKNOWN = "is not a known field"

MAX_DEPTH = 32
"""The maximum depth of a body: a Job's manifest needs ten."""


class ManifestPart(BaseModel):
    """A part of a Kubernetes manifest, with keys in Python's or in JSON's style."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=True)


Quantity = Annotated[str | int | float, AfterValidator(parse_quantity)]


class ContainerLimits(ManifestPart):
    """The limits of a container."""

    cpu: Quantity | None = None
    memory: Quantity | None = None


class Resources(ManifestPart):
    """A container's limits; only the admin sets requests."""

    limits: ContainerLimits = ContainerLimits()


class EnvVar(ManifestPart):
    """A variable with a plain value; ``valueFrom`` would read Secrets."""

    name: str
    value: str = ""


class Container(ManifestPart):
    """The only container."""

    name: str = "job"
    image: str | None = None
    command: Annotated[list[str], at_most(MAX_WORDS, "words")] | None = None
    args: Annotated[list[str], at_most(MAX_WORDS, "words")] = Field(default_factory=list)
    env: Annotated[list[EnvVar], at_most(MAX_ENV_NAMES, "variables")] = Field(default_factory=list)
    resources: Resources = Resources()
    working_dir: Annotated[str, Field(pattern=r"^/code(/|$)")] = "/code"


class Toleration(ManifestPart):
    """The name of a profile; only the admin sets real tolerations."""

    key: Literal["kbatch.jupyter.org/profile"]
    operator: Literal["Equal"] = "Equal"
    value: str


class PodSpec(ManifestPart):
    """The pod. ``priority`` is among the user's own jobs; only the admin sets the cluster's priorities."""

    containers: Annotated[list[Container], Field(min_length=1), at_most(1, "containers")]
    restart_policy: Literal["Never"] = "Never"
    tolerations: Annotated[list[Toleration], at_most(1, "tolerations")] = Field(default_factory=list)
    priority: int = 0


class PodMetadata(ManifestPart):
    """The pod's name: Kubernetes makes it, but the client sends one."""

    name: str | None = None


class PodTemplate(ManifestPart):
    """The pod."""

    metadata: PodMetadata = PodMetadata()
    spec: PodSpec


class V1JobSpec(ManifestPart):
    """The job.

    ``ttl_seconds_after_finished`` is ignored: the client always sends 300, which was for the old server's
    Kubernetes objects; this service keeps jobs as long as the admin sets.
    """

    backoff_limit: int = 0
    ttl_seconds_after_finished: int | None = None
    active_deadline_seconds: int | None = None
    template: PodTemplate


class V1Metadata(ManifestPart):
    """The job's name; ``generate_name`` ends in a dash, to which Kubernetes would add random letters."""

    name: str | None = None
    generate_name: str | None = None


class V1Job(ManifestPart):
    """The manifest of a Job."""

    api_version: Literal["batch/v1"] = "batch/v1"
    kind: Literal["Job"] = "Job"
    metadata: V1Metadata
    spec: V1JobSpec


class BinaryData(ManifestPart):
    """The ZIP, in base64."""

    code: str


class V1ConfigMap(ManifestPart):
    """The code."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ConfigMap"] = "ConfigMap"
    metadata: V1Metadata = V1Metadata()
    binary_data: BinaryData


class Body(ManifestPart):
    """The body of a POST to ``jobs/``."""

    job: V1Job
    code: V1ConfigMap | None = None


def read_body(data: Any, profiles: Mapping[str, Profile]) -> tuple[JobRequest, str | None]:
    """Return the request in a body and its code in base64; raises InvalidRequest with the wrong paths.

    ``profiles`` are those that the user may choose, by slug. It ignores values in the body that equal those
    of the chosen profile, so that the server defines the profile.
    """
    data = drop_absent(data)
    try:
        body = checked(Body, data)
    except InvalidRequest as error:
        raise _with_leaves(error, data) from None
    pod = body.job.spec.template.spec
    container = pod.containers[0]
    slug = pod.tolerations[0].value if pod.tolerations else None
    profile = None if slug is None else profiles.get(slug)
    metadata = body.job.metadata
    limits = container.resources.limits
    memory = _own_limit(limits.memory, profile.mem_limit if profile else None)
    env = {variable.name: variable.value for variable in container.env}
    fields = {
        "name": metadata.name or (metadata.generate_name or "").rstrip("-"),
        "command": container.command,
        "args": container.args,
        "working_dir": container.working_dir.removeprefix("/code").lstrip("/"),
        "image": None if profile is not None and profile.image == container.image else container.image,
        "profile": slug,
        "profile_options": _read_options(env.pop(OPTIONS_VARIABLE, "")),
        "env": env,
        "cpu_limit": _own_limit(limits.cpu, profile.cpu_limit if profile else None),
        "mem_limit": None if memory is None else int(memory),
        "retries": body.job.spec.backoff_limit,
        "priority": pod.priority,
        "active_deadline_seconds": body.job.spec.active_deadline_seconds,
    }
    try:
        request = JobRequest.from_json(fields)
    except InvalidRequest as error:
        raise rename_fields(error) from None
    return request, None if body.code is None else body.code.binary_data.code


def rename_fields(error: InvalidRequest) -> InvalidRequest:
    """Return the error with the paths of its fields in the client's body."""
    paths = {
        "name": "job.metadata.name",
        "profile": "job.spec.template.spec.tolerations[0].value",
        "profile_options": f"{CONTAINER}.env.{OPTIONS_VARIABLE}",
        "cpu_limit": f"{CONTAINER}.resources.limits.cpu",
        "mem_limit": f"{CONTAINER}.resources.limits.memory",
        "retries": "job.spec.backoff_limit",
        "priority": "job.spec.template.spec.priority",
        "active_deadline_seconds": "job.spec.active_deadline_seconds",
        "upload": "code",
        "working_dir": f"{CONTAINER}.working_dir",
        "file": "code.binary_data.code",
        **{name: f"{CONTAINER}.{name}" for name in ("image", "command", "args", "env")},
    }
    details = []
    for each in error.details or ():
        name, rest = re.fullmatch(r"([^.\[]*)(.*)", each["field"], re.DOTALL).groups()  # type: ignore[union-attr]
        details.append({"field": paths.get(name, name) + rest, "message": each["message"]})
    return _make_error(details) if details else error


def drop_absent(value: Any, *, depth: int = MAX_DEPTH) -> Any:
    """Return parsed JSON without the keys whose value is null or an empty object or list.

    The client sends all the fields that Kubernetes knows: a null means that the user did not set it. An empty
    command counts as set: the client sends null if its user sets none.
    """
    if depth == 0:
        raise InvalidRequest.of_field("job", "is nested too deeply")
    if isinstance(value, dict):
        kept = {key: drop_absent(each, depth=depth - 1) for key, each in value.items()}
        return {
            key: each
            for key, each in kept.items()
            if each is not None and each != {} and (each != [] or key == "command")
        }
    if isinstance(value, list):
        return [drop_absent(each, depth=depth - 1) for each in value]
    return value


def decode_code(text: str) -> Iterator[bytes]:
    """Yield the bytes of base64 text, piece by piece, or raise InvalidRequest."""
    for start in range(0, len(text), _DECODE_CHARACTERS):
        piece = text[start : start + _DECODE_CHARACTERS]
        try:
            yield binascii.a2b_base64(piece.encode("ascii"), strict_mode=True)
        except ValueError:
            raise InvalidRequest.of_field("code.binary_data.code", "is not base64") from None


def make_profiles(profiles: Iterable[Profile]) -> dict[str, dict[str, Any]]:
    """Return the profiles in the client's form: it copies image, resources and tolerations."""
    return {
        profile.slug: {
            "display_name": profile.display_name,
            "description": profile.description,
            "image": profile.image,
            "resources": {"limits": make_limits(profile.cpu_limit, profile.mem_limit)},
            "tolerations": [{"key": PROFILE_KEY, "operator": "Equal", "value": profile.slug}],
        }
        for profile in profiles
    }


def make_limits(cpu: float | None, memory: int | None) -> dict[str, str]:
    """Return limits in Kubernetes's form, without resources that have none."""
    limits = {}
    if cpu is not None:
        limits["cpu"] = f"{cpu:g}"
    if memory is not None:
        limits["memory"] = str(memory)
    return limits


def _read_options(text: str) -> Any:
    """Return the choices in the client's variable, or raise InvalidRequest of it."""
    if not text:
        return None
    try:
        return parse_json(text.encode())
    except (InvalidRequest, UnicodeEncodeError):
        message = 'must be JSON, like {"image": "stable"}'
        raise InvalidRequest.of_field(f"{CONTAINER}.env.{OPTIONS_VARIABLE}", message) from None


def _own_limit(asked: Any, given: float | None) -> float | None:
    """Return a limit in the body, unless it equals that of the profile."""
    if asked is None or (given is not None and float(asked) == given):
        return None
    return float(asked)


def _with_leaves(error: InvalidRequest, data: Any) -> InvalidRequest:
    """Return the error with the paths inside unknown fields: ``…securityContext.privileged``."""
    details = []
    for each in error.details:
        field = each["field"]
        if field.endswith("containers") and isinstance(found := _find(data, field), list) and len(found) > 1:
            details += [
                {"field": f"{field}[{index}]", "message": "only one container can be set"}
                for index in range(1, len(found))
            ]
        elif each["message"] == _UNKNOWN:
            details += [{"field": leaf, "message": _UNKNOWN} for leaf in _leaves(field, _find(data, field))]
        else:
            details.append(each)
    return _make_error(details)


def _leaves(path: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        # report other fields first: the name is the least important of them
        keys = sorted(value, key=lambda key: key == "name")
        return [f"{path}.{key[:100]}" for key in keys[:20]]
    if isinstance(value, list) and value:
        return [leaf for index, each in enumerate(value[:20]) for leaf in _leaves(f"{path}[{index}]", each)]
    return [path]


def _find(data: Any, path: str) -> Any:
    """Return the value at a path like ``job.spec.volumes[0]``, or None if it is unknown."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if index and isinstance(data, list) and int(index) < len(data):
            data = data[int(index)]
        elif name and isinstance(data, dict):
            data = data.get(name)
        else:
            return None
    return data


def _make_error(details: list[dict[str, str]]) -> InvalidRequest:
    first = details[0]
    return InvalidRequest(f"{first['field']}: {first['message']}", details=details)
