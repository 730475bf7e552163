"""Find and signal processes without ever hitting the wrong one; the standard library only, Linux only."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections import defaultdict
from typing import NamedTuple


class Process(NamedTuple):
    """A process as /proc/<pid>/stat shows it: the time of its start tells it from a later one of that id."""

    pid: int
    parent: int
    state: str
    start_ticks: int


def find_process(pid: int) -> Process | None:
    """Return the process with that id, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name is in parentheses and may hold anything, so the rest is counted from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), fields[0].decode(), int(fields[19]))


def find_descendants(root: int) -> list[Process]:
    """Return the living processes below ``root``, parents first; zombies are not living."""
    children: dict[int, list[Process]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := find_process(int(name))):
            children[process.parent].append(process)
    found: list[Process] = []
    todo = [root]
    while todo:
        for process in children.pop(todo.pop(), ()):
            todo.append(process.pid)
            if process.state not in "ZX":
                found.append(process)
    return found


def send_signal(process: Process, signal_number: int) -> None:
    """Send a signal to that very process; nothing happens when it is gone or not ours to signal."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:  # a kernel before 5.3
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal_number)
        return
    try:
        now = find_process(process.pid)
        if now and now.start_ticks == process.start_ticks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, signal_number)
    finally:
        os.close(pidfd)


def kill_descendants(root: int, *, timeout_seconds: float = 5.0) -> bool:
    """KILL all that is below ``root`` until nothing lives there; return whether that was reached in time.

    Each round stops everything before it kills anything, so that no process is left awake that would
    start another in the place of the one that was killed.
    """
    give_up_at = time.monotonic() + timeout_seconds
    pause_seconds = 0.002
    while found := find_descendants(root):
        if time.monotonic() > give_up_at:
            return False
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                send_signal(process, signal_number)
        time.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, 0.1)
    return True
