"""Brings each job to its next step, by its record and the launcher's view of it, until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from traitlets import Float, Instance, Integer
from traitlets.config import LoggingConfigurable

from ..errors import NotFound, Unavailable
from ..failpoints import reach
from ..hooks import Hooks
from ..launchers.base import JobLauncher, LauncherUnavailable, LaunchRefused
from ..log import JOB_ID
from ..metrics import (
    ENDED,
    LAUNCHES,
    QUEUE_SECONDS,
    RECONCILE_FAILURES,
    RECONCILE_LAG_SECONDS,
    RECONCILE_SECONDS,
    START_SECONDS,
)
from ..models.job import COMPLETE, Job, JobStatus, Pod, Status
from ..models.times import utcnow
from ..notebooks.launch import EXIT_REASONS
from ..scheduling.scheduler import Scheduler
from ..storage.base import StorageError
from ..store.jobs import JobStore
from .collector import Collector
from .finish_hook import FinishHook
from .hubtokens import HubTokens
from .launch import LaunchBuilder
from .relaunch import Relaunch, keep_count
from .workqueue import WorkQueue

VERDICT = "_verdict"
"""The key in a job's ``state`` for the reason and message with which the service ends it, set before it
does."""

SETTLED = "_settled"
"""The key in the ``state`` of an ended job of which nothing is left to do but to revoke its hub token."""

SETTLE_SECONDS = 0.1
"""Seconds to gather the changes of a job before looking at it."""

TERMINATING_SECONDS = 2
"""Seconds between two looks at a job that is to end, in addition to the launcher's notifications."""

SETTLE_MAX_SECONDS = 60
"""Maximum number of seconds between two looks at an ended job until its log and results are saved."""

TOKEN_RETRY_SECONDS = 10
"""Minimum number of seconds between two attempts to revoke an ended job's token of the hub."""

LOOK_SECONDS = 0.1
"""Minimum number of seconds until the next look at a job that waits for a time."""

LIST_RETRY_SECONDS = 5
"""Seconds until the next try to list the jobs if the database failed."""

MESSAGE_LENGTH = 2000
"""Maximum length of a stored message, in characters: a scheduler's message about a thousand nodes is
longer."""


class Reconciler(LoggingConfigurable):
    """Works on one job at a time in each worker, always from the record and the current state.

    It keeps no state between two looks at a job except in the store. So a kill at any line loses no job: the
    next look continues. If the launcher does not respond, nothing changes about a job.
    """

    workers = Integer(
        8, min=1, help="""The number of jobs that are reconciled at the same time.""", config=True
    )

    concurrent_launches = Integer(
        8, min=1, help="""The number of jobs that are launched at the same time.""", config=True
    )

    resync_seconds = Float(
        30,
        min=1,
        help="""Seconds between two checks for jobs that the leader was not notified of: jobs to launch,
        cancel, delete or clean up after.

        The service checks running jobs whenever the launcher reports a change, and every ``poll_seconds`` of
        the launcher.
        """,
        config=True,
    )

    max_relaunches = Integer(
        6,
        min=0,
        help="""The maximum number of times that the service launches a job again after a node rejected its
        pod.

        In that case (``OutOfcpu``, ``UnexpectedAdmissionError``, ``NodeAffinity``) nothing of the job has
        run. The first new launch follows after 10 seconds, and each later one after twice the previous
        delay. They do not count as attempts. The metric ``kbatch_launches_total`` counts them with the
        result ``again``.
        """,
        config=True,
    )

    collector = Instance(Collector)
    hub_tokens = Instance(HubTokens)
    launcher = Instance(JobLauncher)
    builder = Instance(LaunchBuilder)
    hooks = Instance(Hooks, ())
    jobs = Instance(JobStore)
    scheduler = Instance(Scheduler)
    queue = Instance(WorkQueue, ())

    _tasks: list[asyncio.Task[None]]

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._relaunch = Relaunch(self.launcher, self.jobs, self.queue, self.log)
        self._finish_hook = FinishHook(parent=self, hooks=self.hooks, jobs=self.jobs, queue=self.queue)

    async def start(self) -> None:
        """Start the workers, and look at every job that has not ended."""
        self.queue.on_take = RECONCILE_LAG_SECONDS.observe
        self._tasks = [
            asyncio.create_task(self._resync(), name="resync"),
            asyncio.create_task(self._poll(), name="poll"),
        ]
        self._tasks += [
            asyncio.create_task(self._repeat(self._launch_next), name=f"launch-{i}")
            for i in range(self.concurrent_launches)
        ]
        self._tasks += [
            asyncio.create_task(self._repeat(self._reconcile_next), name=f"worker-{i}")
            for i in range(self.workers)
        ]

    async def stop(self) -> None:
        """Cancel the workers wherever they are: the record is always consistent. It may be started again."""
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._finish_hook.stop()
        finally:
            self.queue.clear()

    async def _resync(self) -> None:
        """Look at all jobs that need a step, even without a notification."""
        with_waiting = not self.scheduler.is_needed
        await self._look_again(lambda: self.jobs.list_due_ids(with_waiting=with_waiting), self.resync_seconds)

    async def _poll(self) -> None:
        """Look at all launched jobs, even if the launcher reports no changes."""
        await self._look_again(self.jobs.list_launched_ids, self.launcher.poll_seconds)

    async def _look_again(self, list_ids: Callable[[], Awaitable[list[str]]], period: float) -> None:
        """Look at jobs in each period: the first time at once, later spread over half of the period.

        A thousand looks at once would delay requests.
        """
        seconds = 0.0
        while True:
            try:
                job_ids = await list_ids()
            except Exception:
                self.log.exception("cannot list the active jobs; trying again")
                await asyncio.sleep(LIST_RETRY_SECONDS)
                continue
            for job_id in job_ids:
                if job_id not in self.scheduler:
                    self.queue.ensure(job_id)
                await asyncio.sleep(seconds / len(job_ids))
            await asyncio.sleep(period - seconds)
            seconds = period / 2

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        # not `while True`: cancelled code may raise an error of its own, and `_handle` catches it
        while task is not None and not task.cancelling():
            await step()

    async def _reconcile_next(self) -> None:
        job_id = await self.queue.get()
        await self._handle(job_id, self.reconcile(job_id))

    async def _launch_next(self) -> None:
        job_id, known = await self.scheduler.next()
        if self.queue.take(job_id):
            await self._handle(job_id, self.launch(job_id, known))
        else:
            self.queue.put(job_id)  # a worker looks at it now; the next look offers it again

    async def _handle(self, job_id: str, step: Awaitable[None]) -> None:
        """Do a step for a job that is active in the queue, and give it back; retry a failed step later."""
        JOB_ID.set(job_id)
        try:
            with RECONCILE_SECONDS.time():
                await step
        except (LauncherUnavailable, StorageError, Unavailable) as error:
            RECONCILE_FAILURES.labels("unavailable").inc()
            delay = self.queue.put_backoff(job_id)
            self.log.warning("job %s: %s; trying again in %.1f s", job_id, error, delay)
        except Exception:
            RECONCILE_FAILURES.labels("failed").inc()
            delay = self.queue.put_backoff(job_id)
            self.log.exception("job %s: reconciling failed; trying again in %.1f s", job_id, delay)
        else:
            self.queue.forget(job_id)
        finally:
            self.queue.done(job_id)

    def count(self) -> dict[str, int]:
        """Return the number of jobs: waiting for a worker, in a worker, for later, to be launched."""
        return self.queue.count() | {"to_launch": len(self.scheduler)}

    def accept(self, job: Job) -> None:
        """Launch a new job when its turn comes, without reading it from the database before."""
        self.scheduler.offer(job)

    def notice(self, job_id: str) -> None:
        """Look at a job soon: changes come in bursts (a Job, its pod, events), and one look sees them all."""
        self.queue.put_after(job_id, SETTLE_SECONDS)

    async def reconcile(self, job_id: str) -> None:
        """Do the next step for one job; raises LauncherUnavailable if that must wait."""
        job = await self.jobs.find(job_id)
        if job is not None and job.is_to_be_launched:
            self.scheduler.offer(job)
            return
        self.scheduler.withdraw(job_id)
        if job is None:
            self.scheduler.leave(job_id)
        elif job.delete_requested_at is not None:
            await self._delete(job)
        elif job.is_over:
            await self._clean(job)
        else:
            await self._observe(job)

    async def _delete(self, job: Job) -> None:
        if await self.launcher.terminate(job):
            await self.collector.delete(job)
            if not await self.hub_tokens.revoke(job):
                self.queue.put_after(job.id, TOKEN_RETRY_SECONDS)
                return
            await self.jobs.remove(job.id)
            self.scheduler.leave(job.id, job.user)
            self.log.info("job %s: removed", job.id)
        else:
            self.queue.put_after(job.id, TERMINATING_SECONDS)

    async def _clean(self, job: Job) -> None:
        self.scheduler.leave(job.id, job.user)
        if job.cleaned_at is not None:
            return
        is_revoked = await self.hub_tokens.revoke(job)
        if SETTLED not in job.state:
            if not await self.collector.settle(job):
                self.queue.put_after(job.id, _get_settle_seconds(job))
                return
            reach("archive.5")
            await self.launcher.clean(job)
            reach("archive.6")
        is_told = self._finish_hook.settle(job)
        if is_revoked and is_told:
            await self.jobs.update(job.id, cleaned_at=utcnow())
        elif not is_revoked:
            if SETTLED not in job.state:
                await self.jobs.update(job.id, state=job.state | {SETTLED: True})
            self.queue.put_after(job.id, max(TOKEN_RETRY_SECONDS, _get_settle_seconds(job)))

    async def launch(self, job_id: str, known: Job | None) -> None:
        """Launch a job whose turn has come; ``known`` is the job if it is in memory.

        If the job was cancelled or deleted in the meantime, it only has the job looked at. Raises
        LauncherUnavailable if the launch must wait.
        """
        job = known or await self.jobs.find(job_id)
        if job is None or not job.is_to_be_launched:
            self.queue.put(job_id)
            return
        reach("launch.1")
        if not await self.jobs.begin_launch(job.id):
            self.queue.put_after(job.id, 0.1)  # cancelled or deleted since it was read: read it again
            return
        self.scheduler.begin(job)
        reach("launch.2")
        try:
            launch = await self.builder.make_launch(job)
            state = keep_count(job, dict(await self.launcher.launch(job, launch)))
        except LaunchRefused as error:
            LAUNCHES.labels("refused").inc()
            await self._end(job, JobStatus(status=Status.FAILED, reason=error.reason, message=error.message))
        except NotFound:
            LAUNCHES.labels("refused").inc()
            message = "The uploaded code no longer exists."
            await self._end(job, JobStatus(status=Status.FAILED, reason="CodeNotFound", message=message))
        except (LauncherUnavailable, StorageError, Unavailable) as error:
            LAUNCHES.labels("unavailable").inc()
            await self.jobs.update(job.id, reason="LauncherUnavailable", message=_waiting(error))
            raise LauncherUnavailable(str(error)) from error
        except Exception:
            LAUNCHES.labels("failed").inc()
            message = (
                "The service could not start the job, and will try again. The cause is in the service's log."
            )
            await self.jobs.update(job.id, reason="LaunchFailed", message=message)
            raise
        else:
            reach("launch.5")
            LAUNCHES.labels("ok").inc()
            QUEUE_SECONDS.observe((utcnow() - job.created_at).total_seconds())
            await self._record_launch(job, state)

    async def _record_launch(self, job: Job, state: dict[str, Any]) -> None:
        launched = await self.jobs.update(
            job.id,
            status=Status.PENDING,
            reason="Launched",
            message="Submitted, waiting to be scheduled.",
            launched_at=utcnow(),
            state=state,
        )
        reach("launch.6")
        if launched is None:
            # another process is the leader now, found no launched job, and has ended it: it must not run
            found = await self.jobs.find(job.id)
            deleted_at = found.delete_requested_at if found is not None else utcnow()
            await self.launcher.terminate(replace(job, state=state, delete_requested_at=deleted_at))
            self.log.warning("job %s: launched after its end, and stopped again", job.id)
            return
        self.log.info("job %s: launched", job.id)
        self.notice(job.id)

    async def _observe(self, job: Job) -> None:
        seen = await self.launcher.poll(job)
        if seen is not None:
            self.collector.begin(replace(job, status=seen.status, pods=_merge_pods(job, seen)))
        elif job.cancel_requested_at is not None or VERDICT in job.state:
            # its Job is gone, but its pod may still write the last lines
            self.collector.begin(job)
        verdict, is_cancelled = _get_verdict(job), job.cancel_requested_at is not None
        if verdict is not None and verdict[0] is Status.SUCCEEDED:
            await self._terminate(job, seen, *verdict)
        elif not is_cancelled and await self._relaunch.take(job, seen, most=self.max_relaunches):
            return
        elif seen is not None and seen.status.is_end and not _is_our_doing(seen, is_cancelled, verdict):
            await self._end(job, explain_end(job, seen))
        elif is_cancelled:
            await self._terminate(job, seen, Status.CANCELLED, "Cancelled", "Cancelled by the user.")
        elif verdict is not None:
            await self._terminate(job, seen, *verdict)
        elif seen is None:
            message = "The job was removed from outside this service."
            await self._end(job, JobStatus(status=Status.FAILED, reason="Lost", message=message))
        elif seen.is_overdue(job.spec):
            limit = seen.get_limit_seconds(job.spec)
            await self._give_up(job, seen.reason, f"{seen.message} Timed out after {limit} seconds.")
        elif seen.is_past_deadline():
            await self._give_up(job, "DeadlineExceeded", seen.deadline_message)
        elif (left := seen.get_seconds_to_finish()) is not None and left <= 0:
            await self._finish(job, seen)
        else:
            held = seen.get_held_seconds()
            if held is not None and held <= 0:
                await self.launcher.release(job)
            await self._record(job, seen)

    async def _finish(self, job: Job, seen: JobStatus) -> None:
        """End a job whose command has ended, but not its pod, with the result of the command."""
        await self._record(job, seen)
        if seen.exit_code == 0:
            # do not wait for the pod: the Job fails if another container, beside the command, fails
            verdict = [*COMPLETE, Status.SUCCEEDED.value]
            await self.jobs.update(job.id, state=job.state | {VERDICT: verdict})
            self.queue.put(job.id)
        else:
            await self.launcher.finish(job)

    async def _give_up(self, job: Job, reason: str, message: str) -> None:
        await self.jobs.update(job.id, state=job.state | {VERDICT: [reason, message]})
        self.queue.put(job.id)

    async def _terminate(
        self, job: Job, seen: JobStatus | None, status: Status, reason: str, message: str
    ) -> None:
        reach("cancel.4")
        if await self.launcher.terminate(job):
            reach("cancel.6")
            end = (
                seen.model_copy() if seen is not None else JobStatus(status=status, started_at=job.started_at)
            )
            end.status, end.reason, end.message, end.ended_at = status, reason, message, utcnow()
            end.exit_code = 0 if status is Status.SUCCEEDED else end.exit_code
            await self._end(job, end)
            return
        reach("cancel.5")
        if job.reason != "Terminating":
            await self.jobs.update(job.id, reason="Terminating", message="Stopping.")
        self.queue.put_after(job.id, TERMINATING_SECONDS)

    async def _record(self, job: Job, seen: JobStatus) -> None:
        """Store the changes, and schedule the next look for when a time limit is reached."""
        changes = _changes(job, seen)
        if changes:
            await self.jobs.update(job.id, **changes)
        _observe_start(job, changes)
        limits = seen.get_left_seconds(job.spec), seen.get_seconds_to_deadline(), seen.get_held_seconds()
        for left in (*limits, seen.get_seconds_to_finish()):
            if left is not None:
                self.queue.put_after(job.id, max(LOOK_SECONDS, left))

    async def _end(self, job: Job, seen: JobStatus) -> None:
        changes = _changes(job, seen) | {"ended_at": seen.ended_at or utcnow()}
        reach("finish.1")
        if await self.jobs.update(job.id, **changes) is not None:
            ENDED.labels(seen.status.value).inc()
            _observe_start(job, changes)
        reach("finish.2")
        self.scheduler.leave(job.id, job.user)
        self.log.info("job %s: %s (%s)", job.id, seen.status.value, seen.reason or "no reason")
        self.queue.put(job.id)


def _get_verdict(job: Job) -> tuple[Status, str, str] | None:
    """Return the status, reason and message with which the service ends the job; None if it does not."""
    if VERDICT not in job.state:
        return None
    reason, message, *status = job.state[VERDICT]
    return Status(status[0]) if status else Status.FAILED, reason, message


def _is_our_doing(seen: JobStatus, is_cancelled: bool, verdict: tuple[Status, str, str] | None) -> bool:
    """Whether a failure results from the service ending the job, and not from its command."""
    return (is_cancelled and seen.never_began) or ((is_cancelled or verdict is not None) and seen.was_removed)


def _get_settle_seconds(job: Job) -> float:
    """Return the seconds until the next look at an ended job whose log or results are not saved yet; more if
    that takes long, as while the storage is down. (The recorder reports a complete log by itself.)"""
    waited = (utcnow() - job.ended_at).total_seconds() if job.ended_at is not None else 0.0
    return min(max(TERMINATING_SECONDS, waited / 10), SETTLE_MAX_SECONDS)


def _changes(job: Job, seen: JobStatus) -> dict[str, Any]:
    """Return the columns of the record that differ from the job's current state."""
    pods = _merge_pods(job, seen)
    wanted = {
        "status": seen.status,
        "reason": seen.reason,
        "message": seen.message[:MESSAGE_LENGTH],
        "exit_code": seen.exit_code,
        "started_at": seen.started_at or job.started_at,
        "pods": pods,
        "attempts": max(len(pods), job.attempts),
    }
    return {name: value for name, value in wanted.items() if getattr(job, name) != value}


def _observe_start(job: Job, changes: dict[str, Any]) -> None:
    """Record the waiting time of a job that is seen running for the first time."""
    if job.started_at is None and changes.get("started_at") is not None:
        START_SECONDS.observe(max(0.0, (changes["started_at"] - job.created_at).total_seconds()))


def explain_end(job: Job, seen: JobStatus) -> JobStatus:
    """Return the end of a job; for a notebook, the exit code tells what went wrong."""
    reason, message = EXIT_REASONS.get(seen.exit_code or 0, (seen.reason, seen.message))
    if job.spec.notebook is None or (seen.status, seen.reason) != (Status.FAILED, "Error"):
        return seen
    return seen.model_copy(update={"reason": reason, "message": message})


def _merge_pods(job: Job, seen: JobStatus) -> list[Pod]:
    """Return all pods in the order in which they were first seen; the record keeps each pod seen once."""
    merged = {pod.name: pod for pod in job.pods}
    for pod in seen.pods:
        earlier = merged.get(pod.name)
        merged[pod.name] = pod if earlier is None else pod.merged_with(earlier)
    return list(merged.values())


def _waiting(error: Exception) -> str:
    return f"Waiting for the launcher: {error}"[:MESSAGE_LENGTH]
