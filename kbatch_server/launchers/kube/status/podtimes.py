"""When a pod got how far: from its conditions, the states of its containers and its events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ....models.job import Pod
from ..manifests.job import FETCH_CONTAINER
from .events import Event
from .pods import ended_at, exit_code_of, find_condition, find_container, find_state, is_over, parse_time

Manifest = dict[str, Any]


def make_pod(pod: Manifest, events: Sequence[Event]) -> Pod:
    """Return what is recorded of a pod; ``events`` are those of its job, and may be gone by now."""
    scheduled = find_condition(pod, "PodScheduled")
    own = [event for event in events if event.kind == "Pod" and event.name == pod["metadata"]["name"]]
    return Pod(
        name=pod["metadata"]["name"],
        phase=pod["status"].get("phase", "Unknown"),
        created_at=parse_time(pod["metadata"]["creationTimestamp"]),
        exit_code=exit_code_of(pod),
        scheduled_at=parse_time(scheduled["lastTransitionTime"]) if scheduled else None,
        fetched_at=_find_time(find_state(pod, FETCH_CONTAINER), "finishedAt"),
        pulled_at=_find_pull(pod, own),
        started_at=_find_time(find_state(pod), "startedAt"),
        ended_at=ended_at(pod) if is_over(pod) else None,
    )


def _find_time(state: Manifest, which: str) -> datetime | None:
    text = (state.get("terminated") or state.get("running") or {}).get(which)
    # 1970 is what containerd says of a container that never started
    return parse_time(text) if text and not text.startswith("1970") else None


def _find_pull(pod: Manifest, events: Sequence[Event]) -> datetime | None:
    """Return when the command's image was there, which only an event says."""
    image = f'"{find_container(pod).get("image", "")}"'
    return max(
        (event.first for event in events if event.reason == "Pulled" and image in event.message), default=None
    )
