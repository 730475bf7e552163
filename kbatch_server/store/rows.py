"""Converts a job to a row and back; only this module knows the format of the columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, func

from ..keyring import BadKey, Keyring
from ..models.job import Job, JobSpec, Pod, Status
from ..models.progress import JobProgress
from ..models.results import JobOutputs
from .tables import jobs

_PODS = TypeAdapter(list[Pod])

ROW_BYTES = 500
"""The size of a job, in its JSON and in the database, without its texts: names of fields, times, indexes."""

LARGE = ("env", "spec", "description", "tags")
"""The columns with the user's data, which may be large."""

_ESCAPED_BYTES = 6
"""The size of a non-ASCII character in JSON."""

_OTHER = ("seq", "status", "spec", "tags", "groups", "pods", "state", "outputs", "progress")
"""The columns whose values differ from the job's field of the same name."""

_SAME = tuple(each.name for each in fields(Job) if each.name in jobs.c and each.name not in _OTHER)
"""The columns with the same content as the job's field of the same name."""

COLUMNS: tuple[ColumnElement[Any], ...] = (
    *(jobs.c[name] for name in _OTHER),
    # its length, because SQLite 3.40 reports every column in RETURNING as not null
    func.coalesce(func.length(jobs.c.env), 0).label("env_bytes"),
    *(jobs.c[name] for name in _SAME),
)
"""The columns of a job in the order that ``make_job`` expects. The environment, which is large and secret, is
read separately."""

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
        "progress",
        "hub_token",
        "hub_secret",
    }
)
"""The columns that the reconciler, and the job itself, may change."""

SHOWN = UPDATABLE - {"launched_at", "cleaned_at", "state", "hub_token", "hub_secret"}
"""Those of them that users see."""


def make_row(job: Job, env: Mapping[str, str], keyring: Keyring) -> dict[str, Any]:
    """Return a job and its environment as the values of all columns except ``seq`` and idempotency's."""
    row = {name: getattr(job, name) for name in _SAME}
    row["status"] = job.status.value
    row["spec"] = job.spec.model_dump_json(exclude_defaults=True)
    row["tags"] = json.dumps(job.tags) if job.tags else "{}"
    row["env"] = keyring.seal(dict(env)) if env else None
    row["groups"] = json.dumps(job.groups) if job.groups else "[]"
    row["pods"] = _dump_pods(job.pods)
    row["state"] = json.dumps(job.state) if job.state else "{}"
    for name in ("outputs", "progress"):
        value = getattr(job, name)
        row[name] = None if value is None else value.model_dump_json()
    row["upload"] = job.spec.upload
    row["rank"] = -job.spec.priority
    row["record_bytes"] = ROW_BYTES + sum(len(row[name] or "") for name in LARGE)
    return row


def make_job(row: Sequence[Any]) -> Job:
    """Return the job in a row of ``COLUMNS``."""
    seq, status, spec, tags, groups, pods, state, outputs, progress, env_bytes, *same = row
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
        progress=None if progress is None else JobProgress.model_validate_json(progress),
    )


def measure(row: Sequence[Any]) -> int:
    """Return the approximate size of a row of ``COLUMNS`` as JSON, from the parts that may be large."""
    texts = [each for each in row if isinstance(each, str)]
    return ROW_BYTES + sum(len(each) if each.isascii() else _ESCAPED_BYTES * len(each) for each in texts)


def make_changes(columns: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``update`` as values of columns; TypeError for one that must not change."""
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
    for name in ("outputs", "progress"):
        if changes.get(name) is not None:
            changes[name] = changes[name].model_dump_json()
    return changes


def _dump_pods(pods: list[Pod]) -> str:
    return _PODS.dump_json(pods).decode() if pods else "[]"


def open_env(sealed: bytes | None, keyring: Keyring) -> dict[str, str] | None:
    """Return a decrypted environment, or None if its key was removed."""
    return {} if sealed is None else open_secret(sealed, keyring)


def open_secret(sealed: bytes, keyring: Keyring) -> Any:
    """Return a decrypted value, or None if its key was removed."""
    try:
        return keyring.unseal(sealed)
    except BadKey:
        return None
