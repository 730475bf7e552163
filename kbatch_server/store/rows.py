"""A job as a row and back: the only place that knows how a job's parts are written down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, func

from ..keyring import BadKey, Keyring
from ..models.job import Job, JobSpec, Pod, Status
from ..models.results import JobOutputs
from .tables import jobs

_PODS = TypeAdapter(list[Pod])

ROW_BYTES = 500
"""What a job has, in its JSON and in the database, beside its texts: names of fields, times, indexes."""

LARGE = ("env", "spec", "description", "tags")
"""The columns of what a user sends, which may be large."""

_ESCAPED_BYTES = 6
"""What a character takes in JSON that is not ASCII."""

_OTHER = ("seq", "status", "spec", "tags", "groups", "pods", "state", "outputs")
"""The columns whose values are not those of the job's field of the same name."""

_SAME = tuple(each.name for each in fields(Job) if each.name in jobs.c and each.name not in _OTHER)
"""The columns that hold what the field of a job of the same name holds."""

COLUMNS: tuple[ColumnElement[Any], ...] = (
    *(jobs.c[name] for name in _OTHER),
    # its length, as SQLite 3.40 says of every column in RETURNING that it is not null
    func.coalesce(func.length(jobs.c.env), 0).label("env_bytes"),
    *(jobs.c[name] for name in _SAME),
)
"""What is read of a job, in the order that ``make_job`` expects. Its environment, a large
secret, is read by itself."""

UPDATABLE = frozenset(
    {
        "status",
        "reason",
        "message",
        "exit_code",
        "attempts",
        "launched_at",
        "started_at",
        "ended_at",
        "cleaned_at",
        "pods",
        "state",
        "outputs",
    }
)
"""What the reconciler may change of a job."""

SHOWN = UPDATABLE - {"launched_at", "cleaned_at", "state"}
"""What of it a user sees."""


def make_row(job: Job, env: Mapping[str, str], keyring: Keyring) -> dict[str, Any]:
    """Return a job and its environment as the values of all columns but ``seq`` and its idempotency's."""
    row = {name: getattr(job, name) for name in _SAME}
    row["status"] = job.status.value
    row["spec"] = job.spec.model_dump_json(exclude_defaults=True)
    row["tags"] = json.dumps(job.tags) if job.tags else "{}"
    row["env"] = keyring.seal(dict(env)) if env else None
    row["groups"] = json.dumps(job.groups) if job.groups else "[]"
    row["pods"] = _dump_pods(job.pods)
    row["state"] = json.dumps(job.state) if job.state else "{}"
    row["outputs"] = None if job.outputs is None else job.outputs.model_dump_json()
    row["upload"] = job.spec.upload
    row["rank"] = -job.spec.priority
    row["record_bytes"] = ROW_BYTES + sum(len(row[name] or "") for name in LARGE)
    return row


def make_job(row: Sequence[Any]) -> Job:
    """Return the job of a row of ``COLUMNS``."""
    seq, status, spec, tags, groups, pods, state, outputs, env_bytes, *same = row
    # an empty one is what most of them are: not parsed, fifty times a page
    return Job(
        **dict(zip(_SAME, same, strict=True)),
        seq=seq,
        status=Status(status),
        spec=JobSpec.model_validate_json(spec),
        tags={} if tags == "{}" else json.loads(tags),
        has_env=env_bytes > 0,
        groups=[] if groups == "[]" else json.loads(groups),
        pods=[] if pods == "[]" else _PODS.validate_json(pods),
        state={} if state == "{}" else json.loads(state),
        outputs=None if outputs is None else JobOutputs.model_validate_json(outputs),
    )


def measure(row: Sequence[Any]) -> int:
    """Return about how many bytes a row of ``COLUMNS`` has as JSON, by what of it may be large."""
    texts = [each for each in row if isinstance(each, str)]
    return ROW_BYTES + sum(len(each) if each.isascii() else _ESCAPED_BYTES * len(each) for each in texts)


def make_changes(columns: dict[str, Any]) -> dict[str, Any]:
    """Return what ``update_job`` was given as values of columns; TypeError for one that it may not change."""
    unknown = columns.keys() - UPDATABLE
    if unknown or not columns:
        raise TypeError(f"update_job changes {', '.join(sorted(UPDATABLE))}; not {sorted(unknown)}")
    changes = dict(columns)
    if "status" in changes:
        changes["status"] = Status(changes["status"]).value
    if "pods" in changes:
        changes["pods"] = _dump_pods(changes["pods"])
    if "state" in changes:
        changes["state"] = json.dumps(changes["state"])
    if changes.get("outputs") is not None:
        changes["outputs"] = changes["outputs"].model_dump_json()
    return changes


def _dump_pods(pods: list[Pod]) -> str:
    return _PODS.dump_json(pods).decode() if pods else "[]"


def open_env(sealed: bytes | None, keyring: Keyring) -> dict[str, str] | None:
    """Return an environment, or None where its key was removed."""
    if sealed is None:
        return {}
    try:
        env: dict[str, str] = keyring.unseal(sealed)
    except BadKey:
        return None
    return env
