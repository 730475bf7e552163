"""LocalProcessJobLauncher with real processes, as who runs the tests and, if that is root, as others too."""

# ruff: noqa: ASYNC220, ASYNC240 - a test may look at a file

import asyncio
import contextlib
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from traitlets import TraitError

from kbatch_server.errors import InvalidRequest
from kbatch_server.launchers.base import (
    JobLauncher,
    Launch,
    LauncherUnavailable,
    LaunchRefused,
    LogNotFound,
    LogPiece,
)
from kbatch_server.launchers.local import accounts
from kbatch_server.launchers.local.accounts import Account, has_home
from kbatch_server.launchers.local.folder import JobFolder
from kbatch_server.launchers.local.launcher import LocalProcessJobLauncher
from kbatch_server.launchers.local.unpack import BadCode, remove_tree, unpack
from kbatch_server.models.job import Job, JobSpec, Status
from kbatch_server.models.times import utcnow
from kbatch_server.storage.base import ObjectNotFound, Storage
from tests.support.descriptors import list_open_below
from tests.support.waiting import until
from tests.support.zips import make_zip

IS_ROOT = os.geteuid() == 0
ACCOUNT = "nobody" if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_name
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can run jobs as other accounts")
ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 20


class DictStorage(Storage):
    """Objects in a dict."""

    def __init__(self):
        super().__init__()
        self.objects = {}

    async def read(self, key, *, start=0, length=None):
        if key not in self.objects:
            raise ObjectNotFound(key)
        yield self.objects[key][:10]
        yield self.objects[key][10:]


class Changes:
    """The ids that ``on_change`` was called with, to be awaited."""

    def __init__(self):
        self._queue = asyncio.Queue()

    def __call__(self, job_id):
        self._queue.put_nowait(job_id)

    async def next(self):
        return await asyncio.wait_for(self._queue.get(), LIMIT_SECONDS)


@pytest.fixture
def jobs_root():
    """A folder that every account can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="kbatch-test-"))
    path.chmod(0o755)
    yield path / "jobs"
    with contextlib.suppress(FileNotFoundError):
        for each in os.listdir(path / "jobs"):
            pid = JobFolder(str(path / "jobs" / each)).find_supervisor()
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
    remove_tree(path)


@pytest.fixture
async def changes():
    return Changes()


@pytest.fixture
async def launcher(jobs_root, changes):
    launcher = LocalProcessJobLauncher(root=str(jobs_root), storage=DictStorage())
    await launcher.open()
    await launcher.start(changes)
    yield launcher
    await launcher.stop()
    await launcher.close()


def make_job(*command, id="job-1", user="ada", **spec):
    spec = {"termination_grace_period_seconds": 5, "retry_delay_seconds": 0.05} | spec
    return Job(
        id=id,
        user=user,
        name="test",
        spec=JobSpec(image="ignored", command=list(command), **spec),
        created_at=utcnow(),
    )


def make_script(text, **spec):
    return make_job("sh", "-c", text, **spec)


async def run(launcher, changes, job, **launch):
    """Launch a job and return its status when it has ended."""
    job.state = await launcher.launch(job, Launch(**launch))
    assert await changes.next() == job.id
    return await launcher.poll(job)


def newest_log(launcher, job):
    """Return the file of the newest attempt's log."""
    return max(Path(launcher.root, job.id).glob("log.*"), key=lambda path: int(path.suffix[1:]))


async def read(launcher, job, *, pod=None):
    """Return the log of an attempt, the newest if none is named, once that has ended."""
    pod = pod or f"{job.id}-{newest_log(launcher, job).suffix[1:]}"
    return b"".join([piece.data async for piece in launcher.read_log(job, pod, None)]).decode()


def read_now(launcher, job):
    """Return what the newest attempt has written up to now."""
    return newest_log(launcher, job).read_text()


async def until_logged(launcher, job, text):
    async def is_logged():
        try:
            return text in read_now(launcher, job)
        except ValueError:  # there is none yet
            return False

    await until(is_logged)


async def cancel(launcher, job):
    async def is_gone():
        return await launcher.terminate(job)

    await until(is_gone)


def is_alive(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


# How a job ends


async def test_a_job_that_succeeds(launcher, changes):
    job = make_script("echo out; echo err >&2; echo again >/dev/stderr")
    status = await run(launcher, changes, job)
    assert (status.status, status.reason, status.exit_code) == (Status.SUCCEEDED, "Complete", 0)
    assert status.message == "Completed successfully."
    assert status.started_at <= status.ended_at
    assert [(pod.name, pod.phase, pod.exit_code) for pod in status.pods] == [("job-1-1", "Succeeded", 0)]
    assert await read(launcher, job) == "out\nerr\nagain\n"


@pytest.mark.parametrize(
    ("command", "spec", "reason", "exit_code", "message"),
    [
        (["sh", "-c", "exit 3"], {}, "Error", 3, "The command ended with exit code 3."),
        (["sh", "-c", "kill -9 $$"], {}, "Error", 137, "The command was killed by signal 9 (Killed). "
         "The machine may have run out of memory."),
        (["sh", "-c", "kill -SEGV $$"], {}, "Error", 139,
         "The command was terminated by signal 11 (Segmentation fault)."),
        (["nosuch"], {"retries": 3}, "StartError", 127, "The program 'nosuch' was not found."),
        (["/etc"], {}, "StartError", 127, "The program '/etc' was not found."),
        (["/etc/passwd"], {}, "StartError", 126,
         f"The program '/etc/passwd' was found, but the job's account ({ACCOUNT}) cannot run it: "
         "it is not executable."),
        (["sleep", "60"], {"active_deadline_seconds": 1}, "DeadlineExceeded", 143,
         "The job exceeded its time limit of 1 second and was stopped."),
    ],
)  # fmt: skip
async def test_a_job_that_fails(launcher, changes, monkeypatch, command, spec, reason, exit_code, message):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no folder of ours that is closed to the job
    status = await run(launcher, changes, make_job(*command, **spec))
    assert status.status == Status.FAILED
    assert (status.reason, status.exit_code, status.message) == (reason, exit_code, message)
    assert len(status.pods) == 1


@pytest.fixture
def programs():
    """A folder of programs that all may look into, and one that only its owner may, or nobody but root."""
    path = Path(tempfile.mkdtemp(prefix="kbatch-test-"))
    path.chmod(0o755)
    (path / "closed").mkdir()
    make_program(path / "closed/tool", "#!/bin/sh\n")
    yield path
    (path / "closed").chmod(0o700)
    remove_tree(path)


def make_program(path, text, mode=0o755):
    path.write_text(text)
    path.chmod(mode)


async def explain(launcher, changes, *command, path):
    """Run a command that the job's account is denied, and return its exit code and the message."""
    job = make_job(*command, id=f"job-{secrets.token_hex(4)}")
    status = await run(launcher, changes, job, env={"PATH": path})
    assert (status.status, status.reason) == (Status.FAILED, "StartError")
    return status.exit_code, status.message


async def test_a_program_that_the_account_may_not_run_is_not_one_that_was_not_found(
    launcher, changes, programs
):
    """As a Python below root's home, which an environment's ``python`` is a link to."""
    (programs / "python").symlink_to(programs / "closed/tool")
    make_program(programs / "plain", "#!/bin/sh\n", mode=0o644)
    make_program(programs / "report", f"#!{programs}/closed/tool\n")
    (programs / "closed").chmod(0)
    path = f"/nothing:{programs}:/usr/bin:/bin"
    account = f"the job's account ({ACCOUNT})"
    for name, why in (
        ("python", "it: it links into a folder that the account cannot enter."),
        ("plain", "it: it is not executable."),
        ("report", "the interpreter in its first line."),
    ):
        found = f"The program '{name}' was found at {programs}/{name}, but {account} cannot run {why}"
        assert await explain(launcher, changes, name, path=path) == (126, found)
    # what runs comes first, wherever it stands: so it is with every shell
    (programs / "sh").symlink_to(programs / "closed/tool")
    assert (await run(launcher, changes, make_script("true"), env={"PATH": path})).exit_code == 0


async def test_nobody_learns_what_is_in_a_folder_that_is_closed_to_them(launcher, changes, programs):
    (programs / "closed").chmod(0)
    closed = f"{programs}/closed"
    for name in ("tool", "nosuch"):
        where = f"The job's account ({ACCOUNT}) cannot read {closed}."
        found = f"The program '{name}' was not found. {where}"
        assert await explain(launcher, changes, name, path=f"{closed}:/usr/bin") == (127, found)
        found = f"The program '{closed}/{name}' was not found. {where}"
        assert await explain(launcher, changes, f"{closed}/{name}", path="/usr/bin") == (127, found)


async def test_a_script_whose_interpreter_is_missing(launcher, changes):
    code = b"#!/no/such/interpreter\n"
    entry = zipfile.ZipInfo("run.sh")
    entry.external_attr = 0o100755 << 16
    launcher.storage.objects["k"] = make_zip({entry: code})
    status = await run(launcher, changes, make_job("./run.sh"), code_key="k")
    assert status.message == "The interpreter in the first line of './run.sh' was not found."


async def test_the_deadline_is_not_a_success_when_the_program_ends_in_peace(launcher, changes):
    job = make_script("trap 'exit 0' TERM; sleep 60 & wait", active_deadline_seconds=1)
    status = await run(launcher, changes, job)
    assert (status.status, status.reason) == (Status.FAILED, "DeadlineExceeded")


async def test_it_is_tried_again_and_each_attempt_has_its_log(launcher, changes):
    job = make_script(
        "echo x >>tries; cat tries; [ $(wc -l <tries) = 3 ]", retries=5, retry_delay_seconds=0.1
    )
    status = await run(launcher, changes, job)
    assert status.status == Status.SUCCEEDED
    assert [pod.exit_code for pod in status.pods] == [1, 1, 0]
    assert await read(launcher, job) == "x\nx\nx\n"
    assert await read(launcher, job, pod="job-1-1") == "x\n"
    with pytest.raises(LogNotFound):
        await read(launcher, job, pod="job-1-4")


async def test_the_last_attempt_fails(launcher, changes):
    status = await run(launcher, changes, make_script("exit 2", retries=1, retry_delay_seconds=0.1))
    assert status.message == "The command ended with exit code 2 in attempt 2 of 2."


async def test_memory_is_limited(launcher, changes):
    text = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0]); bytearray(2**30)"
    job = make_job("/usr/bin/env", "python3", "-c", text, mem_limit=300 * 2**20)
    status = await run(launcher, changes, job)
    assert status.exit_code == 1
    log = await read(launcher, job)
    assert str(300 * 2**20) in log
    assert "MemoryError" in log


async def test_cpus_and_file_sizes_are_limited(launcher, changes):
    launcher.max_file_bytes = 1000
    job = make_script("nproc; ulimit -c; head -c 2000 /dev/zero >big", cpu_limit=0.5)
    status = await run(launcher, changes, job)
    assert status.status == Status.FAILED
    assert (await read(launcher, job)).splitlines()[:2] == ["1", "0"]
    assert os.path.getsize(Path(launcher.root) / job.id / "code/big") == 1000


FORKS = """
import os, signal, time
children = []
try:
    while len(children) < 2000:
        child = os.fork()
        if not child:
            time.sleep(60)
        children.append(child)
except BlockingIOError as error:
    print(error.strerror)
for child in children:
    os.kill(child, signal.SIGKILL)
print(len(children))
"""


async def test_a_job_that_starts_processes_without_end_is_stopped_by_the_system(launcher, changes):
    launcher.max_processes = 300  # of its account, which may have others
    job = make_job("/usr/bin/env", "python3", "-c", FORKS)
    await run(launcher, changes, job)
    [words, count] = (await read(launcher, job)).splitlines()
    assert words == "Resource temporarily unavailable"
    assert int(count) < 300


async def test_what_a_job_leaves_running_is_killed(launcher, changes):
    job = make_script("setsid sh -c 'echo $$; exec sleep 300' & sleep 0.3; echo end")
    assert (await run(launcher, changes, job)).status == Status.SUCCEEDED
    assert not is_alive((await read(launcher, job)).split()[0])


async def test_a_job_without_a_command_is_refused_before_it_is_accepted(launcher):
    with pytest.raises(InvalidRequest, match="command: is required") as error:
        launcher.check_spec(make_job().spec)
    assert error.value.details[0]["field"] == "command"
    launcher.check_spec(make_job("true").spec)
    with pytest.raises(LaunchRefused, match="command: is required"):  # another launcher's, from before
        await launcher.launch(make_job(), Launch())


# What a job has and does not have


async def test_the_environment_is_the_jobs_and_nothing_of_the_services(launcher, changes, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the-services-own")
    job = make_job("env")
    await run(launcher, changes, job, env={"GREETING": "grüß\ngott", "PATH": "/usr/bin:/bin"})
    log = await read(launcher, job)
    names = {line.partition("=")[0] for line in log.splitlines() if "=" in line}
    assert names == {"GREETING", "PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL", "KBATCH_OUTPUT_DIR"}
    assert "GREETING=grüß\ngott" in log
    assert {"USER=ada", "LOGNAME=ada"} <= set(log.splitlines())  # whichever account it is
    assert "the-services-own" not in log


async def test_an_account_without_a_home_gets_one_beside_the_code(launcher, changes):
    job = make_script("touch $HOME/x; mkdir -p ~/.cache; echo $HOME; ls -A")
    assert (await run(launcher, changes, job)).status == Status.SUCCEEDED
    folder = Path(launcher.root) / job.id
    assert (await read(launcher, job)) == f"{folder}/home\n"  # and nothing is in the folder of the code
    await launcher.clean(job)
    assert not (folder / "home").exists()


async def test_a_job_with_the_users_home_reads_and_writes_there_and_it_stays(launcher, changes, jobs_root):
    launcher.home_template = f"{jobs_root}/homes/{{username}}"
    owner = pwd.getpwnam(ACCOUNT)
    for user in ("ada", "eve"):
        home = jobs_root / "homes" / user
        home.mkdir(parents=True)
        (home / "note").write_text(f"of {user}")
        os.chown(home, owner.pw_uid, owner.pw_gid)
    job = make_script("cat ~/note; echo new > ~/new; echo $HOME", home="server")
    launcher.check_spec(job.spec)
    assert (await run(launcher, changes, job)).status == Status.SUCCEEDED
    home = jobs_root / "homes" / "ada"
    assert await read(launcher, job) == f"of ada{home}\n"
    await launcher.clean(job)
    assert (home / "new").read_text() == "new\n"


async def test_a_home_that_is_not_the_users_is_refused_and_never_made(launcher, jobs_root):
    launcher.home_template = f"{jobs_root}/homes/{{username}}"
    with pytest.raises(LaunchRefused, match="does not exist, or does not belong") as refused:
        await launcher.launch(make_script("true", home="server"), Launch())
    assert refused.value.reason == "HomeNotFound"
    assert not (jobs_root / "homes").exists()


def test_homes_are_refused_where_there_are_none_and_a_template_needs_the_user():
    with pytest.raises(InvalidRequest, match="home: is not supported here"):
        LocalProcessJobLauncher().check_spec(make_script("true", home="server").spec)
    launcher = LocalProcessJobLauncher(home_template="/home/{username}")
    for fields, field in (
        ({"home": "server:gpu"}, "home"),
        ({"home": "server", "results_to_home": True}, "results_to_home"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            launcher.check_spec(make_script("true", **fields).spec)
        assert refused.value.details[0]["field"] == field
    for template in ("/home/{unescaped_username}", "/home/all", "home/{username}", "/home/{user}"):
        with pytest.raises(TraitError, match="home_template"):
            LocalProcessJobLauncher(home_template=template)


def test_a_home_is_one_that_its_user_can_write_to(tmp_path):
    account = Account("ada", os.geteuid(), os.getegid(), (), str(tmp_path), "/bin/sh", is_users_own=True)
    assert has_home(account)
    assert not has_home(replace(account, is_users_own=False))
    assert not has_home(replace(account, home=str(tmp_path / "nonexistent")))
    assert not has_home(replace(account, uid=os.geteuid() + 1))
    tmp_path.chmod(0o500)
    assert not has_home(account)


async def test_secrets_stand_in_no_file_and_no_argument(launcher, changes):
    job = make_job("sleep", "60")
    await launcher.launch(job, Launch(env={"SECRET": "s3cr3t-s3cr3t"}))
    folder = JobFolder(str(Path(launcher.root) / job.id))
    for path in Path(folder.path).rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes()
    pid = folder.find_supervisor()
    assert b"s3cr3t" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"s3cr3t" not in Path(f"/proc/{pid}/environ").read_bytes()
    await cancel(launcher, job)


async def test_a_job_has_its_secret_files_for_itself_and_until_its_end(launcher, changes):
    script = 'cd $KBATCH_SECRETS_DIR; stat -c "%a %u" . key; id -u; cat key; echo x >>key && echo wrote; pwd'
    job = make_script(script, secret_files={"key": "gcp"})
    status = await run(launcher, changes, job, secret_files={"key": "line\r\nline\n"})
    assert status.status == Status.SUCCEEDED
    folder = Path(launcher.root) / job.id
    modes, key, uid, *lines = (await read(launcher, job)).replace("\r\n", "|").splitlines()
    assert (modes, key) == (f"700 {uid}", f"600 {uid}")
    assert lines == ["line|line", "wrote", str(folder / "secrets")]
    await launcher.clean(job)
    assert not (folder / "secrets").exists()


async def test_a_job_without_secret_files_has_no_folder_for_them(launcher, changes):
    job = make_script("echo ${KBATCH_SECRETS_DIR-none}")
    await run(launcher, changes, job)
    assert await read(launcher, job) == "none\n"
    assert not (Path(launcher.root) / job.id / "secrets").exists()


async def test_the_code_is_unpacked_and_the_output_folder_is_there(launcher, changes):
    program = zipfile.ZipInfo("bin/go")
    program.external_attr = 0o100755 << 16
    text = "#!/bin/sh\ncat a/b.txt; echo kept >$KBATCH_OUTPUT_DIR/x; pwd"
    data = make_zip({"a/b.txt": "hello", program: text})
    launcher.storage.objects["uploads/1"] = data
    job, sha256 = make_job("bin/go"), hashlib.sha256(data).hexdigest()
    status = await run(launcher, changes, job, code_key="uploads/1", code_sha256=sha256)
    assert status.status == Status.SUCCEEDED, status
    folder = Path(launcher.root) / job.id
    assert await read(launcher, job) == f"hello{folder}/code\n"
    assert (folder / "output/x").read_text() == "kept\n"
    assert not list(folder.glob("unpack-*"))


async def test_a_job_runs_in_the_folder_of_its_code_that_it_names(launcher, changes):
    launcher.storage.objects["k"] = make_zip({"repo-main/src/main.sh": "pwd", "main.sh": "echo wrong"})
    job = make_job("sh", "main.sh", working_dir="repo-main/src")
    status = await run(launcher, changes, job, code_key="k")
    assert status.status == Status.SUCCEEDED, status
    assert await read(launcher, job) == f"{launcher.root}/{job.id}/code/repo-main/src\n"


async def test_a_folder_to_run_in_that_the_code_lacks_is_said(launcher):
    launcher.storage.objects["k"] = make_zip({"repo-main/main.sh": "pwd"})
    with pytest.raises(LaunchRefused, match="no folder 'repo-mian' \\(working_dir\\)"):
        await launcher.launch(make_job("true", working_dir="repo-mian"), Launch(code_key="k"))


async def test_links_and_names_in_the_code_are_as_they_were_meant(launcher, changes):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    launcher.storage.objects["k"] = make_zip({"a/b.txt": "hello", link: "a/b.txt", ".DS_Store": ""})
    status = await run(launcher, changes, make_job("sh", "-c", "cat link; ls -A"), code_key="k")
    assert status.status == Status.SUCCEEDED, status
    assert await read(launcher, make_job("sh")) == "helloa\nlink\n"


@pytest.mark.parametrize(
    ("files", "sha256", "words"),
    [
        (None, None, "no longer in the storage"),
        ({"a": "b"}, "0" * 64, "SHA-256"),
        ({"../a": "b"}, None, r"has '\.\.' in its path"),
        ({"/a": "b"}, None, "absolute path"),
        ({"a": "b", "a/b": "c"}, None, "cannot be unpacked"),
        ({"a": "b" * 2000}, None, "too large"),
        ({"d/" * 101: ""}, None, "deep"),
        (b"PK no zip", None, "cannot be unpacked"),
    ],
)
async def test_code_that_cannot_be_had_is_refused(launcher, files, sha256, words):
    launcher.max_code_bytes = 1000
    if files:
        launcher.storage.objects["k"] = files if isinstance(files, bytes) else make_zip(files)
    job = make_job("true")
    with pytest.raises(LaunchRefused, match=words) as caught:
        await launcher.launch(job, Launch(code_key="k", code_sha256=sha256))
    assert caught.value.reason == "CodeFetchFailed"
    assert not (Path(launcher.root) / job.id / "code").exists()
    assert await launcher.poll(job) is None


def test_a_link_in_the_zip_that_leads_outside_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    (tmp_path / "x.zip").write_bytes(make_zip({link: "/etc/passwd"}))
    with pytest.raises(BadCode, match="link"):
        unpack(tmp_path / "x.zip", tmp_path / "code", max_bytes=1000)


# Once, and only once


async def test_launched_twice_it_runs_once(launcher, changes):
    job = make_script("echo x >>$KBATCH_OUTPUT_DIR/runs")
    await asyncio.gather(*(launcher.launch(job, Launch()) for _ in range(4)))
    await changes.next()
    await launcher.launch(job, Launch())
    assert (Path(launcher.root) / job.id / "output/runs").read_text() == "x\n"


async def test_a_launch_that_hangs_in_another_process_is_not_waited_for_without_end(launcher):
    launcher.start_timeout_seconds = 1
    folder = JobFolder(str(Path(launcher.root) / "job-1"))
    os.makedirs(folder.path)
    with folder.begin_launch(0), pytest.raises(LauncherUnavailable, match="another process"):
        await asyncio.wait_for(launcher.launch(make_job("true"), Launch()), LIMIT_SECONDS)
    await launcher.launch(make_job("true"), Launch())


async def test_launched_after_a_half_done_launch(launcher, changes):
    """The folder was made and the ZIP half unpacked when the service was killed."""
    (Path(launcher.root) / "job-1/unpack-old/code").mkdir(parents=True)
    job = make_job("ls")
    assert await launcher.poll(job) is None
    assert (await run(launcher, changes, job)).status == Status.SUCCEEDED
    await launcher.clean(job)
    assert not (Path(launcher.root) / "job-1/unpack-old").exists()


async def test_a_service_that_is_killed_finds_its_jobs_again(jobs_root, changes):
    script = f"""
        import asyncio
        from tests.service.test_local_launcher import *
        async def main():
            launcher = LocalProcessJobLauncher(root={str(jobs_root)!r})
            await launcher.open()
            await launcher.start(print)
            job = make_script("echo x >>$KBATCH_OUTPUT_DIR/runs; sleep 1.5; exit 7")
            await launcher.launch(job, Launch())
            print("launched", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    service = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        assert await asyncio.to_thread(service.stdout.readline) == b"launched\n"
    finally:
        os.killpg(service.pid, signal.SIGKILL)  # all of its group, as a hub does
        service.wait()
        service.stdout.close()
    launcher = LocalProcessJobLauncher(root=str(jobs_root))
    await launcher.open()
    await launcher.start(changes)
    job = make_job("never again")
    seen = await launcher.poll(job)
    assert (seen.status, seen.reason, seen.message) == (Status.RUNNING, "Running", "Running.")
    await launcher.launch(job, Launch())
    assert await changes.next() == job.id
    assert (await launcher.poll(job)).exit_code == 7
    assert (jobs_root / "job-1/output/runs").read_text() == "x\n"
    await launcher.stop()
    await launcher.close()


async def test_a_job_whose_supervisor_was_killed_is_lost(launcher, changes):
    job = make_script("echo $$; exec sleep 300")
    await launcher.launch(job, Launch())
    await until_logged(launcher, job, "\n")
    os.kill(JobFolder(str(Path(launcher.root) / job.id)).find_supervisor(), signal.SIGKILL)
    await changes.next()
    status = await launcher.poll(job)
    assert (status.status, status.reason) == (Status.FAILED, "Lost")
    pid = read_now(launcher, job).strip()

    async def is_gone():
        return not is_alive(pid)

    await until(is_gone)
    assert await launcher.launch(job, Launch())  # harmless: it is not started a second time
    assert (await launcher.poll(job)).reason == "Lost"


# Ending a job


async def test_cancel_ends_the_whole_tree(launcher, changes):
    job = make_script(
        "trap '' TERM; echo $$; (setsid sh -c 'echo $$; exec sleep 300' &);"
        "sleep 300 & echo $!; wait; sleep 300",
        termination_grace_period_seconds=1,
    )
    await launcher.launch(job, Launch())

    async def has_three():
        with contextlib.suppress(LogNotFound):
            return len(read_now(launcher, job).splitlines()) == 3

    await until(has_three)
    assert await launcher.terminate(job) is False
    await changes.next()
    await cancel(launcher, job)
    status = await launcher.poll(job)
    assert (status.status, status.reason) == (Status.CANCELLED, "Cancelled")
    assert not [pid for pid in (await read(launcher, job)).split() if is_alive(pid)]


async def test_a_job_that_flees_by_forking_is_caught(launcher, changes):
    """Each process is another's child, leads a session of its own, and lives for an instant."""
    text = """
import os, time
end = time.monotonic() + 20  # so that a defect of ours leaves nothing running for ever
beats = open(os.environ["KBATCH_OUTPUT_DIR"] + "/beats", "ab", buffering=0)
for _ in range(2):
    if not os.fork():
        while time.monotonic() < end:
            beats.write(b".")
            if os.fork():
                time.sleep(0.002)
                os._exit(0)
            os.setsid()
        os._exit(0)
time.sleep(300)
"""
    beats = Path(launcher.root) / "job-1/output/beats"

    async def is_fleeing():
        return beats.exists() and beats.stat().st_size > 100

    job = make_job("/usr/bin/env", "python3", "-c", text, termination_grace_period_seconds=0)
    await launcher.launch(job, Launch())
    await until(is_fleeing)
    await cancel(launcher, job)
    size = beats.stat().st_size
    await asyncio.sleep(0.1)
    assert beats.stat().st_size == size


async def test_cancel_lets_the_command_end_in_its_own_way(launcher, changes):
    job = make_script("trap 'echo bye; exit 0' TERM; echo up; sleep 300 & wait")
    await launcher.launch(job, Launch())
    await until_logged(launcher, job, "up")
    await cancel(launcher, job)
    assert await read(launcher, job) == "up\nbye\n"
    assert (await launcher.poll(job)).status == Status.CANCELLED


async def test_a_supervisor_that_hangs_is_killed_with_its_job(launcher, changes):
    launcher.kill_delay_seconds = 0
    job = make_script("echo $$; exec sleep 300", termination_grace_period_seconds=0)
    await launcher.launch(job, Launch())
    await until_logged(launcher, job, "\n")
    os.kill(JobFolder(str(Path(launcher.root) / job.id)).find_supervisor(), signal.SIGSTOP)
    await cancel(launcher, job)
    assert not is_alive((await read(launcher, job)).strip())
    assert (await launcher.poll(job)).status == Status.CANCELLED


async def test_a_job_that_was_cancelled_before_its_start_never_starts(launcher, jobs_root):
    job = make_job("touch", "ran")
    (jobs_root / job.id / "code").mkdir(parents=True)
    assert await launcher.terminate(job)
    await launcher.launch(job, Launch())
    assert (await launcher.poll(job)).status == Status.CANCELLED
    assert not (jobs_root / job.id / "code/ran").exists()
    assert await launcher.terminate(make_job("never", id="unheard-of"))


async def test_a_cancelled_job_is_not_tried_again(launcher, changes):
    job = make_script("exit 1", retries=5, retry_delay_seconds=300)
    await launcher.launch(job, Launch())

    async def is_waiting():
        status = await launcher.poll(job)
        return status.reason == "BackOff" and status

    assert "Retrying in 300 seconds" in (await until(is_waiting)).message
    await cancel(launcher, job)
    status = await launcher.poll(job)
    assert (status.status, len(status.pods)) == (Status.CANCELLED, 1)


async def test_a_machine_that_shuts_down_is_no_cancel(launcher, changes):
    job = make_job("sleep", "300")
    await launcher.launch(job, Launch())
    os.kill(JobFolder(str(Path(launcher.root) / job.id)).find_supervisor(), signal.SIGTERM)
    await changes.next()
    status = await launcher.poll(job)
    assert (status.status, status.reason) == (Status.FAILED, "Terminated")


async def test_clean_keeps_the_output_and_delete_keeps_nothing(launcher, changes, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    job = make_script(
        f"ln -s {precious} link; ln -s {precious} $KBATCH_OUTPUT_DIR/link; mkdir -p a/b; chmod 0 a; echo x"
    )
    await run(launcher, changes, job)
    folder = Path(launcher.root) / job.id
    await launcher.clean(job)
    assert not (folder / "code").exists()
    assert (folder / "output/link").is_symlink()
    job.status = Status.SUCCEEDED
    with pytest.raises(LogNotFound):  # it is kept elsewhere by now
        await read(launcher, job, pod="job-1-1")
    assert await launcher.terminate(job)
    assert folder.exists()
    job.delete_requested_at = utcnow()
    await cancel(launcher, job)
    assert not folder.exists()
    assert await launcher.poll(job) is None
    assert (precious / "file").exists()


def test_a_tree_of_any_depth_is_removed(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(top)
    assert not top.exists()
    remove_tree(top)


# The log


async def test_a_log_is_read_on_from_every_place(launcher, changes):
    job = make_script("seq 1 100000; printf unfinished")
    await run(launcher, changes, job)
    pieces = [piece async for piece in launcher.read_log(job, "job-1-1", None)]
    whole = b"".join(piece.data for piece in pieces)
    assert whole.decode() == "".join(f"{n}\n" for n in range(1, 100001)) + "unfinished"
    assert len(pieces) > 2
    for number, piece in enumerate(pieces):
        position = json.loads(json.dumps(piece.position))
        rest = [each.data async for each in launcher.read_log(job, "job-1-1", position)]
        assert b"".join(rest) == b"".join(each.data for each in pieces[number + 1 :])


async def test_a_log_knows_when_what_was_written(launcher, changes):
    job = make_script("echo one; sleep 2.1; echo two; sleep 1.1; echo three")
    began = utcnow() - timedelta(seconds=1)
    await run(launcher, changes, job)
    pieces = [piece async for piece in launcher.read_log(job, "job-1-1", None)]
    assert [piece.data for piece in pieces] == [b"one\n", b"two\n", b"three\n"]
    times = [piece.time for piece in pieces]
    assert began < times[0] < times[1] < times[2] <= utcnow()
    assert timedelta(seconds=1) < times[1] - times[0] < timedelta(seconds=20)
    [last] = [each async for each in launcher.read_log(job, "job-1-1", pieces[1].position)]
    assert last == pieces[2]


async def test_a_log_is_followed_to_its_end(launcher, changes):
    job = make_script("echo one; while [ ! -e go ]; do sleep 0.05; done; echo two")
    await launcher.launch(job, Launch())
    log = launcher.read_log(job, "job-1-1", None)
    assert (await anext(log)).data == b"one\n"
    (Path(launcher.root) / job.id / "code/go").touch()
    assert b"".join([piece.data async for piece in log]) == b"two\n"
    await changes.next()


async def test_a_dropped_follower_leaves_nothing_behind(launcher, changes):
    job = make_script("echo one; sleep 300")
    await launcher.launch(job, Launch())
    await until_logged(launcher, job, "one")
    tasks = asyncio.all_tasks()
    for _ in range(20):
        log = launcher.read_log(job, "job-1-1", None)
        assert (await anext(log)).data == b"one\n"
        await log.aclose()
    assert asyncio.all_tasks() == tasks

    async def is_closed():  # what watches the job may have its lock open for a moment
        return not list_open_below(launcher.root)

    await until(is_closed)
    await cancel(launcher, job)


async def test_no_log_is_said_and_waited_for(launcher, changes):
    job = make_script("echo one")
    follower = asyncio.create_task(read(launcher, job, pod="job-1-1"))
    await run(launcher, changes, job)
    assert await asyncio.wait_for(follower, LIMIT_SECONDS) == "one\n"
    job.status = Status.SUCCEEDED
    with pytest.raises(LogNotFound):
        await read(launcher, job, pod="job-1-2")


async def test_a_log_is_cut_at_its_limit(launcher, changes):
    launcher.max_log_bytes = 1000
    job = make_script("seq 1 100000; echo done >$KBATCH_OUTPUT_DIR/x")
    assert (await run(launcher, changes, job)).status == Status.SUCCEEDED
    log = await read(launcher, job)
    assert log.endswith("\n[the log ends here: it reached its limit of 1000 bytes]\n")
    assert len(log) < 1100


# Accounts


def test_which_account_a_user_gets(monkeypatch):
    """A user's own, unless it is root's or a system's; else the one that all share; never root."""
    entries = {
        name: accounts.pwd.struct_passwd((name, "x", uid, uid, "", f"/home/{name}", "/bin/sh"))
        for name, uid in {"root": 0, "toor": 0, "postgres": 113, "ada": 1001, "nobody": 65534}.items()
    }
    monkeypatch.setattr(accounts.pwd, "getpwnam", entries.__getitem__)
    monkeypatch.setattr(accounts.os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts.os, "getgrouplist", lambda name, gid: [gid])

    def get_name(user, fallback="nobody"):
        return accounts.get_account(user, fallback=fallback, min_uid=1000).name

    assert {user: get_name(user) for user in ("ada", "root", "toor", "postgres", "eve")} == {
        "ada": "ada",
        "root": "nobody",
        "toor": "nobody",
        "postgres": "nobody",
        "eve": "nobody",
    }
    for fallback in ("toor", "none"):
        with pytest.raises(LaunchRefused, match=r"LocalProcessJobLauncher\.user"):
            get_name("eve", fallback)


@as_root
async def test_root_runs_jobs_as_nobody_and_keeps_them_out_of_its_files(launcher, changes):
    job = make_script(
        "id -u; id -Gn; cd ..;"
        "for f in lock started status log.1 cancel; do true >>$f && echo wrote $f; done;"
        "ls . && echo listed; ls .. && echo listed all; mv code x && echo moved;"
        "kill -9 $PPID && echo killed;"
        "grep NoNewPrivs /proc/self/status; umask"
    )
    status = await run(launcher, changes, job)
    assert status.status == Status.SUCCEEDED
    lines = (await read(launcher, job)).splitlines()
    assert lines[:2] == ["65534", "nogroup"]
    assert not [line for line in lines if line.startswith(("wrote", "listed", "moved", "killed"))]
    assert lines[-2:] == ["NoNewPrivs:\t1", "0077"]


@as_root
async def test_a_folder_that_the_account_cannot_reach_is_said(changes, tmp_path):
    tmp_path.chmod(0o700)
    launcher = LocalProcessJobLauncher(root=str(tmp_path / "jobs"))
    await launcher.open()
    await launcher.start(changes)
    with pytest.raises(LaunchRefused, match=r"set LocalProcessJobLauncher\.root"):
        await launcher.launch(make_job("true"), Launch())
    await launcher.stop()
    await launcher.close()


async def test_a_root_folder_that_others_can_write_to_is_not_taken(jobs_root, changes):
    jobs_root.mkdir()
    jobs_root.chmod(0o777)
    launcher = LocalProcessJobLauncher(root=str(jobs_root))
    with pytest.raises(TraitError, match=r"LocalProcessJobLauncher\.root"):
        await launcher.open()
    await launcher.close()


@as_root
def test_the_same_holds_for_a_service_that_is_not_root(jobs_root):
    """Run the tests that matter again as ``nobody``, whom one capability lets read this checkout."""
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv is in Debian's util-linux"
    jobs_root.mkdir()
    os.chown(jobs_root, 65534, 65534)
    capability = "+dac_read_search"
    identity = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*identity, f"--inh-caps={capability}", f"--ambient-caps={capability}", sys.executable]
    which = "succeeds or whole_tree or finds_its_jobs or keeps_nothing or environment or twice"
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", which],
        cwd=ROOT,
        env=ours | {"TMPDIR": str(jobs_root), "HOME": str(jobs_root)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_ids_that_would_lead_out_of_the_root_are_refused(jobs_root):
    launcher = LocalProcessJobLauncher(root=str(jobs_root))
    for id in ("../x", "a/b", "..", ""):
        with pytest.raises(ValueError, match="id"):
            launcher._get_folder(make_job("true", id=id))


# The page about launchers

FAKE_DOCKER = r"""#!/bin/sh
cd "${0%/*}"
verb=$1; shift
case $verb in
run) while [ "${1#-}" != "$1" ]; do shift; done; shift
     "$@" >log 2>&1; echo "{\"Status\": \"exited\", \"ExitCode\": $?}" >state ;;
inspect) cat state 2>&- || { echo "Error: No such object" >&2; exit 1; } ;;
logs) cat log ;;
rm) rm state log ;;
esac
"""


async def test_the_launcher_in_the_docs_works(tmp_path, monkeypatch):
    text = (ROOT / "docs/launchers.md").read_text()
    (source,) = [block for block in text.split("```python\n") if block.startswith("import asyncio")]
    names = {}
    exec(source.partition("```")[0], names)
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    launcher = names["DockerJobLauncher"]()
    assert isinstance(launcher, JobLauncher)
    job = make_script('echo "$WORD"; exit 3')
    assert await launcher.poll(job) is None
    with pytest.raises(LogNotFound):
        await read(launcher, job, pod=job.id)
    await launcher.launch(job, Launch(env={"WORD": "hello"}))
    assert (await launcher.poll(job)).message == "The command ended with exit code 3."
    [piece] = [piece async for piece in launcher.read_log(job, job.id, None)]
    assert piece.data == b"hello\n"
    assert [piece async for piece in launcher.read_log(job, job.id, piece.position)] == []
    [rest] = [piece async for piece in launcher.read_log(job, job.id, {"bytes": 2})]
    assert rest == LogPiece(b"llo\n", {"bytes": 6})
    job.delete_requested_at = utcnow()
    assert await launcher.terminate(job)
    assert await launcher.poll(job) is None
