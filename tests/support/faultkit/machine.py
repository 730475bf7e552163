"""A service that runs jobs on this machine, with a real hub, and what of it is left when all is deleted."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from kbatch_server.launchers.local.folder import JobFolder
from tests.support.faultkit.health import wait_failed
from tests.support.faultkit.ledger import FileLedger
from tests.support.hub import Hub
from tests.support.installation import API
from tests.support.ports import find_ports
from tests.support.service import Service

PREFIX = "/services/kbatch/"
CONFIG = """
c.KBatchServer.bind_url = "http://127.0.0.1:{port}"
c.KBatchServer.launcher_class = "local"
c.KBatchServer.db_url = "sqlite:///{root}/data/jobs.sqlite"
c.LocalProcessJobLauncher.root = "{root}/jobs"
c.FileStorage.root = "{root}/data/storage"
c.JobConfig.image = "this-machine"
c.JobConfig.termination_grace_period_seconds = 1
c.LogRecorder.flush_seconds = 0.5
c.Hooks.post_finish_hook = lambda job: None
c.FileStorage.min_free_bytes = 0
c.DiskSpace.min_free_bytes = 0
"""
TWO_DAYS_SECONDS = 2 * 86400


class Machine:
    """The service and its folders: ``data`` has what it keeps, ``jobs`` those of the jobs."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.hub = hub
        self.root = Path(tempfile.mkdtemp(prefix="kbatch-faults-"))
        self.root.chmod(0o755)  # the accounts of jobs pass through it, unlike pytest's own
        self.data = self.root / "data"
        self.data.mkdir()
        self.ledger = FileLedger(self.root / "ran")
        (port,) = find_ports(1)
        config = CONFIG.format(port=port, root=self.root)
        environment = hub.service_environment | {"JUPYTERHUB_SERVICE_URL": ""}
        self.service = Service(folder, port=port, config=config, environment=environment)
        self._token = hub.make_token("alice")

    def client(self) -> API:
        """Return a client of the service itself: the hub may be away."""
        return API(f"http://127.0.0.1:{self.service.port}{PREFIX}", self._token)

    def wait_failed(self, part: str) -> str:
        """Wait until ``/ready`` names this part as failed, and return what it says in short."""
        return wait_failed(self.client, part)

    def find_leftovers(self, job_ids: Iterable[str]) -> list[str]:
        """Delete all jobs, stop the service, and return what is left of them."""
        client = self.client()
        ids = list(job_ids)
        for job_id in ids:
            client.call("DELETE", f"api/v1/jobs/{job_id}", status=204)
        deadline = time.monotonic() + 30
        while self._list_records() and time.monotonic() < deadline:
            time.sleep(0.1)
        client.http.close()
        self.service.stop()
        left = [f"record of {job_id}" for job_id in self._list_records()]
        left += [f"folder {path.name}" for path in (self.root / "jobs").iterdir()]
        left += [f"process {pid} of {job_id}" for pid, job_id in find_processes(set(ids))]
        return left + [f"object {key}" for key in self._collect()]

    def _list_records(self) -> list[str]:
        with closing(sqlite3.connect(self.data / "jobs.sqlite")) as database:
            return [job_id for (job_id,) in database.execute("SELECT id FROM jobs")]

    def _collect(self) -> list[str]:
        """Let two days pass for the storage, remove what nothing names, and return what is there but code."""
        storage = self.data / "storage"
        past = time.time() - TWO_DAYS_SECONDS
        for path in storage.rglob("*"):
            os.utime(path, (past, past))
        subprocess.run(
            [sys.executable, "-m", "kbatch_server", "gc", "--config", str(self.service.config_file)],
            cwd=self.service.folder,
            env=os.environ | self.service.environment,
            check=True,
            capture_output=True,
            timeout=60,
        )
        files = [path.relative_to(storage).as_posix() for path in storage.rglob("*") if path.is_file()]
        uploads = [each for each in files if each.startswith("uploads/")]
        return [each for each in files if each not in uploads[:1]]

    def remove(self) -> None:
        """End everything of it."""
        self.service.kill()
        jobs = self.root / "jobs"
        for each in os.listdir(jobs) if jobs.exists() else ():
            pid = JobFolder(str(jobs / each)).find_supervisor()
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
        shutil.rmtree(self.root)


def find_processes(job_ids: set[str]) -> list[tuple[int, str]]:
    """Return the processes that have one of the jobs in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        for word in words:
            name, _, value = word.decode(errors="replace").partition("=")
            if name == "KBATCH_JOB_ID" and value in job_ids:
                found.append((int(path.parent.name), value))
    return found
