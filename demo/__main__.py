"""Start a hub with kbatch-server, run a real job on it as a user would, and leave it running until Ctrl-C."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kbatch_server.launchers.local.accounts import Account, get_account
from kbatch_server.launchers.local.launcher import LocalProcessJobLauncher

from .hub import DemoFailed, Hub, call

CONFIG = """\
c = get_config()
c.KBatchServer.launcher_class = "local"
c.KBatchServer.db_url = "sqlite:///{folder}/jobs.sqlite"
c.FileStorage.root = "{folder}/storage"
c.LocalProcessJobLauncher.root = "{folder}/jobs"
c.JobConfig.image = "this-machine"
c.KBatchServer.spawner_config = {spawner_config!r}
c.JobConfig.environment = {{"PATH": {path!r}}}
c.JobConfig.home = "any"
c.LocalProcessJobLauncher.home_template = "{folder}/homes/{{username}}"
"""
SPAWNER_CONFIG = Path(__file__).parent / "spawner_config.py"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
JOB_SECONDS = 120
USER = "demo"
CONSOLE = Console(highlight=False)


def main() -> int:
    """Run the demo and return the exit status: 0 when its job succeeded."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the example's job")
    parser.add_argument("--port", type=int, default=8000, help="the hub's port, if it is free")
    options = parser.parse_args()
    # not in the checkout: started by root, jobs run as another account, which must be able to get there
    folder = Path(tempfile.mkdtemp(prefix="kbatch-demo-"))
    folder.chmod(0o711)
    hub = Hub(folder, port=options.port)
    # as Ctrl-C, everything is stopped; a shell that starts a program in the background makes it ignore SIGINT
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        path = make_path(folder)
        config = CONFIG.format(folder=folder, path=path, spawner_config=str(SPAWNER_CONFIG))
        (folder / "kbatch_server_config.py").write_text(config)
        make_home(folder / "homes" / USER)
        return run(hub, once=options.once)
    except DemoFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopping.")
        return 0
    finally:
        hub.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run(hub: Hub, *, once: bool) -> int:
    """Start the hub, run the example on it and, unless once, wait for Ctrl-C."""
    with wait_for("Starting JupyterHub with kbatch-server"):
        hub.start()
    token = hub.make_token(USER)
    print(f"JupyterHub is at {hub.url} (user: {USER}, password: {hub.password})\n")
    job = submit_example(hub.kbatch_url, token)
    follow(hub.kbatch_url, token, job["id"])
    job = wait(hub.kbatch_url, token, job["id"])
    with wait_for("Keeping its results"):
        results = find_results(hub.kbatch_url, token, job["id"])
    show_outcome(job, results)
    print(f"Look at it at {hub.kbatch_url}\n\nOr, in another shell:\n")
    print(f"export KBATCH_URL={hub.kbatch_url}\nexport JUPYTERHUB_API_TOKEN={token}")
    print("KBATCH_URL=" + hub.kbatch_url)
    print("JUPYTERHUB_API_TOKEN=" + token, flush=True)
    if not once:
        print("\nCtrl-C stops it all.", flush=True)
        while True:
            time.sleep(1)
            hub.check()
    return 0 if job["status"] == "succeeded" else 1


@contextmanager
def wait_for(what: str) -> Iterator[None]:
    """Say what goes on: in a terminal with something that moves, else in a line."""
    if not CONSOLE.is_terminal:
        print(f"{what} …", flush=True)
        yield
        return
    with CONSOLE.status(f"{what} …"):
        yield


def show_outcome(job: dict[str, Any], results: str) -> None:
    """Print what became of the job: in a terminal as a table, else in lines."""
    if not CONSOLE.is_terminal:
        print(f"\nJob {job['id']} {job['status']}{': ' + job['message'] if job['message'] else '.'}\n")
        print(f"Its results: {results}\n")
        return
    table = Table(show_header=False)
    for name, value in (("job", job["id"]), ("status", job["status"]), ("results", results)):
        table.add_row(name, escape(value))
    if job["message"]:
        table.add_row("message", escape(job["message"]))
    CONSOLE.print(table)


def submit_example(kbatch_url: str, token: str) -> dict[str, Any]:
    """Send the example's folder as a ZIP, ask for its script to be run, and return the job."""
    headers = {"Authorization": f"token {token}"}
    code = make_zip(Path(__file__).parent / "example")
    upload = call(f"{kbatch_url}api/v1/uploads", headers=headers, data=code)
    print(f"Sent the example: {upload['size']} bytes, upload {upload['id'][:12]}…")
    request = {
        "name": "hello",
        "command": ["python", "hello.py"],
        "upload": upload["id"],
        "profile": "simulation",
        "profile_options": {"size": "medium", "threads--unlisted-choice": "2"},
        "home": True,
        "env": {"GREETING": "So long"},
        "description": "The demo's example",
    }
    job: dict[str, Any] = call(f"{kbatch_url}api/v1/jobs", headers=headers, data=request)
    print(f"Submitted job {job['id']}: {' '.join(job['command'])}\n")
    return job


def follow(kbatch_url: str, token: str, job_id: str) -> None:
    """Print the job's log as it comes, to its end."""
    request = urllib.request.Request(  # noqa: S310
        f"{kbatch_url}api/v1/jobs/{job_id}/logs?follow=true", headers={"Authorization": f"token {token}"}
    )
    with urllib.request.urlopen(request, timeout=JOB_SECONDS) as log:  # noqa: S310
        for line in log:
            print(f"  | {line.decode(errors='replace').rstrip()}", flush=True)


def wait(kbatch_url: str, token: str, job_id: str) -> dict[str, Any]:
    """Return the job when it is over."""
    deadline = time.monotonic() + JOB_SECONDS
    while True:
        headers = {"Authorization": f"token {token}"}
        job: dict[str, Any] = call(f"{kbatch_url}api/v1/jobs/{job_id}", headers=headers)
        if job["status"] in ("succeeded", "failed", "cancelled"):
            return job
        if time.monotonic() > deadline:
            raise DemoFailed(f"Job {job_id} is still {job['status']} after {JOB_SECONDS} s: {job['message']}")
        time.sleep(0.2)


def find_results(kbatch_url: str, token: str, job_id: str) -> str:
    """Return the files that the job left, with their sizes, when they are kept."""
    headers = {"Authorization": f"token {token}"}
    url = f"{kbatch_url}api/v1/jobs/{job_id}"
    deadline = time.monotonic() + JOB_SECONDS
    while call(url, headers=headers)["outputs"] is None:
        if time.monotonic() > deadline:
            raise DemoFailed(f"The results of job {job_id} were not kept after {JOB_SECONDS} s")
        time.sleep(0.2)
    items = call(f"{url}/outputs", headers=headers)["items"]
    return ", ".join(f"{item['path']} ({item['size']} bytes)" for item in items) or "none"


def make_zip(folder: Path) -> bytes:
    """Return a ZIP of the files of a folder."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("*.py")):
            archive.write(path, path.name)
    return content.getvalue()


def make_home(home: Path) -> None:
    """Make the user's home, with a file in it, for the account that runs the user's jobs."""
    home.mkdir(parents=True)
    (home / "notes.txt").write_text("Buy milk.\n")
    if os.geteuid() == 0:
        account = get_job_account()
        for path in (home, home / "notes.txt"):
            os.chown(path, account.uid, account.gid)


def get_job_account() -> Account:
    """Return the account that runs the user's jobs, if the demo is started by root."""
    launcher = LocalProcessJobLauncher
    return get_account(USER, fallback=launcher.user.default_value, min_uid=launcher.min_uid.default_value)


def make_path(folder: Path) -> str:
    """Return the PATH of jobs, which has a ``python`` that their account can run.

    Started by root, jobs run as another account, which may not get to a Python in root's home. Debian's,
    which it can run, is called python3 only: in the folder it gets the other name. Raises DemoFailed if there
    is none.
    """
    own = os.environ.get("PATH", os.defpath)
    if os.geteuid() != 0:
        return own
    account = get_job_account()
    if can_run(shutil.which("python") or sys.executable, account):
        return own
    names = ("python3", *(f"python3.{minor}" for minor in range(20, 5, -1)))
    found = (shutil.which(name, path=SYSTEM_PATH) for name in names)
    python = next((each for each in found if each and can_run(each, account)), None)
    if python is None:
        raise DemoFailed(
            f"Jobs run as the account {account.name!r}, which may run no Python of this machine. "
            "Install one for all accounts (apt-get install python3), or start the demo as another user."
        )
    (folder / "bin").mkdir(mode=0o755)
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(python)
    return f"{folder}/bin:{SYSTEM_PATH}"


def can_run(program: str, account: Account) -> bool:
    """Return whether an account can run a Python; the caller must be root."""
    try:
        done = subprocess.run(
            [program, "-c", ""],
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            cwd="/",
            env={"PATH": SYSTEM_PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=JOB_SECONDS,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
