"""Where each job says that it runs, outside of all that is tested: so that runs can be counted."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from pathlib import Path
from typing import Protocol


class Ledger(Protocol):
    """What counts the runs."""

    @property
    def script(self) -> str:
        """What a job's shell does to be counted."""

    def count(self) -> Counter[str]:
        """Return how often each job ran."""


class FileLedger:
    """A file that every job on this machine appends a line to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        path.chmod(0o666)

    @property
    def script(self) -> str:
        return f"echo $KBATCH_JOB_ID >> {self._path}"

    def count(self) -> Counter[str]:
        return Counter(self._path.read_text().split())


class Bell:
    """A server that jobs on a cluster ring at; it answers with how often this job has rung."""

    def __init__(self, address: str) -> None:
        rings: Counter[str] = Counter()
        self._rings = rings

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                job_id = self.path.strip("/")
                rings[job_id] += 1
                body = str(rings[job_id]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self._url = f"http://{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def script(self) -> str:
        return f"n=$(wget -q -O - {self._url}/$KBATCH_JOB_ID)"

    def count(self) -> Counter[str]:
        return Counter(self._rings)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
