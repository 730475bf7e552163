"""The description of ``api/v1`` in OpenAPI 3.1, made from the models and from the table below; pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..jobrequest import CancelRequest, JobRequest
from ..models import JobEvent, JobOutputs, Profile, Status

Json = dict[str, Any]

SCHEMAS = "#/components/schemas/"

QUERY: dict[str, Json] = {
    "status": {
        "type": "array",
        "items": {"enum": [*Status]},
        "description": "Repeated, or separated by commas.",
    },
    "name": {"type": "string", "description": "The job's name, all of it."},
    "search": {"type": "string", "description": "Some letters of the job's name, in whatever case."},
    "tag": {
        "type": "array",
        "items": {"type": "string"},
        "description": "A tag's name, or name:value; may repeat.",
    },
    "since": {
        "type": "string",
        "format": "date-time",
        "description": "Only jobs made at or after this time.",
    },
    "cursor": {"type": "string", "description": "next_cursor of the page before."},
    "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
    "user": {"type": "string", "description": "For an admin: whose jobs; * for everybody's."},
    "follow": {
        "type": "boolean",
        "default": False,
        "description": "Go on as the log grows, until the job is over.",
    },
    "tail": {"type": "integer", "minimum": 0, "description": "Only so many of the last lines."},
    "pod": {"type": "string", "description": "The name of one of the job's pods; else the newest."},
    "attempt": {"type": "integer", "minimum": 1, "description": "Which attempt's log; else the newest."},
    "line": {
        "type": "integer",
        "minimum": 1,
        "description": "The number of the first line to send, as JSON.",
    },
    "download": {"type": "boolean", "default": False, "description": "As a file to be saved."},
}
"""The query parameters, by name: the same name means the same everywhere."""

LOG_QUERY: dict[str, Json] = {
    "search": {"type": "string", "description": "Only lines that hold this, in whatever case."},
    "since": {
        "type": "string",
        "description": "What was written at or after this time, or within so long: 90, 90s, 10m, 2h, 1d.",
    },
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10000,
        "default": 1000,
        "description": "How many lines to find, or to send.",
    },
}
"""What some of them mean for a log."""

LIST_QUERY = ("status", "name", "search", "tag", "since", "cursor", "limit", "user")

OPERATIONS: dict[str, dict[str, Json]] = {
    "uploads": {"post": {"summary": "Keep a ZIP of code", "status": 201, "answer": "Upload", "upload": True}},
    "uploads/{id}": {"get": {"summary": "Show an upload", "answer": "Upload"}},
    "jobs": {
        "post": {
            "summary": "Submit a job; 200 when the Idempotency-Key is that of an equal request before",
            "status": 201,
            "answer": "Job",
            "body": "JobRequest",
        },
        "get": {"summary": "List jobs, newest first", "answer": "JobPage", "query": LIST_QUERY},
    },
    "jobs/counts": {
        "get": {
            "summary": "How many jobs there are of each status",
            "answer": "JobCounts",
            "query": ("user",),
        },
    },
    "jobs/watch": {
        "get": {
            "summary": "The changes of jobs as server-sent events, as they come",
            "types": ("text/event-stream",),
            "query": ("user",),
        }
    },
    "jobs/{id}": {
        "get": {"summary": "Show a job", "answer": "Job"},
        "delete": {"summary": "Cancel a job if it is not over, and forget it", "status": 204},
    },
    "jobs/{id}/cancel": {
        "post": {"summary": "Cancel a job", "answer": "Job", "body": "CancelRequest", "may_be_empty": True}
    },
    "jobs/{id}/rerun": {"post": {"summary": "Submit a job like this one", "status": 201, "answer": "Job"}},
    "jobs/{id}/logs": {
        "get": {
            "summary": "The log, as text (with Range: a part of it) or as server-sent events, by Accept; with"
            " search the lines that were found, as text or JSON",
            "types": ("text/plain", "text/event-stream", "application/json"),
            "query": ("follow", "tail", "since", "attempt", "pod", "search", "line", "limit", "download"),
            "own": LOG_QUERY,
        }
    },
    "jobs/{id}/outputs": {
        "get": {"summary": "The files that a job wrote, by path", "answer": "OutputList"},
    },
    "jobs/{id}/outputs.zip": {
        "get": {"summary": "All files that a job wrote", "types": ("application/zip",)},
    },
    "jobs/{id}/outputs/{path}": {
        "get": {
            "summary": "A file that a job wrote, or the range of it that is asked for",
            "types": ("application/octet-stream",),
        },
        "head": {"summary": "How large a file is that a job wrote"},
    },
    "jobs/{id}/events": {"get": {"summary": "What happened to a job", "answer": "JobEventList"}},
    "jobs/{id}/timeline": {
        "get": {"summary": "What a job went through, and its attempts", "answer": "Timeline"}
    },
    "profiles": {"get": {"summary": "The profiles to choose from", "answer": "ProfileList"}},
    "user": {"get": {"summary": "Who the token belongs to, what it is good for, limits", "answer": "User"}},
    "health": {"get": {"summary": "Whether the process answers", "answer": "Health", "open": True}},
    "ready": {"get": {"summary": "Whether all that is needed works", "answer": "Ready", "open": True}},
    "version": {"get": {"summary": "The version", "answer": "Version", "open": True}},
    "openapi.json": {"get": {"summary": "This description", "answer": "Object", "open": True}},
}


def make_openapi(version: str, base_url: str) -> Json:
    """Return the description; ``base_url`` is the prefix of the service."""
    paths = {
        f"/{path}": {method: _make_operation(path, operation) for method, operation in methods.items()}
        for path, methods in OPERATIONS.items()
    }
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
            "schemas": _make_schemas(),
        },
    }


def _make_operation(path: str, operation: Json) -> Json:
    known = QUERY | operation.get("own", {})
    parameters = [{"name": name, "in": "query", "schema": known[name]} for name in operation.get("query", ())]
    for name in ("path", "id"):
        if f"{{{name}}}" in path:
            parameters.insert(0, {"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    if operation.get("body") == "JobRequest":
        schema = {"type": "string", "maxLength": 255}
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": schema})
    made: Json = {
        "summary": operation["summary"],
        "parameters": parameters,
        "responses": {
            str(operation.get("status", 200)): {"description": "Done.", **_make_content(operation)},
            "default": {"description": "An error.", "content": _json_of("Error")},
        },
    }
    if operation.get("open"):
        made["security"] = []
    if "body" in operation:
        is_required = not operation.get("may_be_empty")
        made["requestBody"] = {"required": is_required, "content": _json_of(operation["body"])}
    if operation.get("upload"):
        binary = {"type": "string", "format": "binary"}
        form = {"type": "object", "required": ["file"], "properties": {"file": binary}}
        made["requestBody"] = {
            "required": True,
            "content": {"application/zip": {"schema": binary}, "multipart/form-data": {"schema": form}},
        }
    return made


def _make_content(operation: Json) -> Json:
    if "types" in operation:
        return {"content": {media: {"schema": {"type": "string"}} for media in operation["types"]}}
    return {"content": _json_of(operation["answer"])} if "answer" in operation else {}


def _json_of(name: str) -> Json:
    return {"application/json": {"schema": {"$ref": SCHEMAS + name}}}


def _make_schemas() -> Json:
    models: list[type[BaseModel]] = [JobRequest, CancelRequest, Profile, JobEvent, JobOutputs]
    _, made = models_json_schema(
        [(model, "validation") for model in models], ref_template=SCHEMAS + "{model}"
    )
    schemas: Json = made["$defs"]
    text, moment = {"type": "string"}, {"type": ["string", "null"], "format": "date-time"}
    asked = {
        name: schema
        for name, schema in schemas["JobRequest"]["properties"].items()
        if name not in {"name", "env"}
    }
    job = {
        "id": text,
        "user": text,
        "name": text,
        "status": {"enum": [*Status]},
        "reason": text,
        "message": text,
        "exit_code": {"type": ["integer", "null"]},
        "created_at": moment,
        "started_at": moment,
        "ended_at": moment,
        "attempts": {"type": "integer"},
        "cancelled_by": {"type": ["string", "null"]},
        "cancel_note": {"type": ["string", "null"]},
        "env": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "outputs": {"anyOf": [{"$ref": SCHEMAS + "JobOutputs"}, {"type": "null"}]},
        **asked,
    }
    integer, texts = {"type": "integer"}, {"type": "array", "items": text}
    step = {"step": text, "time": moment, "attempt": {"type": ["integer", "null"]}}
    attempts = {"type": "array", "items": {"type": "object"}}
    upload = {"id": text, "size": integer, "sha256": text, "created_at": moment, "expires_at": moment}
    user = {"name": text, "kind": text, "groups": texts, "admin": {"type": "boolean"}, "actions": texts}
    return schemas | {
        "Job": _object(job),
        "JobCounts": _object({"counts": _object(dict.fromkeys(Status, integer))}),
        "Timeline": _object({"items": {"type": "array", "items": _object(step)}, "attempts": attempts}),
        "JobPage": _object({"items": _list_of("Job"), "next_cursor": {"type": ["string", "null"]}}),
        "OutputFile": _object({"path": text, "size": integer, "modified_at": moment}),
        "OutputList": _object({"items": _list_of("OutputFile"), **schemas["JobOutputs"]["properties"]}),
        "JobEventList": _object({"items": _list_of("JobEvent")}),
        "ProfileList": _object({"items": _list_of("Profile")}),
        "Upload": _object(upload),
        "User": _object({**user, "scopes": texts, "limits": {"type": "object"}}),
        "Health": _object({"status": text}),
        "Ready": _object({"status": text, "failed": texts, "leads": {"type": "boolean"}}),
        "Version": _object({"version": text}),
        "Object": {"type": "object"},
        "Error": _object({"status": integer, "reason": text, "message": text, "details": {}}),
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": {"$ref": SCHEMAS + name}}
