"""The schemas of what ``api/v1`` takes and answers: made of the models where there are some; pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..audit import Action
from ..jobs.request import CancelRequest, JobRequest
from ..models.job import JobEvent, Profile, Status
from ..models.results import JobOutputs
from ..models.summary import JobSummary

Json = dict[str, Any]

SCHEMAS = "#/components/schemas/"

TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "array", "items": TEXT}
INTEGER: Json = {"type": "integer"}
FLAG: Json = {"type": "boolean"}
MOMENT: Json = {"type": "string", "format": "date-time"}
MAYBE_TEXT: Json = {"type": ["string", "null"]}
MAYBE_MOMENT: Json = {"type": ["string", "null"], "format": "date-time"}


BRIEF = ("id", "user", "name", "status", "created_at")
"""What who submits, cancels or runs again is told of the job, whatever the token may read."""


def make_schemas() -> Json:
    """Return all schemas, by name."""
    models: list[type[BaseModel]] = [JobRequest, CancelRequest, Profile, JobEvent, JobOutputs, JobSummary]
    _, made = models_json_schema(
        [(model, "validation") for model in models], ref_template=SCHEMAS + "{model}"
    )
    schemas: Json = made["$defs"]
    jobs = _make_jobs(schemas) | _make_of_a_job()
    return schemas | jobs | _make_uploads_and_users() | _make_service()


def _make_jobs(schemas: Json) -> Json:
    asked = {
        name: schema
        for name, schema in schemas["JobRequest"]["properties"].items()
        if name not in {"name", "env"}
    }
    job = {
        **dict.fromkeys(("id", "user", "name", "reason", "message"), TEXT),
        "status": {"enum": [*Status]},
        "exit_code": {"type": ["integer", "null"]},
        "created_at": MOMENT,
        "started_at": MAYBE_MOMENT,
        "ended_at": MAYBE_MOMENT,
        "attempts": INTEGER,
        "cancelled_by": MAYBE_TEXT,
        "cancel_note": MAYBE_TEXT,
        "env": {"type": ["object", "null"], "additionalProperties": MAYBE_TEXT},
        "outputs": {"anyOf": [{"$ref": SCHEMAS + "JobOutputs"}, {"type": "null"}]},
        **asked,
        # what is shown of these is what they came to, which may be more than may be asked for
        "command": {"anyOf": [TEXTS, {"type": "null"}]},
        "args": TEXTS,
        "image": TEXT,
        "mem_limit": {"type": ["integer", "null"]},
        "shm_size": {"type": ["integer", "null"]},
        "tags": {"type": "object", "additionalProperties": TEXT},
    }
    omitted: Json = {"type": "array", "items": _object({"path": TEXT, "size": INTEGER})}
    return {
        "Job": _object(job),
        "JobBrief": _object({name: job[name] for name in BRIEF}),
        # by whether the token may read
        "AnsweredJob": {"anyOf": [{"$ref": SCHEMAS + "Job"}, {"$ref": SCHEMAS + "JobBrief"}]},
        "JobPage": _object({"items": _list_of("Job"), "next_cursor": MAYBE_TEXT}),
        "JobCounts": _object({"counts": _object(dict.fromkeys(Status, INTEGER))}),
        "OutputFile": _object({"path": TEXT, "size": INTEGER, "modified_at": MOMENT}),
        "OutputList": _object(
            {"items": _list_of("OutputFile"), "omitted": omitted, **schemas["JobOutputs"]["properties"]}
        ),
        "JobEventList": _object({"items": _list_of("JobEvent")}),
        "ProfileList": _object({"items": _list_of("Profile")}),
    }


def _make_of_a_job() -> Json:
    """Return what a job's log and its timeline look like."""
    lines = {"type": "array", "items": _object({"line": INTEGER, "text": TEXT})}
    found = _object({"items": lines, "truncated": FLAG})
    shown = {
        "items": lines,
        "last_line": INTEGER,
        "last_line_is_open": FLAG,
        "is_complete": FLAG,
        "attempt": INTEGER,
        "place": TEXT,
    }
    step = {"step": TEXT, "time": MOMENT, "attempt": {"type": ["integer", "null"]}}
    attempts = {"type": "array", "items": {"type": "object"}}
    return {
        "LogLines": {"anyOf": [found, _object(shown)]},
        "Timeline": _object({"items": {"type": "array", "items": _object(step)}, "attempts": attempts}),
    }


def _make_uploads_and_users() -> Json:
    upload = {"id": TEXT, "size": INTEGER, "sha256": TEXT, "created_at": MOMENT, "expires_at": MOMENT}
    upload["top_folder"] = MAYBE_TEXT
    user = {"name": TEXT, "kind": TEXT, "groups": TEXTS, "admin": FLAG, "actions": TEXTS, "scopes": TEXTS}
    entry = {
        "at": MOMENT,
        **dict.fromkeys(("who", "name", "user", "address", "request_id", "detail"), TEXT),
        "kind": TEXT,
        "action": {"enum": [*Action]},
        "rights": TEXTS,
    }
    return {
        "Upload": _object(upload),
        "User": _object({**user, **_make_standing()}),
        "ForgottenUser": _object({"user": TEXT, "jobs": INTEGER, "uploads": INTEGER}),
        "AuditEntry": _object(entry),
        "AuditPage": _object({"items": _list_of("AuditEntry"), "next_cursor": MAYBE_TEXT}),
    }


def _make_standing() -> Json:
    """Return what a user's limits, use and queue look like: amounts are by resource."""
    amounts: Json = {"type": "object", "additionalProperties": {"type": "number"}}
    limits = {
        "max_upload_bytes": INTEGER,
        "max_job_bytes": INTEGER,
        "max_body_bytes": INTEGER,
        "jobs": {"anyOf": [amounts, {"type": "null"}]},
    }
    queued = _object({"id": TEXT, "name": TEXT, "place": INTEGER})
    queue = {"reason": TEXT, "message": TEXT, "jobs": {"type": "array", "items": queued}}
    return {
        "limits": _object(limits),
        # null for a token that may not read
        "group_totals": {"type": ["object", "null"], "additionalProperties": amounts},
        "usage": {**amounts, "type": ["object", "null"]},
        "queue": {"anyOf": [_object(queue), {"type": "null"}]},
    }


def _make_service() -> Json:
    state = {"enum": ["ok", "failed", "unknown"]}
    ready = {
        "status": {"enum": ["ok", "degraded", "unavailable", "stopping"]},
        "failed": TEXTS,
        "parts": {"type": "object", "additionalProperties": {"$ref": SCHEMAS + "Part"}},
        "leads": FLAG,
    }
    return {
        "Health": _object({"status": TEXT}),
        "Part": _object({"state": state, "since": MOMENT, "message": TEXT, "needed": FLAG}),
        "Ready": _object(ready),
        "Version": _object({"version": TEXT}),
        "Object": {"type": "object"},
        "Error": _object({"status": INTEGER, "reason": TEXT, "message": TEXT, "details": {}}),
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": {"$ref": SCHEMAS + name}}
