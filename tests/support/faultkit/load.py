"""Jobs at a steady rate, each submitted until it is accepted, and what each of them should come to."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.faultkit.ledger import Ledger
from tests.support.faultkit.waiting import until
from tests.support.installation import API

START_SECONDS = 120
"""How long a job may take to its start on a busy machine."""

BACK_SECONDS = 60
"""How long a client tries again before it gives up: longer than any fault takes."""

MAY_BE_ANSWERED = {0, 503, 507}
"""What a client may get instead of a job: no answer (0), or that something is away or full."""


@dataclass(frozen=True)
class Kind:
    """A kind of job: what it does after it has rung, and its end."""

    name: str
    script: str
    ends: tuple[str, ...]
    exit_code: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    keeps_output: bool = False
    is_cancelled: bool = False
    runs: int = 1
    """How often it may run."""


GOOD = Kind("good", "echo ran; echo result > $KBATCH_OUTPUT_DIR/f", ("succeeded",), 0, keeps_output=True)
BAD = Kind("bad", "echo ran; exit 3", ("failed",), 3)
SLOW = Kind("slow", "sleep 4; echo ran", ("succeeded",), 0)
CANCELLED = Kind(
    "cancelled", "trap 'exit 143' TERM; echo ran; sleep 600 & wait", ("cancelled",), is_cancelled=True
)


@dataclass(frozen=True)
class Accepted:
    """A job that was accepted, and during which fault."""

    id: str
    kind: Kind
    faults: tuple[str, ...]
    """Those that came between the first try to submit it and the answer."""


class Load:
    """A client that submits one job after the other, and cancels those that are to be cancelled."""

    def __init__(self, client: Callable[[], API], ledger: Ledger, *, pause_seconds: float) -> None:
        self.jobs: list[Accepted] = []
        self.answers: Counter[int] = Counter()
        """Answers that were no job, by status; 0 is none."""
        self.health: dict[str, str] = {}
        """What the service said of itself meanwhile, by fault."""
        self.faults: list[str] = []
        """All that there were, in their order."""
        self.is_under_way = False
        """Whether a job is being submitted, perhaps for a while."""
        self.pause_seconds = pause_seconds
        self._client = client()
        self._canceller = client()
        self._ledger = ledger
        self._upload = self._client.upload({"run.sh": "echo from the upload\n"})
        self._kinds = itertools.cycle((GOOD,))
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._run)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(2 * BACK_SECONDS)
        self._client.http.close()
        self._canceller.http.close()
        if self._failure is not None:
            raise self._failure

    def begin(self, fault: str, kinds: Sequence[Kind]) -> None:
        """From now on jobs are of these kinds, and belong to this fault."""
        self.faults.append(fault)
        self._kinds = itertools.cycle(kinds)

    def note_health(self, said: str) -> None:
        """Keep what the service says of itself during this fault."""
        self.health[self.faults[-1]] = said

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no job come in meanwhile but what ``submit`` is asked for."""
        with self._turn:
            yield

    def submit(self, kind: Kind) -> str:
        """Submit one more job, until it is accepted, and return its id."""
        first = len(self.faults) - 1
        body = {"name": kind.name, "command": ["sh", "-c", f"{self._ledger.script}; {kind.script}"]}
        body |= kind.fields | ({"upload": self._upload} if kind.keeps_output else {})
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        job = self._insist(self._client, "api/v1/jobs", {200, 201}, json=body, headers=headers)
        self.jobs.append(Accepted(job["id"], kind, tuple(self.faults[first:])))
        return job["id"]

    def submit_and_wait(self, kind: Kind) -> str:
        """Submit one more job and return its id when it is running."""
        job_id = self.submit(kind)
        path = f"api/v1/jobs/{job_id}"
        until(
            lambda: self._insist(self._canceller, path, {200}, "GET")["status"] == "running",
            f"{kind.name} job {job_id} runs",
            START_SECONDS,
        )
        return job_id

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self.pause_seconds):
                kind = next(self._kinds)
                with self._turn:
                    self.is_under_way = True
                    job_id = self.submit(kind)
                    self.is_under_way = False
                if kind.is_cancelled:
                    thread = threading.Thread(target=self._cancel, args=(job_id,))
                    self._threads.append(thread)
                    thread.start()
        except BaseException as error:
            self._failure = error

    def _cancel(self, job_id: str) -> None:
        """Cancel a job when it is running, or after a while."""
        try:
            give_up_at = time.monotonic() + 3
            while time.monotonic() < give_up_at:
                if (
                    self._insist(self._canceller, f"api/v1/jobs/{job_id}", {200}, "GET")["status"]
                    == "running"
                ):
                    break
                time.sleep(0.1)
            self._insist(self._canceller, f"api/v1/jobs/{job_id}/cancel", {200})
        except BaseException as error:
            self._failure = error

    def _insist(self, client: API, path: str, good: set[int], method: str = "POST", **kwargs: Any) -> Any:
        """Ask again until there is one of the good answers; any but those of a part that is away is wrong."""
        give_up_at = time.monotonic() + BACK_SECONDS
        while True:
            try:
                answer = client.http.request(method, path, **kwargs)
                status = answer.status_code
            except httpx.TransportError:
                status = 0
            if status in good:
                return answer.json()
            self.answers[status] += 1
            assert status in MAY_BE_ANSWERED, f"{method} {path}: {status} {answer.text}"
            assert time.monotonic() < give_up_at, f"{method} {path}: nothing in {BACK_SECONDS} s"
            time.sleep(0.05)
