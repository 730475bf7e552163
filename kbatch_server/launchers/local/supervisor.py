"""Runs the command of one job, waits for its end, and records the result: one such process for each job.

The service starts it and passes a Spec as JSON on standard input. It becomes a background process without a
parent, so it continues when the service is restarted, killed or upgraded. It uses the standard library only
and holds no secrets except the job's environment. It guarantees:

- It starts a job once. Before anything else it takes the folder's lock and creates the file ``started``, and
  it gives up if that exists.
- It leaves no process of the job behind: daemonised ones stay below a subreaper, which kills them.
- It records the result on the disk before it exits.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .folder import JobFolder, make_end
from .logfile import PIECE_BYTES, LogFile
from .processes import kill_below
from .programs import NOT_EXECUTABLE, NOT_FOUND, explain_denial, run_as

STARTED, REFUSED, FAILED = 0, 3, 1
"""Exit codes of the process that the service waits for."""

KILL_TIMEOUT_SECONDS = 30

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38


class Spec(NamedTuple):
    """A job, for the supervisor; sizes are in bytes, and 0 or None means no limit."""

    command: list[str]
    env: dict[str, str]
    account: str
    """The account that runs the command."""
    uid: int | None
    """None: do not change the account."""
    gid: int
    groups: list[int]
    cpu_limit: float | None
    mem_limit: int | None
    max_file_bytes: int
    max_log_bytes: int
    max_processes: int
    retries: int
    retry_delays_seconds: list[float]
    """The delay before each further attempt; their number is the maximum number of retries."""
    active_deadline_seconds: float | None
    grace_seconds: float
    working_dir: str = ""
    """The folder in the code in which the command runs."""


class Supervisor:
    """Runs one job from its start to its end."""

    def __init__(self, folder: JobFolder, spec: Spec) -> None:
        self.folder = folder
        self.spec = spec
        self.working_dir = os.path.join(folder.code, spec.working_dir) if spec.working_dir else folder.code
        self.attempts: list[dict[str, Any]] = []
        self.told_to_stop = False
        self.asked_to_end = False  # whether the command was sent TERM
        self.deadline = math.inf
        if spec.active_deadline_seconds:
            self.deadline = time.monotonic() + spec.active_deadline_seconds
        # A signal ends a wait at once, also one that comes just before the wait begins.
        self.wakeup, wakeup_end = os.pipe()
        for fd in (self.wakeup, wakeup_end):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        for ignored in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(ignored, lambda *_: None)  # not SIG_IGN, which the job would inherit
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def _on_term(self, *_: object) -> None:
        self.told_to_stop = True

    def run(self) -> None:
        """Run the job, with its retries after a failure, and record its end."""
        while not (end := self._find_reason_to_stop()):
            try:
                exit_code = self._run_attempt()
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                end = self._make_start_error(error)
                break
            if end := self._find_end(exit_code):
                break
            delay_seconds = self.spec.retry_delays_seconds[len(self.attempts) - 1]
            self._write_status(
                "BackOff",
                f"{self._describe(exit_code)} Retrying in {_in_words(delay_seconds)}.",
            )
            self._sleep(delay_seconds)
        self._write_status("", "", end)

    def _find_reason_to_stop(self) -> dict[str, Any] | None:
        """Return the end of a job that was asked to end or exceeded its time limit, or None."""
        exit_code = self.attempts[-1]["exit_code"] if self.attempts else None
        if self.folder.has("cancel"):
            return make_end("cancelled", "Cancelled", "Cancelled by the user.", exit_code, _now())
        if self.told_to_stop:
            message = "The job was stopped from outside, for example because the machine shut down."
            return make_end("failed", "Terminated", message, exit_code, _now())
        if time.monotonic() >= self.deadline:
            limit = _in_words(self.spec.active_deadline_seconds or 0)
            message = f"The job exceeded its time limit of {limit} and was stopped."
            return make_end("failed", "DeadlineExceeded", message, exit_code, _now())
        return None

    def _find_end(self, exit_code: int) -> dict[str, Any] | None:
        """Return the end of the job after an attempt, or None if there is a retry."""
        if exit_code == 0 and not self.asked_to_end:
            return make_end("succeeded", "", "", 0, _now())
        if end := self._find_reason_to_stop():
            return end
        if len(self.attempts) > self.spec.retries:
            return make_end("failed", "Error", self._describe(exit_code), exit_code, _now())
        return None

    def _describe(self, exit_code: int) -> str:
        tries = self.spec.retries + 1
        which = f" in attempt {len(self.attempts)} of {tries}" if tries > 1 else ""
        if exit_code <= 128 or exit_code not in {128 + each for each in signal.valid_signals()}:
            return f"The command ended with exit code {exit_code}{which}."
        number = exit_code - 128
        name = signal.strsignal(number) or f"signal {number}"
        if number == signal.SIGKILL:
            why = "The machine may have run out of memory."
            return f"The command was killed by signal 9 ({name}){which}. {why}"
        return f"The command was terminated by signal {number} ({name}){which}."

    def _make_start_error(self, error: Exception) -> dict[str, Any]:
        """Return the end of a job whose command could not be started, with a helpful message."""
        program = self.spec.command[0]
        exit_code = NOT_EXECUTABLE
        if isinstance(error, FileNotFoundError) and error.filename == self.working_dir:
            message = "The code folder no longer exists."
        elif isinstance(error, PermissionError) and error.filename == self.working_dir:
            message = "The job's account cannot enter the code folder: ask an admin to grant access."
        elif isinstance(error, PermissionError):
            exit_code, message = self._explain_denial(program)
        elif isinstance(error, FileNotFoundError):
            exit_code = NOT_FOUND
            message = f"The program {program!r} was not found."
            if self._is_script(program):
                message = f"The interpreter in the first line of {program!r} was not found."
        elif isinstance(error, OSError):
            message = f"The program {program!r} could not be started: {error.strerror}."
        else:
            message = f"The program {program!r} could not be started within its limits: {error}."
        if self.attempts:
            self.attempts[-1].update(ended_at=_now(), exit_code=exit_code)
        return make_end("failed", "StartError", message, exit_code, _now())

    def _explain_denial(self, program: str) -> tuple[int, str]:
        """Return the exit code and the message for a program that the job's account cannot run."""
        spec = self.spec
        account = f"the job's account ({spec.account})"
        path = spec.env.get("PATH", os.defpath)

        def explain() -> tuple[int, str]:
            return explain_denial(program, self.working_dir, path, account)

        return explain() if spec.uid is None else run_as(spec.uid, spec.gid, spec.groups, explain)

    def _is_script(self, program: str) -> bool:
        """Return whether the program is a file in the job's code; as root we can see too much elsewhere."""
        path = os.path.realpath(os.path.join(self.working_dir, program))
        return path.startswith(os.path.join(self.folder.code, "")) and os.path.isfile(path)

    def _run_attempt(self) -> int:
        """Run the command once and return its exit code: 128 plus the number of a signal that ended it."""
        number = len(self.attempts) + 1
        self.attempts.append({"number": number, "started_at": _now(), "ended_at": None, "exit_code": None})
        log = LogFile(
            self.folder.get_path(f"log.{number}"),
            self.folder.get_path(f"times.{number}"),
            self.spec.max_log_bytes,
        )
        read_end, write_end = os.pipe()
        try:
            try:
                if self.spec.uid is not None:
                    os.fchown(write_end, self.spec.uid, self.spec.gid)  # so that it may open /dev/stdout
                self._write_status("Running", "")
                process = self._start_command(write_end)
                # When memory is short, the job goes before the supervisor and the service.
                with contextlib.suppress(OSError), open(f"/proc/{process.pid}/oom_score_adj", "w") as file:
                    file.write("500")
            finally:
                os.close(write_end)
            os.set_blocking(read_end, False)
            exit_code = self._see_to_end(process, read_end, log)
        finally:
            os.close(read_end)
            log.close()
        self.attempts[-1].update(ended_at=_now(), exit_code=exit_code)
        return exit_code

    def _start_command(self, output: int) -> subprocess.Popen[bytes]:
        spec = self.spec
        return subprocess.Popen(
            spec.command,
            env=spec.env,
            cwd=self.working_dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
            user=spec.uid,
            group=None if spec.uid is None else spec.gid,
            extra_groups=None if spec.uid is None else spec.groups,
            preexec_fn=self._limit_child,  # there is one thread here, which makes this safe
        )

    def _limit_child(self) -> None:
        """Set the limits in the child, which has the job's account already. Memory comes last."""
        spec = self.spec
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)  # no way up by a set-uid program, and so none out of our reach
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if spec.cpu_limit:
            allowed = sorted(os.sched_getaffinity(0))
            first = os.getpid() % len(allowed)  # not all jobs on the same ones
            os.sched_setaffinity(0, (allowed[first:] + allowed[:first])[: math.ceil(spec.cpu_limit)])
        _set_limit(resource.RLIMIT_CORE, 0)
        if spec.max_processes:
            _set_limit(resource.RLIMIT_NPROC, spec.max_processes)
        if spec.max_file_bytes:
            _set_limit(resource.RLIMIT_FSIZE, spec.max_file_bytes)
        if spec.mem_limit:
            _set_limit(resource.RLIMIT_AS, spec.mem_limit)

    def _see_to_end(self, process: subprocess.Popen[bytes], output: int, log: LogFile) -> int:
        """Copy the output until the command ends, end it if that is due, and kill all its processes."""
        kill_at = math.inf
        is_open = True
        while (status := _reap(process.pid)) is None:
            if not self.asked_to_end and self._find_reason_to_stop():
                self.asked_to_end = True
                kill_at = time.monotonic() + self.spec.grace_seconds
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGTERM)
            if time.monotonic() >= kill_at:
                kill_below(os.getpid())
                kill_at = time.monotonic() + 1
            self._wait_until(kill_at if self.asked_to_end else self.deadline, output if is_open else None)
            if is_open:
                is_open = log.copy_from(output)
        process.returncode = status  # already reaped: Popen must not wait for this process id again
        _kill_all_children()
        for _ in range(256):  # the rest in the pipe; a process that cannot be killed may still write
            if not (is_open and log.copy_from(output, only_if_ready=True)):
                break
        return status if status >= 0 else 128 - status

    def _wait_until(self, moment: float, output: int | None = None) -> None:
        """Wait for a signal, for output, or for the moment."""
        poll = select.poll()
        poll.register(self.wakeup, select.POLLIN)
        if output is not None:
            poll.register(output, select.POLLIN)
        seconds = min(max(moment - time.monotonic(), 0), 60)
        poll.poll(math.ceil(seconds * 1000))
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup, PIECE_BYTES)

    def _sleep(self, seconds: float) -> None:
        moment = time.monotonic() + seconds
        while time.monotonic() < moment and not self._find_reason_to_stop():
            self._wait_until(min(moment, self.deadline))

    def _write_status(self, reason: str, message: str, end: dict[str, Any] | None = None) -> None:
        """Record the current state. A full disk delays the end of a job, but does not lose it."""
        status = {"attempts": self.attempts, "reason": reason, "message": message, "end": end}
        delay_seconds = 0.5
        while True:
            try:
                return self.folder.write_status(status)
            except OSError as error:
                print(f"{_now()} the status cannot be written: {error}", file=sys.stderr)
                if end is None or not self.folder.has("started"):
                    return None
            time.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 60)


def main(path: str) -> int:
    """Start the job of a folder in the background, and return an exit code when that is decided."""
    try:
        spec = Spec(**json.load(sys.stdin.buffer))
    except ValueError:  # the service was killed while it wrote; it will start us again
        return FAILED
    decided, decide = os.pipe()
    if os.fork():
        os.close(decide)
        answer = os.read(decided, 1)
        return answer[0] if answer else FAILED
    os.close(decided)
    _supervise(JobFolder(path), spec, decide)
    return 0


def _supervise(folder: JobFolder, spec: Spec, decide: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, sys.stdin.fileno())
    supervisor = Supervisor(folder, spec)
    if not (folder.take_lock() and folder.mark("started")):
        os.write(decide, bytes([REFUSED]))
        return
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more; it is decided all the same
        os.write(decide, bytes([STARTED]))
    os.close(decide)
    supervisor.run()


def _reap(pid: int) -> int | None:
    """Reap every ended child; return the exit status of ``pid`` (-n for signal n) if it is one of them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == pid:
                status = os.waitstatus_to_exitcode(found[1])
    return status


def _kill_all_children() -> None:
    """KILL and reap all processes of the job, until the kernel reports that no child is left.

    The supervisor is a subreaper, so everything that the job started is below it, and without a child nothing
    is left. After a while it gives up on processes that cannot be killed (they wait for a dead file server,
    for example).
    """
    give_up_at = time.monotonic() + KILL_TIMEOUT_SECONDS
    pause_seconds = 0.001
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < give_up_at:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            kill_below(os.getpid())
            time.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 1.5, 0.1)
        print(f"{_now()} some processes of the job could not be killed", file=sys.stderr)


def _set_limit(kind: int, value: int) -> None:
    """Set a limit permanently, unless a stricter one applies already."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_words(seconds: float) -> str:
    return f"{seconds:g} second" + ("" if seconds == 1 else "s")


def _now() -> str:
    return datetime.now(UTC).isoformat()
