"""The steps of a job, from its record alone, so that they outlive its pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from typing_extensions import TypedDict

from ..models.job import Job, Pod
from ..models.times import Moment, show_time, to_iso


class StepJson(TypedDict):
    """A step of a job."""

    step: str
    time: Moment
    attempt: int | None


class AttemptJson(TypedDict):
    """An attempt of a job."""

    number: int
    pod: str
    phase: str
    exit_code: int | None
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None


class TimelineJson(TypedDict):
    """The steps of a job, in order, and its attempts."""

    items: list[StepJson]
    attempts: list[AttemptJson]


def make_timeline(job: Job) -> TimelineJson:
    """Return the JSON of ``api/v1/jobs/{id}/timeline``: ``items``, in their order, and ``attempts``."""
    # not sorted by time: Kubernetes counts in seconds, we in microseconds
    items: list[StepJson] = [
        {"step": name, "time": show_time(at), "attempt": attempt} for name, at, attempt in _list_steps(job)
    ]
    return {
        "items": items,
        "attempts": [_make_attempt(number, pod) for number, pod in enumerate(job.pods, 1)],
    }


def _list_steps(job: Job) -> Iterator[tuple[str, datetime, int | None]]:
    """Yield each step of the job with its time and the number of its attempt."""
    moments: list[tuple[str, datetime | None, int | None]] = [
        ("accepted", job.created_at, None),
        ("handed_over", job.launch_begun_at, None),
    ]
    for number, pod in enumerate(job.pods, 1):
        moments += [
            ("scheduled", pod.scheduled_at, number),
            ("code_fetched", pod.fetched_at, number),
            ("image_pulled", pod.pulled_at, number),
            ("running", pod.started_at, number),
            ("attempt_ended", pod.ended_at, number),
        ]
    moments += [("cancel_requested", job.cancel_requested_at, None), ("ended", job.ended_at, None)]
    for name, moment, attempt in moments:
        if moment is not None:
            yield name, moment, attempt


def _make_attempt(number: int, pod: Pod) -> AttemptJson:
    return {
        "number": number,
        "pod": pod.name,
        "phase": pod.phase,
        "exit_code": pod.exit_code,
        "created_at": show_time(pod.created_at),
        "started_at": to_iso(pod.started_at),
        "ended_at": to_iso(pod.ended_at),
    }
