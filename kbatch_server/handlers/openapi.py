"""The description of ``api/v1`` in OpenAPI 3.1, made from the models and from the table below; pure."""

from __future__ import annotations

from ..audit import Action
from ..models.job import Status
from .schemas import SCHEMAS, Json, make_schemas

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
    "who": {"type": "string", "description": "Who did it: a hub user, service/NAME, or kbatch-server."},
    "action": {"enum": [*Action], "description": "What was done."},
    "until": {"type": "string", "format": "date-time", "description": "Only what was done before this time."},
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

SUMMARY_QUERY: dict[str, Json] = {
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": 10,
        "description": "How many users, and how many reasons.",
    },
}
"""What some of them mean for sums over jobs."""

AUDIT_QUERY: dict[str, Json] = {
    "user": {"type": "string", "description": "Whose things it was done to."},
    "name": {"type": "string", "description": "The id of the job or upload."},
    "since": {"type": "string", "format": "date-time", "description": "Only what was done since this time."},
}
"""What some of them mean for the audit record."""

LIST_QUERY = ("status", "name", "search", "tag", "since", "cursor", "limit", "user")

ERRORS = (400, 401, 403, 408, 413, 429, 503)
"""What any request may be answered with: a wrong query, a token, a body, a limit, a part that is away."""

RANGES = {206: "The range that was asked for."}

OPERATIONS: dict[str, dict[str, Json]] = {
    "uploads": {"post": {"summary": "Keep a ZIP of code", "status": 201, "answer": "Upload", "upload": True}},
    "uploads/{id}": {"get": {"summary": "Show an upload", "answer": "Upload"}},
    "jobs": {
        "post": {
            "summary": "Submit a job; 200 when the Idempotency-Key is that of an equal request before",
            "status": 201,
            "also": {200: "The job of an equal request before."},
            "answer": "AnsweredJob",
            "body": "JobRequest",
            "errors": (404, 409),
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
    "jobs/summary": {
        "get": {
            "summary": "Who has most jobs, and the reasons that most failed for",
            "answer": "JobSummary",
            "query": ("since", "limit", "user"),
            "own": SUMMARY_QUERY,
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
        "post": {
            "summary": "Cancel a job",
            "answer": "AnsweredJob",
            "body": "CancelRequest",
            "may_be_empty": True,
            "errors": (409,),
        }
    },
    "jobs/{id}/rerun": {
        "post": {"summary": "Submit a job like this one", "status": 201, "answer": "AnsweredJob"}
    },
    "jobs/{id}/logs": {
        "get": {
            "summary": "The log, as text (with Range: a part of it) or as server-sent events, by Accept; with"
            " search the lines that were found, as text or JSON",
            "types": ("text/plain", "text/event-stream"),
            "answer": "LogLines",
            "also": RANGES,
            "query": ("follow", "tail", "since", "attempt", "pod", "search", "line", "limit", "download"),
            "own": LOG_QUERY,
            "errors": (416,),
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
            "types": ("*/*",),
            "also": {**RANGES, 304: "The file is the one that is known by its ETag."},
            "errors": (416,),
        },
        "head": {
            "summary": "How large a file is that a job wrote",
            "also": {**RANGES, 304: "The file is the one that is known by its ETag."},
            "errors": (416,),
        },
    },
    "jobs/{id}/events": {"get": {"summary": "What happened to a job", "answer": "JobEventList"}},
    "jobs/{id}/timeline": {
        "get": {"summary": "What a job went through, and its attempts", "answer": "Timeline"}
    },
    "profiles": {"get": {"summary": "The profiles to choose from", "answer": "ProfileList"}},
    "user": {
        "get": {"summary": "Whose token it is, limits, what is used of them, the queue", "answer": "User"}
    },
    "audit": {
        "get": {
            "summary": "Who did what, newest first; as application/x-ndjson all of it, one entry a line",
            "answer": "AuditPage",
            "types": ("application/x-ndjson",),
            "query": ("who", "user", "name", "action", "since", "until", "cursor", "limit"),
            "own": AUDIT_QUERY,
        }
    },
    "users/{name}": {
        "delete": {
            "summary": "Forget a user's jobs, with their logs and results, uploads and usage",
            "answer": "ForgottenUser",
        }
    },
    "health": {"get": {"summary": "Whether the process answers", "answer": "Health", "open": True}},
    "ready": {
        "get": {
            "summary": "How each part is; 503 while requests should go elsewhere",
            "answer": "Ready",
            "also": {503: "Not ready."},
            "open": True,
        }
    },
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
            "schemas": make_schemas(),
        },
    }


def _make_operation(path: str, operation: Json) -> Json:
    known = QUERY | operation.get("own", {})
    parameters = [{"name": name, "in": "query", "schema": known[name]} for name in operation.get("query", ())]
    for name in ("path", "id", "name"):
        if f"{{{name}}}" in path:
            parameters.insert(0, {"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    if operation.get("body") == "JobRequest":
        schema = {"type": "string", "maxLength": 255}
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": schema})
    made: Json = {
        "summary": operation["summary"],
        "parameters": parameters,
        "responses": _make_responses(path, operation),
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


def _make_responses(path: str, operation: Json) -> Json:
    """Return what is answered, by status: a status that is not here is a defect."""
    errors = {*ERRORS, *operation.get("errors", ()), *([404] if "{id}" in path else [])}
    made = {str(status): {"description": "An error.", "content": _json_of("Error")} for status in errors}
    done = {operation.get("status", 200): "Done.", **operation.get("also", {})}
    for status, description in done.items():
        content = {} if status in {204, 304} else _make_content(operation)
        if status in ERRORS:  # it may be both
            schema = {"anyOf": [{"$ref": SCHEMAS + operation["answer"]}, {"$ref": SCHEMAS + "Error"}]}
            content = {"content": {"application/json": {"schema": schema}}}
        made[str(status)] = {"description": description, **content}
    return dict(sorted(made.items()))


def _make_content(operation: Json) -> Json:
    content = {media: {"schema": {"type": "string"}} for media in operation.get("types", ())}
    if "answer" in operation:
        content |= _json_of(operation["answer"])
    return {"content": content} if content else {}


def _json_of(name: str) -> Json:
    return {"application/json": {"schema": {"$ref": SCHEMAS + name}}}
