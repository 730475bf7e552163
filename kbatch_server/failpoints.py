"""Steps at which a test kills the service, like a power cut: ``reach("launch.3")`` and the like."""

from __future__ import annotations

import os
import signal

STEPS = {
    "submit.1": "a job was checked, and nothing is written",
    "submit.2": "it is written, and not committed",
    "submit.3": "it is durable, and nobody was told",
    "submit.4": "it is on its way, and its user has no answer",
    "launch.1": "it is a job's turn",
    "launch.2": "that its launch has begun is on record",
    "launch.3": "the first thing is made of it: a suspended Job, or a folder",
    "launch.4": "all is made, and it is not let go",
    "launch.5": "it is let go, and that is not on record",
    "launch.6": "that it is launched is on record",
    "token.1": "a job is to get a token of the hub, and the hub is not asked yet",
    "token.2": "the hub has made the token, and its id is not on record",
    "token.3": "its id is on record, and nobody uses it",
    "finish.1": "the end of a job was seen",
    "finish.2": "its end is on record",
    "archive.1": "a part of its log is in the storage, and not on record",
    "archive.2": "a part of its log is on record",
    "archive.3": "its results are in the storage, and not on record",
    "archive.4": "its results are on record",
    "archive.5": "all is kept, and what ran it has not let go of it",
    "archive.6": "what ran it has let go of it, and that is not on record",
    "hook.1": "a job has ended, and the admin's hook is about to be called",
    "hook.2": "the hook has returned, and that is not on record",
    "cancel.1": "a cancel was asked for, and is not on record",
    "cancel.2": "it is on record, and nobody was told",
    "cancel.3": "it is on its way, and its user has no answer",
    "cancel.4": "what runs the job is about to be told",
    "cancel.5": "what runs the job was told, and has not ended it yet",
    "cancel.6": "nothing of the job is left, and that is not on record",
}
"""Each step and the state when it is reached."""


class WrongFailpoint(ValueError):
    """The variable is set where it must not be, or names no step; the text says what to do, in one line."""


_left: dict[str, int] = {}
"""How many more times to reach a step until the kill; empty in production."""


def arm() -> None:
    """Read the environment variable, like ``launch.3:2``: die when that step is reached the second time.

    Raises WrongFailpoint outside of a pytest test, which pytest marks in the environment: so this cannot be
    on by accident.
    """
    wanted = os.environ.get("KBATCH_TEST_FAILPOINT")
    if wanted is None:
        return
    if "PYTEST_CURRENT_TEST" not in os.environ:
        raise WrongFailpoint("KBATCH_TEST_FAILPOINT: kills the service, for its own tests only; unset it")
    step, _, count = wanted.partition(":")
    if step not in STEPS or not count.isdigit() or int(count) < 1:
        raise WrongFailpoint(
            f"KBATCH_TEST_FAILPOINT: must be a step and a count, like launch.3:1, not {wanted!r}"
        )
    _left[step] = int(count)


def reach(step: str) -> None:
    """Kill the process here if this is the step, and the number of times, that a test has chosen."""
    if step in _left:
        _left[step] -= 1
        if _left[step] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
