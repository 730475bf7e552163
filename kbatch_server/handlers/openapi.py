"""The description of ``api/v1`` in OpenAPI 3.1, from the declarations of handlers and models. Pure.

pydantic makes the schemas. A library for the rest, such as apispec, would read it from YAML in docstrings, in
addition to the declarations that the handlers use themselves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from ..errors import ErrorJson

Json = dict[str, Any]

Routes = Iterable[tuple[str, type]]
"""Patterns of paths, each with its handler."""

SCHEMAS = "#/components/schemas/{model}"

ERRORS = (400, 401, 403, 408, 413, 429, 503)
"""Errors of any request: a wrong query, token or body, a limit, a part that does not respond."""

VALIDATION: JsonSchemaMode = "validation"

SERIALIZATION: JsonSchemaMode = "serialization"
"""The mode of a schema in pydantic: of a body that is read, or of an answer."""

Schemas = Mapping[tuple[str, JsonSchemaMode], Json]
"""Schemas by ``repr`` of their type and what they are of."""

METHODS = ("get", "head", "post", "put", "delete")


@dataclass(frozen=True)
class Operation:
    """A method of a path, and the function of the handler that declares what it takes and answers with."""

    path: str
    method: str
    function: Any

    @property
    def body(self) -> Any:
        """The type of the JSON that it takes, or None."""
        body = self.function.needs.body
        if isinstance(body, (bool, tuple)):
            return None
        return next((each for each in get_args(body) if each is not NoneType), body)

    @property
    def is_body_required(self) -> bool:
        """Whether its body may not be left out."""
        return NoneType not in get_args(self.function.needs.body)


def find_operations(routes: Routes) -> Iterator[Operation]:
    """Yield the operations of ``api/v1``."""
    for pattern, handler in routes:
        for method in METHODS:
            function = getattr(handler, method)
            if pattern.startswith("api/v1/") and hasattr(function, "needs"):
                yield Operation(_make_path(pattern, function), method, function)


def make_openapi(version: str, base_url: str, routes: Routes) -> Json:
    """Return the description; ``base_url`` is the prefix of the service."""
    operations = list(find_operations(routes))
    schemas, components = _make_schemas(operations)
    paths: Json = {}
    for operation in operations:
        made = _make_operation(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method] = made
    return {
        "openapi": "3.1.0",
        "info": {"title": "kbatch-server", "version": version},
        "servers": [{"url": f"{base_url}api/v1"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A JupyterHub API token."}
            },
            "schemas": components,
        },
    }


def _make_path(pattern: str, function: Callable[..., Any]) -> str:
    """Return ``/jobs/{id}`` of a pattern with a group and a function with the parameter ``job_id``."""
    names = (name.rpartition("_")[2] for name in list(inspect.signature(function).parameters)[1:])
    path = pattern.removeprefix("api/v1").removesuffix("/?").replace("\\", "")
    return re.sub(r"\(\[\^/\]\+\)|\(\.\+\)", lambda _: f"{{{next(names)}}}", path)


class _Generator(GenerateJsonSchema):
    """Names schemas as the API does, and says of an answer that it always has all of its fields."""

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(name).removesuffix("Json")

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)


def _make_schemas(operations: Iterable[Operation]) -> tuple[Schemas, Json]:
    """Return the schemas of bodies and answers, and the components that they refer to."""
    inputs: dict[tuple[str, JsonSchemaMode], Any] = {(repr(ErrorJson), SERIALIZATION): ErrorJson}
    for operation in operations:
        inputs[repr(operation.body), VALIDATION] = operation.body
        model = operation.function.answers.model
        inputs[repr(model), SERIALIZATION] = model
    adapters = [(name, mode, TypeAdapter(each)) for (name, mode), each in inputs.items() if each is not None]
    made, rest = TypeAdapter.json_schemas(adapters, ref_template=SCHEMAS, schema_generator=_Generator)
    components = {
        name: {key: each for key, each in schema.items() if key != "title"}
        for name, schema in rest["$defs"].items()
    }
    return made, components


def _make_operation(operation: Operation, schemas: Schemas) -> Json:
    needs = operation.function.needs
    in_path: Json = {"in": "path", "required": True, "schema": {"type": "string"}}
    made: Json = {
        "summary": _make_summary(operation.function),
        "parameters": [
            *({"name": name, **in_path} for name in re.findall(r"{(\w+)}", operation.path)),
            *({"name": each.name, "in": each.place, "schema": each.schema} for each in needs.parameters),
        ],
        "responses": _make_responses(operation, schemas),
    }
    if not needs.user:
        made["security"] = []
    if operation.body is not None:
        made["requestBody"] = {
            "required": operation.is_body_required,
            "content": {"application/json": {"schema": schemas[repr(operation.body), VALIDATION]}},
        }
    elif needs.body:
        made["requestBody"] = {"required": True, "content": _make_file(needs.body)}
    return made


def _make_summary(function: Callable[..., Any]) -> str:
    """Return the first paragraph of a docstring, in one line."""
    first = (inspect.getdoc(function) or "").partition("\n\n")[0]
    return first.replace("\n", " ").removesuffix(".")


def _make_file(media: tuple[str, ...]) -> Json:
    """Return the content of a body that is a file: as it is, or as the field ``file`` of a form."""
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": binary}}
    return {each: {"schema": form if each == "multipart/form-data" else binary} for each in media}


def _make_responses(operation: Operation, schemas: Schemas) -> Json:
    """Return what is answered, by status: a status that is not here is a defect."""
    declared = operation.function.answers
    error = schemas[repr(ErrorJson), SERIALIZATION]
    statuses = {*ERRORS, *declared.errors, *([404] if "{id}" in operation.path else [])}
    made = {
        str(status): {"description": "An error.", "content": {"application/json": {"schema": error}}}
        for status in statuses
    }
    content = {media: {"schema": {"type": "string"}} for media in declared.media}
    if declared.model is not None:
        content["application/json"] = {"schema": schemas[repr(declared.model), SERIALIZATION]}
    for status, description in {declared.status: "Done.", **(declared.also or {})}.items():
        made[str(status)] = {"description": description}
        if status in ERRORS:  # it may be both
            both = {"anyOf": [schemas[repr(declared.model), SERIALIZATION], error]}
            made[str(status)]["content"] = {"application/json": {"schema": both}}
        elif content and status not in {204, 304}:
            made[str(status)]["content"] = content
    return dict(sorted(made.items()))
