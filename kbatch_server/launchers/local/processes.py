"""Finds and signals processes without ever hitting the wrong one; the standard library only, Linux only."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import NamedTuple


class Process(NamedTuple):
    """A process from /proc/<pid>/stat: its start time tells it from a later process with the same id."""

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
    """Send a signal to this very process; does nothing if it is gone, or may not be signalled."""
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
    """KILL the processes below ``root`` found in one walk down, and return their number.

    It stops each process before looking up its children. So the process starts no more of them, and does not
    reap one, whose id another process could get then. The walk is faster than a fork, and so overtakes a job
    that escapes by forking repeatedly; a complete list of processes, made first, would miss the newest.
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
