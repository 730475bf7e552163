"""A job's folder on this machine: its files, its record and its lock; the standard library only.

::

    <root>/<job.id>/       the service's; the job's account may only pass through it
        code/              the job's own: the unpacked ZIP, the working directory
        output/            the job's own: $KBATCH_OUTPUT_DIR
        home/              the job's own: $HOME, if its account has none
        notebook/          the files that run the job's notebook, readable for the job
        secrets/           the job's own: its secret files, $KBATCH_SECRETS_DIR
        manifest           the files that were unpacked to code/: JSON (see ``pack``)
        lock               locked by the supervisor for as long as it lives
        started            created once, by the process that decides about the job's only start
        launch             locked by the process of the service that is launching the job
        cancel             created when the job was asked to end
        status             JSON: the attempts so far and, in the end, the result
        log.1, log.2, …    the output of each attempt; times.1, …: its times (see ``logfile``)
        supervisor.log     errors of the supervisor itself; empty

The lock shows whether a supervisor lives, and its process id. The kernel knows both, so neither a stale file
nor an id that another process has got can mislead. It is a record lock, not flock: a process can query it
without taking it, and children do not inherit it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

_FLOCK = "hhqqi"  # struct flock of fcntl(2): type, whence, start, length, pid
POLL_SECONDS = 0.05
"""Seconds between two checks whether another process has finished launching a job."""

_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


class JobFolder:
    """The folder of one job, by its absolute path. Creating this object does not touch the folder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.code = os.path.join(path, "code")
        self.output = os.path.join(path, "output")
        self.home = os.path.join(path, "home")
        self.secrets = os.path.join(path, "secrets")

    def __repr__(self) -> str:
        return f"JobFolder({self.path!r})"

    def get_path(self, name: str) -> str:
        """Return the path of one of the names above."""
        return os.path.join(self.path, name)

    def has(self, name: str) -> bool:
        """Return whether that file or folder exists."""
        return os.path.lexists(self.get_path(name))

    def mark(self, name: str) -> bool:
        """Create an empty file, durably; return False if it exists already."""
        try:
            fd = os.open(self.get_path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        except FileExistsError:
            return False
        os.close(fd)
        self._sync()
        return True

    def write_files(self, name: str, files: Mapping[str, str]) -> None:
        """Create a folder with files that the job may read; repeating this is harmless."""
        os.makedirs(self.get_path(name), 0o755, exist_ok=True)
        os.chmod(self.get_path(name), 0o755)  # noqa: S103  # whatever the umask is
        for each, text in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
            with open(os.open(os.path.join(self.get_path(name), each), flags, 0o644), "w") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(text)

    def write_secrets(self, files: Mapping[str, str], uid: int, gid: int) -> None:
        """Create the folder with secret files, which only the job's account can read.

        Repeating this is harmless before the job has started.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.secrets, 0o700)
        for name, content in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
            with open(os.open(os.path.join(self.secrets, name), flags, 0o600), "w", newline="") as file:
                os.fchmod(file.fileno(), 0o600)
                os.fchown(file.fileno(), uid, gid)
                file.write(content)
        # last: from now on the folder is the job's
        os.chown(self.secrets, uid, gid, follow_symlinks=False)
        os.chmod(self.secrets, 0o700)

    def open_lock(self) -> int:
        """Return a descriptor of the lock file. Closing *any* descriptor of it releases a held lock."""
        return os.open(self.get_path("lock"), os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)

    def take_lock(self) -> bool:
        """Lock the folder until this process ends; return False when another process has it."""
        try:
            fcntl.lockf(self.open_lock(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def begin_launch(self, timeout_seconds: float) -> BinaryIO | None:
        """Return a file that prevents others from launching the job until it is closed; waits for them.

        None if another process has not finished in time.
        """
        file = open(os.open(self.get_path("launch"), os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600), "r+b")  # noqa: SIM115
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    file.close()
                    return None
                time.sleep(POLL_SECONDS)
            else:
                return file

    def find_supervisor(self) -> int | None:
        """Return the id of the process that holds the lock, or None."""
        try:
            fd = os.open(self.get_path("lock"), os.O_RDWR | _NO_FOLLOW)
        except FileNotFoundError:
            return None
        try:
            question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, question))
        finally:
            os.close(fd)
        return None if kind == fcntl.F_UNLCK else pid

    def read_status(self) -> dict[str, Any]:
        """Return the supervisor's latest status; empty if there is none, or an unreadable one."""
        try:
            with open(os.open(self.get_path("status"), os.O_RDONLY | _NO_FOLLOW), "rb") as file:
                status = json.loads(file.read())
        except (FileNotFoundError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace the whole status; it is on the disk when this returns."""
        new = self.get_path("status.new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600), "wb") as file:
            file.write(json.dumps(status).encode())
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, self.get_path("status"))
        self._sync()

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_end(status: str, reason: str, message: str, exit_code: int | None, at: str) -> dict[str, Any]:
    """Return the end of a job, in the form of ``end`` in the status."""
    return {"status": status, "reason": reason, "message": message, "exit_code": exit_code, "ended_at": at}
