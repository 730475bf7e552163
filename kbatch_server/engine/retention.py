"""Removes expired uploads, logs, results and records, and objects that no record names."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import traitlets
from traitlets import Dict, Float, Instance, Integer, TraitError, Union, validate
from traitlets.config import LoggingConfigurable

from ..audit import Action, make_entry
from ..errors import NotFound, Unavailable
from ..launchers.base import JobLauncher
from ..logs.recorder import LogRecorder
from ..logs.writer import make_key
from ..models.times import utcnow
from ..models.upload import make_upload_key
from ..outputs.outputs import Outputs
from ..storage.base import Storage, StorageError, StoredObject
from ..store import Store
from ..store.retention import EndedJob, JobPart
from ..uploads.uploads import Uploads

DAY_SECONDS = 86400

ORPHAN_SECONDS = DAY_SECONDS
"""The minimum age of an object without a record to be removed; nothing in progress takes that long."""

AT_ONCE = 500
"""The number of jobs, uploads or objects to look up in the database at once."""

RECORDS_AT_ONCE = 2000
"""The number of records to remove in one run. Each also takes time of the reconciler, and there may be very
many if an admin sets ``job_ttl_seconds`` after years."""

_OURS = re.compile(
    r"uploads/(?P<upload>[0-9a-f]{40})|logs/(?P<log>[^/]+)/\d+-\d{6,}|outputs/(?P<outputs>[^/]+)/[0-9a-f]{32}"
)
"""The keys of this service's objects; it ignores other objects in the storage."""

Kind = Literal["upload", "job", "results", "log", "object"]

_ACTIONS: dict[Kind, Action] = {
    "upload": Action.REMOVE_UPLOAD,
    "job": Action.REMOVE_JOB,
    "results": Action.REMOVE_RESULTS,
    "log": Action.REMOVE_LOG,
    "object": Action.REMOVE_OBJECT,
}

_KINDS: dict[JobPart, Kind] = {"record": "job", "outputs": "results", "log": "log"}


@dataclass(frozen=True, slots=True)
class Removal:
    """Something to remove."""

    kind: Kind
    name: str
    """The id of the upload or job, or the key of an object without a record."""
    user: str
    """The owner; empty for an object without a record."""
    size: int
    """Bytes in the storage."""
    why: str
    """The end of a sentence, like ``expired 2030-01-31``."""


@dataclass(frozen=True, slots=True)
class Ttls:
    """How long to keep the data of one user after a job's end, in seconds; 0: forever."""

    job_ttl_seconds: int
    log_ttl_seconds: int
    output_ttl_seconds: int

    def get_seconds(self, part: JobPart) -> int:
        """Return how long to keep a part of a job, in seconds."""
        return {
            "record": self.job_ttl_seconds,
            "log": self.log_ttl_seconds,
            "outputs": self.output_ttl_seconds,
        }[part]

    def get_cutoff(self, part: JobPart, now: datetime) -> datetime | None:
        """Return the time before which a job must have ended to lose a part; None: it never does."""
        seconds = self.get_seconds(part)
        return now - timedelta(seconds=seconds) if seconds else None


class Retention(LoggingConfigurable):
    """Finds expired data, and removes it.

    It finds the data anew each time, in the records and in the storage's list of objects. So the next run
    completes an interrupted one.
    """

    job_ttl_seconds = Integer(
        0,
        min=0,
        help="""Seconds after a job's end until the service removes its record, with its log and results.

        0, the default, means never: a record alone takes a few kilobytes in the database.
        """,
        config=True,
    )

    log_ttl_seconds = Integer(
        180 * DAY_SECONDS,
        min=0,
        help="""Seconds after a job's end until the service removes its log; its record stays. 0: never.""",
        config=True,
    )

    output_ttl_seconds = Integer(
        90 * DAY_SECONDS,
        min=0,
        help="""Seconds after a job's end until the service removes its results; its record stays. 0: never.
        """,
        config=True,
    )

    audit_ttl_seconds = Integer(
        365 * DAY_SECONDS,
        min=0,
        help="""Seconds until the service removes an entry of the audit record (who did what). 0: never.""",
        config=True,
    )

    user_ttls: Any = Union(
        [Dict(), traitlets.Callable()],
        default_value={},
        help="""Different times for individual users: for each user name, a dict with any of the keys
        ``job_ttl_seconds``, ``log_ttl_seconds`` and ``output_ttl_seconds``.

        Or a function, which may be async, that takes a user's name and returns such a dict, or None.
        Example::

            c.Retention.user_ttls = {"alice": {"output_ttl_seconds": 0, "log_ttl_seconds": 0}}
        """,
        config=True,
    )

    @validate("user_ttls")
    def _validate_user_ttls(self, proposal: Any) -> Any:
        if not callable(proposal["value"]):
            for user, times in proposal["value"].items():
                _check_times(user, times)
        return proposal["value"]

    storage = Instance(Storage)
    store = Instance(Store)
    uploads = Instance(Uploads)
    logs = Instance(LogRecorder)
    outputs = Instance(Outputs)

    async def find(self, *, with_orphans: bool) -> AsyncGenerator[Removal]:
        """Yield the data to remove now; ``with_orphans`` also searches all objects of the storage.

        Raises Unavailable and StorageError.
        """
        now = utcnow()
        async for removal in self._find_uploads(now):
            yield removal
        for user in await self.store.retention.list_users():
            try:
                ttls = await self._get_ttls(user)
            except Exception:  # the function is a program of the admin's: it may raise anything
                self.log.exception("Retention.user_ttls failed for %s: no job of this user is removed", user)
                continue
            async for removal in self._find_parts(user, ttls, now):
                yield removal
        if with_orphans:
            async for removal in self._find_orphans(now - timedelta(seconds=ORPHAN_SECONDS)):
                yield removal

    async def remove(self, removal: Removal) -> bool:
        """Remove one thing; return False if it is needed again, or cannot be removed now."""
        entry = make_entry(_ACTIONS[removal.kind], removal.name, removal.user, detail=removal.why)
        try:
            if removal.kind == "upload":
                is_gone: bool = await self.uploads.delete_expired(removal.name, audit=entry)
                return is_gone
            if removal.kind == "job":
                await self.store.jobs.request_delete(removal.name, user=None, audit=entry)
            elif removal.kind == "results":
                await self.outputs.delete(removal.name, why=f"They {removal.why}.", audit=entry)
            elif removal.kind == "log":
                await self.logs.delete_log(removal.name, audit=entry)
            else:
                await self.store.audit.add(entry)  # first: no row is deleted with it in one transaction
                await self.storage.delete(removal.name)
        except NotFound:
            return False  # somebody else removed it
        except (StorageError, Unavailable) as error:
            self.log.warning(
                "%s %s: cannot be removed, trying again later: %s", removal.kind, removal.name, error
            )
            return False
        return True

    async def sweep(self, *, with_orphans: bool) -> int:
        """Remove expired data, and return the number of removals; many records take several runs.

        It also encrypts users' secrets anew after the first key has changed.
        """
        count = records = 0
        async with aclosing(self.find(with_orphans=with_orphans)) as removals:
            async for removal in removals:
                if removal.kind == "job" and records == RECORDS_AT_ONCE:
                    continue
                if await self.remove(removal):
                    self.log.info("%s %s: removed (%s)", removal.kind, removal.name, removal.why)
                    count += 1
                    records += removal.kind == "job"
        if forgotten := await self.trim_audit():
            self.log.info("removed %d entries of the audit record", forgotten)
        if renewed := await self.store.secrets.renew():
            self.log.info("encrypted %d secrets of users anew, with the first key", renewed)
        return count

    async def trim_audit(self) -> int:
        """Remove expired entries of the audit record, and return their number."""
        if not self.audit_ttl_seconds:
            return 0
        return await self.store.audit.forget(utcnow() - timedelta(seconds=self.audit_ttl_seconds))

    async def _get_ttls(self, user: str) -> Ttls:
        times: Any = self.user_ttls
        if callable(times):
            times = times(user)
            if inspect.isawaitable(times):
                times = await times
            _check_times(user, times or {})
        else:
            times = times.get(user)
        names = Ttls.__dataclass_fields__
        return Ttls(**{name: (times or {}).get(name, getattr(self, name)) for name in names})

    async def _find_uploads(self, now: datetime) -> AsyncIterator[Removal]:
        after = None
        while page := await self.store.uploads.list_expired(now, after=after, limit=AT_ONCE):
            for each in page:
                why = f"unused, and expired {each.expires_at:%Y-%m-%d}"
                yield Removal("upload", each.id, each.user, each.code_size, why)
            after = page[-1]

    async def _find_parts(self, user: str, ttls: Ttls, now: datetime) -> AsyncIterator[Removal]:
        forgotten = ttls.get_cutoff("record", now)
        for part, kind in _KINDS.items():
            before = ttls.get_cutoff(part, now)
            # parts that are removed with their job's record need not be listed again
            since = None if part == "record" else forgotten
            if before is None:
                continue
            async for job in self._list_ended(user, part, before, since):
                why = f"expired {in_words(ttls.get_seconds(part))} after the job's end"
                yield Removal(kind, job.id, user, job.size, why)

    async def _list_ended(
        self, user: str, part: JobPart, before: datetime, since: datetime | None
    ) -> AsyncIterator[EndedJob]:
        after: EndedJob | None = None
        while page := await self.store.retention.list_ended(
            user, part, before=before, since=since, after=after, limit=AT_ONCE
        ):
            for job in page:
                yield job
            after = page[-1]

    async def _find_orphans(self, before: datetime) -> AsyncIterator[Removal]:
        """Yield the objects older than a time that a killed service left without a record."""
        for prefix in ("uploads/", "logs/", "outputs/"):
            async for page in self._list_objects(prefix, before):
                named = await self._find_named([each.key for each in page])
                for each in page:
                    if each.key not in named:
                        yield Removal("object", each.key, "", each.size, "without a record")

    async def _list_objects(self, prefix: str, before: datetime) -> AsyncIterator[Sequence[StoredObject]]:
        page: list[StoredObject] = []
        async with aclosing(self.storage.list(prefix)) as objects:  # type: ignore[type-var]
            async for each in objects:
                if each.modified_at < before and _OURS.fullmatch(each.key):
                    page.append(each)
                if len(page) == AT_ONCE:
                    yield page
                    page = []
        if page:
            yield page

    async def _find_named(self, keys: Collection[str]) -> set[str]:
        """Return the keys that a record names."""
        ids: dict[str, set[str]] = {"upload": set(), "log": set(), "outputs": set()}
        for match in filter(None, map(_OURS.fullmatch, keys)):
            ids[str(match.lastgroup)].add(match[str(match.lastgroup)])
        named = {make_upload_key(each) for each in await self.store.uploads.find_ids(ids["upload"])}
        named |= {make_key(*place) for place in await self.store.retention.find_log_numbers(ids["log"])}
        return named | await self.store.retention.find_output_keys(ids["outputs"])


def in_words(seconds: int) -> str:
    """Return a time as whole days, hours or seconds, like ``90 days``."""
    for unit, length in (("day", DAY_SECONDS), ("hour", 3600), ("second", 1)):
        count, rest = divmod(seconds, length)
        if not rest:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    raise ValueError(f"{seconds} is not a number of seconds")


def _check_times(user: str, times: Mapping[str, Any]) -> None:
    """Raise TraitError unless these are valid times for a user."""
    names = ", ".join(Ttls.__dataclass_fields__)
    for name, seconds in times.items():
        if name not in Ttls.__dataclass_fields__ or not isinstance(seconds, int) or seconds < 0:
            raise TraitError(
                f"Retention.user_ttls: {user!r} has {name!r}: {seconds!r}; it may have {names}, in seconds"
            )


class Janitor(LoggingConfigurable):
    """Runs the retention at intervals."""

    interval_seconds = Float(600, min=1, help="""Seconds between two runs of the retention.""", config=True)

    orphans_interval_seconds = Float(
        6 * 3600,
        min=1,
        help="""Seconds between two searches of the whole storage for objects that a killed service left
        behind. The service deletes them when they are older than a day.
        """,
        config=True,
    )

    launcher = Instance(JobLauncher, allow_none=True)
    retention = Instance(Retention)

    _task: asyncio.Task[None]

    async def start(self) -> None:
        """Begin the runs."""
        self._task = asyncio.create_task(self._rounds(), name="janitor")

    async def stop(self) -> None:
        """End the runs."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self) -> None:
        orphans_at = 0.0
        while True:
            await asyncio.sleep(self.interval_seconds)
            with_orphans = time.monotonic() >= orphans_at
            try:
                await self.retention.sweep(with_orphans=with_orphans)
                if self.launcher is not None:
                    await self.launcher.remove_forgotten()
            except Exception:
                self.log.exception(
                    "the removal of expired jobs, results and uploads failed; trying again later"
                )
            else:
                if with_orphans:
                    orphans_at = time.monotonic() + self.orphans_interval_seconds
