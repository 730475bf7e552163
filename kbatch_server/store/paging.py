"""Pages of jobs: a cached statement for each kind of query, and the cursor."""

from __future__ import annotations

import base64
import contextlib
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Select, bindparam, exists, select, text, union_all

from ..errors import InvalidRequest
from ..models.job import ENDS, Job, Status
from ..models.listing import JobPage, JobQuery
from .rows import COLUMNS, make_job, measure
from .tables import CHILD, job_tags, jobs

_ACTIVE = tuple(sorted(set(Status) - ENDS))
_LIMIT = bindparam("limit", type_=Integer())


STEP = 100
"""The number of jobs to read at once: PostgreSQL's driver has all rows of a result in memory."""


def read_page(connection: Connection, query: JobQuery) -> JobPage:
    """Return a page, newest first, of at most ``query.limit`` jobs and ``query.max_bytes``, at least one job.

    Raises InvalidRequest for an invalid cursor.
    """
    page: list[Job] = []
    left, size = query.limit, 0
    while left:
        step = min(left, STEP)
        statement, values = make_page_statement(query, step + 1)  # one more, to know if others follow
        rows = connection.execute(statement, values).all()
        for row in rows[:step]:
            row_size = measure(row)
            if page and size + row_size > query.max_bytes:
                return JobPage(page, make_cursor(page[-1].seq), size)
            size += row_size
            page.append(make_job(row))
        if len(rows) <= step:
            return JobPage(page, None, size)
        left -= step
        query = replace(query, cursor=make_cursor(page[-1].seq))
    return JobPage(page, query.cursor, size)


class _Shape(NamedTuple):
    """The conditions of a query without their values: queries with the same shape share a statement."""

    user: bool
    statuses: int
    name: bool
    search: bool
    since: bool
    parent: bool
    lately: bool
    cursor: bool
    tags: tuple[bool, ...]
    """For each tag, whether the query also has its value."""


def make_page_statement(query: JobQuery, limit: int) -> tuple[Select[Any], dict[str, Any]]:
    """Return a statement for up to ``limit`` jobs, and its values."""
    shape = _Shape(
        user=query.user is not None,
        statuses=len(query.statuses),
        name=query.name is not None,
        search=query.search is not None,
        since=query.since is not None,
        parent=query.parent is not None,
        lately=query.unless_ended_before is not None,
        cursor=query.cursor is not None,
        tags=tuple(value is not None for _, value in query.tags),
    )
    values: dict[str, Any] = {"limit": limit}
    if query.user is not None:
        values["user"] = query.user
    if query.name is not None:
        values["name"] = query.name
    if query.search is not None:
        values["search"] = f"%{_escape_like(query.search)}%"
    if query.since is not None:
        values["since"] = query.since
    if query.parent is not None:
        values["parent"] = query.parent
    if query.unless_ended_before is not None:
        values["ended_since"] = query.unless_ended_before
        values |= {f"status_{i}": status.value for i, status in enumerate(_ACTIVE)}
    if query.cursor is not None:
        values["before"] = _parse_cursor(query.cursor)
    values |= {f"status_{i}": status.value for i, status in enumerate(query.statuses)}
    for i, (key, value) in enumerate(query.tags):
        values[f"key_{i}"] = key
        if value is not None:
            values[f"value_{i}"] = value
    return _make_statement(shape), values


@lru_cache(maxsize=256)
def _make_statement(shape: _Shape) -> Select[Any]:
    if shape.statuses < 2 and not shape.lately:
        return _make_simple(shape, select(*COLUMNS))
    # one walk along the index for each status, then the newest of their results; in one query for all
    # statuses, databases would read every job of the user
    each_status = shape._replace(statuses=len(_ACTIVE), lately=False) if shape.lately else shape
    walks = [_make_simple(each_status, select(jobs.c.seq), status=i) for i in range(each_status.statuses)]
    if shape.lately:
        # without order and cursor: otherwise SQLite reads every job of the user for this as well
        ended = _make_simple(shape._replace(cursor=False), select(jobs.c.seq))
        walks.append(ended.order_by(None).limit(None))
    branches = [select(walk.subquery().c.seq) for walk in walks]
    page = select(*COLUMNS).where(jobs.c.seq.in_(union_all(*branches)))
    if shape.cursor:
        page = page.where(jobs.c.seq < bindparam("before"))
    return page.order_by(jobs.c.seq.desc()).limit(_LIMIT)


def _make_simple(shape: _Shape, statement: Select[Any], *, status: int = 0) -> Select[Any]:
    """Return ``statement`` with the conditions of the shape, and one of its statuses."""
    statement = statement.where(jobs.c.delete_requested_at.is_(None))
    if shape.user:
        statement = statement.where(jobs.c.user == bindparam("user"))
    if shape.statuses:
        statement = statement.where(jobs.c.status == bindparam(f"status_{status}"))
    if shape.name:
        statement = statement.where(jobs.c.name == bindparam("name"))
    if shape.search:
        # only reads the index of names, which is much smaller than the table
        named = select(jobs.c.seq).where(jobs.c.name.ilike(bindparam("search"), escape="\\"))
        if shape.user:
            named = named.where(jobs.c.user == bindparam("user"))
        statement = statement.where(jobs.c.seq.in_(named))
    if shape.since:
        statement = statement.where(jobs.c.created_at >= bindparam("since"))
    if shape.parent:
        statement = statement.where(jobs.c.parent == bindparam("parent"), text(CHILD))
    if shape.lately:
        statement = statement.where(jobs.c.ended_at >= bindparam("ended_since"))
    order = jobs.c.seq
    for i, with_value in enumerate(shape.tags):
        if shape.user and with_value and order is jobs.c.seq:
            # follow the index of the first tag, which has the order of the page
            first = job_tags.alias()
            order = first.c.job_seq
            statement = statement.join(first, first.c.job_seq == jobs.c.seq).where(
                first.c.user == bindparam("user"),
                first.c.key == bindparam(f"key_{i}"),
                first.c.value == bindparam(f"value_{i}"),
            )
            continue
        tag = exists().where(job_tags.c.job_seq == jobs.c.seq, job_tags.c.key == bindparam(f"key_{i}"))
        statement = statement.where(
            tag.where(job_tags.c.value == bindparam(f"value_{i}")) if with_value else tag
        )
    if shape.cursor:
        statement = statement.where(order < bindparam("before"))
    return statement.order_by(order.desc()).limit(_LIMIT)


def _escape_like(words: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", words)


def make_cursor(seq: int) -> str:
    """Return the cursor for the page after the job with this number."""
    return base64.urlsafe_b64encode(b"seq:%d" % seq).decode().rstrip("=")


def _parse_cursor(cursor: str) -> int:
    with contextlib.suppress(ValueError):  # not even base64
        kind, _, seq = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).partition(b":")
        if kind == b"seq" and seq.isdigit() and len(seq) < 19:
            return int(seq)
    raise InvalidRequest.of_field("cursor", "is not the next_cursor of a page")
