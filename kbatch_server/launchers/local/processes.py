"""Find and signal processes without ever hitting the wrong one; the standard library only, Linux only."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import NamedTuple


class Process(NamedTuple):
    """A process as /proc/<pid>/stat shows it: the time of its start tells it from a later one of that id."""

    pid: int
    parent: int
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
    return Process(pid, int(fields[1]), int(fields[19]))


def send_signal(process: Process, signal_number: int) -> None:
    """Send a signal to that very process; nothing happens when it is gone or not ours to signal."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:  # a kernel before 5.3
            _kill(process.pid, signal_number)
        return
    try:
        now = find_process(process.pid)
        if now and now.start_ticks == process.start_ticks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, signal_number)
    finally:
        os.close(pidfd)


def kill_below(root: int) -> int:
    """KILL what is found below ``root`` in one walk down, and return how many processes that were.

    Each is stopped before its children are looked up. So it starts no more of them, and does not reap
    one, whose id could then be another's. The walk is quicker than a fork, and gets ahead of a job that
    flees by forking again and again; a list of all processes, made first, would miss its newest.
    """
    found: list[int] = []
    todo = _find_children(root)
    while todo:
        pid = todo.pop()
        _kill(pid, signal.SIGSTOP)
        found.append(pid)
        todo += _find_children(pid)
    for pid in reversed(found):
        _kill(pid, signal.SIGKILL)
    return len(found)


def _kill(pid: int, signal_number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal_number)


def _find_children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                    children += map(int, file.read().split())
            except FileNotFoundError:
                if os.path.exists(f"/proc/{pid}/task/{task}"):  # a kernel without CONFIG_PROC_CHILDREN
                    return _search_children(pid)
    return children


def _search_children(pid: int) -> list[int]:
    processes = [find_process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [each.pid for each in processes if each and each.parent == pid]
