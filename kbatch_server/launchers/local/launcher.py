"""Runs jobs as processes on the service's own machine: no cluster and no containers, each job with limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from traitlets import Float, Instance, Integer, TraitError, Unicode, default, observe, validate

from ...bytesize import ByteSize
from ...errors import InvalidRequest
from ...failpoints import reach
from ...models.job import Job, JobSpec, JobStatus
from ...models.results import OutputLimits, OutputTar
from ...models.secret import SECRETS_VARIABLE
from ...models.server import PREFIX
from ...models.times import to_iso, utcnow
from ...notebooks.files import make_files
from ...notebooks.launch import make_command
from ...outputs.selection import OUTPUTS, WORKDIR
from ...slugs import make_account_name
from ...storage.base import ObjectNotFound, Storage, StorageError
from ...templates import OF_USER, expand, find_problem
from ..base import JobLauncher, Launch, LauncherUnavailable, LaunchRefused, LogPiece
from . import logreader
from .accounts import Account, find_barrier, find_entry, get_account, has_home
from .folder import JobFolder, make_end
from .pack import PackedFolder, read_folders, write_manifest
from .processes import find_process, kill_below, send_signal
from .status import find_status
from .supervisor import REFUSED, STARTED, Spec
from .unpack import BadCode, check_folder, clean_folder, fetch_code, give_tree, remove_tree, unpack
from .watcher import Watcher

HOME_FIELDS = tuple(each for each in OF_USER if not each.startswith("unescaped_"))
"""The fields of the template of homes: a user's name as it is could lead to another folder."""

Params = ParamSpec("Params")
Result = TypeVar("Result")

_PACKAGE_PARENT = str(Path(__file__).parents[3])
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kbatch_server.launchers.local.supervisor import main; sys.exit(main(sys.argv[2]))"
)


class LocalProcessJobLauncher(JobLauncher):
    """Runs each job as a process of this machine, with its own small supervisor.

    Jobs survive a restart of the service, which reads their state from their folders (``folder``) and from
    their supervisors' locks. ``spec.image`` has no effect: the command uses the programs of this machine. A
    service that runs as root runs jobs as the hub user's system account or as ``user``, never as root.
    Otherwise jobs run as the service's own account, and can read all of its files: use this only to try
    things out, not for people who do not trust each other.
    """

    runs_notebooks = True
    has_secret_files = True

    root = Unicode(
        help="""The folder that contains the folders of the jobs. Default: ``kbatch-jobs`` in the working
        folder of the service; a relative path starts there, too. The accounts that run jobs must be able to
        enter the folder, and only the service may be able to write to it.
        """,
    ).tag(config=True)

    @default("root")
    def _default_root(self) -> str:
        return os.path.abspath("kbatch-jobs")

    @validate("root")
    def _validate_root(self, proposal: Any) -> str:
        if not proposal.value:
            raise TraitError("LocalProcessJobLauncher.root must name a folder")
        return os.path.abspath(str(proposal.value))

    user = Unicode(
        "nobody",
        help="""The system account that runs the jobs of hub users without an account of their own, if the
        service runs as root. These jobs can read and stop each other. If that matters, give each hub user an
        account.
        """,
    ).tag(config=True)

    min_uid = Integer(
        1000,
        min=1,
        help="""The lowest user id that a hub user's own account may have. It keeps a hub user with the name
        of a system account (postgres, daemon) from getting that account.
        """,
    ).tag(config=True)

    home_template = Unicode(
        help="""The folder of a user on this machine that is the home of jobs with ``home`` in their request,
        as a template: ``/home/{username}``. Default: none, and such requests are rejected.

        It must belong to the account that runs the job; the service never creates it. Allow it with
        ``JobConfig.home``, too. Other jobs have the home of the user's own account, or one that is removed
        after their end.
        """,
    ).tag(config=True)

    max_code_bytes = ByteSize(
        2 * 1024**3,
        min=1,
        help="""The maximum size, in bytes, of a job's code after unpacking its ZIP.""",
    ).tag(config=True)

    max_log_bytes = ByteSize(
        8 * 1024**3,
        min=0,
        help="""The maximum size, in bytes, of the log file of one attempt. A log that reaches the limit
        ends with a line that says so. 0: no limit. This keeps the disk from filling up;
        ``LogRecorder.max_log_bytes`` sets how much of a log to keep.
        """,
    ).tag(config=True)

    max_file_bytes = ByteSize(
        0,
        min=0,
        help="""The maximum size, in bytes, of each file that a job writes (RLIMIT_FSIZE); 0: no limit.""",
    ).tag(config=True)

    max_processes = Integer(
        4096,
        min=0,
        help="""The maximum number of processes, including threads, of the account of a job (RLIMIT_NPROC); 0:
        no limit.

        It counts all jobs of the account, and everything else that the account runs. It keeps a job that
        starts processes without end from blocking the machine: the job gets the error "Resource temporarily
        unavailable", which appears in its log. The limit does not apply to root.
        """,
    ).tag(config=True)

    start_timeout_seconds = Float(
        30.0,
        min=1.0,
        help="""Seconds that a supervisor may take to start. A client that follows the job's log waits for
        it as long.
        """,
    ).tag(config=True)

    kill_delay_seconds = Float(
        10.0,
        min=0.0,
        help="""Seconds after a job's grace period until the service kills a supervisor that has not ended the
        job, with all that the job started. It assumes that the supervisor hangs.
        """,
    ).tag(config=True)

    storage = Instance(
        Storage,
        allow_none=True,
        help="""The storage with the ZIPs of code; the service sets it.""",
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Unpacking may take a minute, and must not keep the service's other work from its threads.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="kbatch-local")
        self._watcher: Watcher | None = None

    async def open(self) -> None:
        """Create the folder of the jobs. Raises TraitError if it is not safe for them."""
        await self._do(self._ensure_root)

    async def close(self) -> None:
        """End the threads. The jobs continue."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def start(self, on_change: Callable[[str], None]) -> None:
        """Watch the jobs' supervisors."""
        self._watcher = Watcher(on_change, self.log)

    async def stop(self) -> None:
        """Stop watching them."""
        if self._watcher:
            watcher, self._watcher = self._watcher, None
            await watcher.stop()

    @validate("home_template")
    def _validate_home_template(self, proposal: Any) -> str:
        template: str = proposal["value"]
        problem = find_problem(template, HOME_FIELDS)
        if problem is None and template and not (template.startswith("/") and "{" in template):
            problem = f"{template!r} must be a path with a field of the user, like /home/{{username}}"
        if problem:
            raise TraitError(f"LocalProcessJobLauncher.home_template: {problem}")
        return template

    @observe("home_template")
    def _set_mounts_homes(self, change: Any) -> None:
        self.mounts_homes = bool(change["new"])

    def check_spec(self, spec: JobSpec) -> None:
        """Raise InvalidRequest for a job without a command, or with what only a pod can have."""
        super().check_spec(spec)
        if spec.home is not None and spec.home != PREFIX:
            raise InvalidRequest.of_field(
                "home", "must be true: on this machine, all servers of a user have one home"
            )
        if spec.results_to_home:
            raise InvalidRequest.of_field(
                "results_to_home", "is not supported: jobs run on this machine, and may write to the home"
            )
        if not spec.command and spec.notebook is None:
            raise InvalidRequest.of_field(
                "command", "is required: jobs run on this machine, without an image that has a command"
            )
        if spec.registry_secrets:
            raise InvalidRequest.of_field(
                "registry_secrets", "is not supported: jobs run on this machine, and pull no image"
            )

    def round_spec(self, spec: JobSpec) -> JobSpec:
        """Return the spec with whole CPUs: a process is restricted to some of them."""
        if spec.cpu_limit is None:
            return spec
        return spec.model_copy(update={"cpu_limit": float(math.ceil(spec.cpu_limit))})

    async def launch(self, job: Job, launch: Launch) -> dict[str, object]:
        """Unpack the code and start the job's supervisor, unless the job was started before."""
        folder = self._get_folder(job)
        if not await self._do(folder.has, "started"):
            try:
                self.check_spec(job.spec)  # a service with another launcher may have accepted it
            except InvalidRequest as error:
                raise LaunchRefused("StartError", error.message) from error
            with _disk_errors():
                account = await self._do(self._prepare, job, folder)
                launching = await self._do(folder.begin_launch, self.start_timeout_seconds)
                if launching is None:
                    raise LauncherUnavailable("another process of the service is still starting it")
                with launching:
                    reach("launch.3")
                    if not await self._do(folder.has, "started"):
                        await self._ensure_code(job, launch, folder, account)
                        if files := launch.secret_files:
                            await self._do(folder.write_secrets, files, account.uid, account.gid)
                        reach("launch.4")
                        await self._do(self._start_supervisor, job, launch, folder, account)
        if self._watcher:
            self._watcher.watch(job.id, folder)
        return {"folder": folder.path}

    async def poll(self, job: Job) -> JobStatus | None:
        """Return the job's state from its folder and its supervisor's lock."""
        folder = self._get_folder(job)
        with _disk_errors():
            status = await asyncio.to_thread(find_status, job.id, folder)
        if self._watcher and status and not status.status.is_end:
            self._watcher.watch(job.id, folder)
        return status

    async def terminate(self, job: Job) -> bool:
        """End the job's processes; once they are gone, remove its folder if the job is deleted."""
        with _disk_errors():
            return await self._do(self._terminate, job, self._get_folder(job))

    async def clean(self, job: Job) -> None:
        """Remove the code, secrets and log of an ended job, and its results if they are saved elsewhere."""
        with _disk_errors():
            names = {"code", "home", "notebook", "secrets", *(["output"] if job.spec.keep_outputs else [])}
            await self._do(clean_folder, self._get_folder(job), names)

    async def read_outputs(self, job: Job, limits: OutputLimits) -> OutputTar | None:
        """Return the files in the job's output folder and code folder, packed while they are read."""
        folder = self._get_folder(job)
        if not await self._do(folder.has, "output"):
            return None
        folders = [PackedFolder(OUTPUTS, folder.output)]
        if job.spec.collect == "workdir" and await self._do(folder.has, "manifest"):
            folders.append(PackedFolder(WORKDIR, folder.code, folder.get_path("manifest")))
        return read_folders(folders, limits, self._do)

    async def read_log(self, job: Job, pod: str, position: dict[str, Any] | None) -> AsyncIterator[LogPiece]:
        """Yield the log of the attempt that ``pod`` (``<job.id>-<number>``) names."""
        folder = self._get_folder(job)
        with _disk_errors():
            number = await logreader.wait_for_attempt(folder, job, pod, seconds=self.start_timeout_seconds)
            log = logreader.read_log(folder, number, start=position["offset"] if position else 0)
            async with contextlib.aclosing(log) as pieces:
                async for piece in pieces:
                    yield piece

    def _get_folder(self, job: Job) -> JobFolder:
        """Return the job's folder: the one where it was created, even if the configuration has changed."""
        if not job.id or "/" in job.id or job.id.startswith("."):
            raise ValueError(f"{job.id!r} cannot be the id of a job")
        return JobFolder(str(job.state.get("folder") or os.path.join(self.root, job.id)))

    async def _do(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Call a blocking function in one of this launcher's threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))

    def _ensure_root(self) -> None:
        os.makedirs(self.root, mode=0o711, exist_ok=True)
        info = os.stat(self.root)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise TraitError(
                f"LocalProcessJobLauncher.root: {self.root} belongs to another account or is writable "
                "by others; set a folder that only the service owns"
            )
        if os.geteuid() != 0:
            return
        os.chmod(self.root, 0o711)  # noqa: S103  # to be passed through, not to be listed
        if find_entry(self.user):
            account = get_account(self.user, fallback=self.user, min_uid=self.min_uid)
            if barrier := find_barrier(Path(self.root), account):
                self.log.warning(
                    (
                        "The account %s, which runs jobs, cannot enter %s: set "
                        "LocalProcessJobLauncher.root to a folder that it can enter"
                    ),
                    self.user,
                    barrier,
                )

    def _prepare(self, job: Job, folder: JobFolder) -> Account:
        """Create the job's folder with the right owner and permissions, and return the job's account."""
        account = get_account(job.user, fallback=self.user, min_uid=self.min_uid)
        if barrier := find_barrier(Path(self.root), account):
            raise LaunchRefused(
                "StartError",
                f"The system account {account.name!r}, which runs the job, cannot enter {barrier}. "
                "An admin must set LocalProcessJobLauncher.root to a folder that it can enter.",
            )
        if job.spec.home is not None:
            account = self._take_home(job, account)
        own = [] if has_home(account) else [folder.home]
        for path, uid, mode in (
            (folder.path, os.geteuid(), 0o710),
            *((path, account.uid, 0o700) for path in (folder.output, *own)),
        ):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            os.chown(path, uid, account.gid, follow_symlinks=False)
            os.chmod(path, mode)
        if job.spec.notebook is not None:
            folder.write_files("notebook", make_files(job.spec.notebook, job.spec.working_dir))
        return account

    def _take_home(self, job: Job, account: Account) -> Account:
        """Return the job's account with the user's folder as its home. Raises LaunchRefused."""
        path = str(expand(self.home_template, job.user))
        with_home = replace(account, home=path, is_users_own=True)
        if not has_home(with_home):
            raise LaunchRefused(
                "HomeNotFound",
                f"Your home {path} does not exist, or does not belong to the account {account.name!r}, which "
                "runs the job. Submit the job without home, or ask an admin.",
            )
        return with_home

    async def _ensure_code(self, job: Job, launch: Launch, folder: JobFolder, account: Account) -> None:
        """Unpack the code in a temporary folder, which is then renamed: so it is complete or missing."""
        if await self._do(folder.has, "code"):
            return
        work = Path(await self._do(tempfile.mkdtemp, prefix="unpack-", dir=folder.path))
        try:
            code = work / "code"
            if launch.code_key is None:
                await self._do(code.mkdir, 0o700)
            else:
                if self.storage is None:
                    raise RuntimeError("LocalProcessJobLauncher.storage is not set")
                pieces = self.storage.read(launch.code_key)
                await fetch_code(pieces, launch.code_sha256, work / "code.zip", in_thread=self._do)
                await self._do(unpack, work / "code.zip", code, max_bytes=self.max_code_bytes)
                await self._do(check_folder, code, job.spec.working_dir)
            await self._do(give_tree, code, account.uid, account.gid)
            if job.spec.collect == "workdir":
                await self._do(write_manifest, str(code), folder.get_path("manifest"))
            await self._do(os.rename, code, folder.code)
        except BadCode as error:
            raise LaunchRefused("CodeFetchFailed", str(error)) from error
        except ObjectNotFound as error:
            message = "The ZIP of code is no longer in the storage: upload it again."
            raise LaunchRefused("CodeFetchFailed", message) from error
        except StorageError as error:
            raise LauncherUnavailable(f"the storage failed: {error}") from error
        finally:
            await self._do(remove_tree, work)

    def _start_supervisor(self, job: Job, launch: Launch, folder: JobFolder, account: Account) -> None:
        spec = self._make_spec(job, launch, folder, account)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with open(os.open(folder.get_path("supervisor.log"), flags, 0o600), "ab") as errors:
            try:
                result = subprocess.run(
                    [sys.executable, "-I", "-S", "-X", "utf8", "-c", _START, _PACKAGE_PARENT, folder.path],
                    # What the job must not see goes through a pipe: not by arguments, files or environment.
                    input=json.dumps(spec._asdict()).encode(),
                    env={
                        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
                    },
                    cwd="/",
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # what ends the service's process group does not end the jobs
                    timeout=self.start_timeout_seconds,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise LauncherUnavailable(f"the supervisor of job {job.id} did not start: {error}") from error
        if result.returncode not in (STARTED, REFUSED):
            raise LauncherUnavailable(
                f"the supervisor of job {job.id} did not start: see {folder.get_path('supervisor.log')}"
            )

    def _make_spec(self, job: Job, launch: Launch, folder: JobFolder, account: Account) -> Spec:
        spec = job.spec
        name = make_account_name(job.user)  # as on Kubernetes; the account itself may be a shared one
        defaults = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": account.home if has_home(account) else folder.home,
            "USER": name,
            "LOGNAME": name,
            "SHELL": "/bin/sh",
        }
        return Spec(
            command=make_command(folder.get_path("notebook"))
            if spec.notebook
            else [*(spec.command or []), *spec.args],
            # the last ones win over the user's: the service looks for results only there
            env=defaults
            | launch.env
            | ({SECRETS_VARIABLE: folder.secrets} if spec.secret_files else {})
            | {"KBATCH_OUTPUT_DIR": folder.output},
            account=account.name,
            uid=account.uid if os.geteuid() == 0 else None,
            gid=account.gid,
            groups=list(account.groups),
            cpu_limit=spec.cpu_limit,
            mem_limit=spec.mem_limit,
            max_file_bytes=self.max_file_bytes,
            max_log_bytes=self.max_log_bytes,
            max_processes=self.max_processes,
            retries=spec.retries,
            retry_delays_seconds=[spec.get_retry_delay_seconds(i + 1) for i in range(spec.retries)],
            active_deadline_seconds=spec.active_deadline_seconds,
            grace_seconds=spec.termination_grace_period_seconds,
            working_dir=spec.working_dir or "",
        )

    def _terminate(self, job: Job, folder: JobFolder) -> bool:
        if not folder.has(""):
            return True
        asked_before = not folder.mark("cancel")
        if folder.mark("started"):
            # It never began; after this mark it never will, even if a supervisor is just starting.
            end = make_end("cancelled", "Cancelled", "Cancelled by the user.", None, to_iso(utcnow()) or "")
            folder.write_status({"attempts": [], "end": end})
        elif (pid := folder.find_supervisor()) is not None:
            self._signal(job, folder, pid, asked_before=asked_before)
            return False
        if job.delete_requested_at:
            remove_tree(Path(folder.path))
        return True

    def _signal(self, job: Job, folder: JobFolder, pid: int, *, asked_before: bool) -> None:
        """Ask a living supervisor to end the job; if it does not in time, kill it and the job."""
        process = find_process(pid)
        if process is None or folder.find_supervisor() != pid:  # else the id may be another process's
            return
        asked_at = os.stat(folder.get_path("cancel")).st_mtime
        patience_seconds = job.spec.termination_grace_period_seconds + self.kill_delay_seconds
        if asked_before and time.time() - asked_at > patience_seconds:
            self.log.warning("The supervisor of job %s does not stop the job: killing both", job.id)
            kill_below(pid)
            send_signal(process, signal.SIGKILL)
        else:
            send_signal(process, signal.SIGTERM)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise LauncherUnavailable for errors of the disk, which say nothing about the job."""
    try:
        yield
    except OSError as error:
        raise LauncherUnavailable(f"the folder of jobs cannot be used now: {error}") from error
