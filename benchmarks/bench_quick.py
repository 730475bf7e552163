"""Compare the service with kbatch-proxy on the same cluster, in one run: ``make bench-quick``.

Both are one process with one worker, asked by the same load generator, by turns. The service answers a
submit when the job's row is durable (SQLite, WAL, synchronous=FULL) and launches it on the cluster after
that; the peer answers when it has made the Kubernetes Job. What either leaves to do, for itself or for
Kubernetes, is done before the next turn. No job's pod ever runs: the peer's Jobs have ``parallelism: 0``, the
service's ask for a node that is not there. Lists and reads are measured when the service's jobs are over: it
has nothing else to do then, as the peer has not.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import kubernetes

from tests.support.cluster import ensure_cluster
from tests.support.ports import find_ports
from tests.support.service import Service

from .hub import FakeHub
from .load import Request, Result, run_load
from .peer import PeerServer

ROUNDS = 3
JOBS = 1000
"""Jobs that the peer makes, and lists."""

OUR_SHARE = 500
"""Jobs of the service in a turn: as many as the peer makes would be made in a third of a second only."""

IN_FLIGHT = 16
END_SECONDS = 300
QUIET_SECONDS = 2
"""What the cluster has to do about the last jobs of a turn is done after so long."""

NAMESPACE = "bench"
PREFIX = "/services/kbatch/"
TOKEN = "a-token-of-alice"
HEADERS = {"Authorization": f"token {TOKEN}"}
SCOPES = [
    "access:services",
    "custom:kbatch:jobs:submit",
    "custom:kbatch:jobs:read",
    "custom:kbatch:jobs:cancel",
]

CONFIG = f"""
c.KBatchServer.bind_url = "http://127.0.0.1:{{port}}"
c.KBatchServer.launcher_class = "kubernetes"
c.KubeJobLauncher.namespace = "{NAMESPACE}"
c.JobConfig.node_selector = {{{{"kbatch-bench": "no-such-node"}}}}
"""

JOB = {"name": "bench", "image": "localhost/busybox:1", "command": ["true"]}
PEER_JOB = {
    "job": {
        "api_version": "batch/v1",
        "kind": "Job",
        "metadata": {"generate_name": "bench-", "annotations": {}, "labels": {}},
        "spec": {
            "parallelism": 0,
            "backoff_limit": 0,
            "template": {
                "metadata": {"annotations": {}, "labels": {}},
                "spec": {
                    "containers": [
                        {
                            "name": "job",
                            "image": "localhost/busybox:1",
                            "command": ["true"],
                            "args": [],
                            "env": [],
                        }
                    ],
                    "restart_policy": "Never",
                },
            },
        },
    }
}


@dataclass
class Row:
    """One comparison: the figures of each round, and how many times better we are to be."""

    name: str
    unit: str
    target: float
    ours: list[float]
    theirs: list[float]
    larger_is_better: bool

    @property
    def ratio(self) -> float:
        """How many times better we are, in the median round: a machine has faster and slower minutes."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return statistics.median(
            ours / theirs if self.larger_is_better else theirs / ours for ours, theirs in pairs
        )

    def __str__(self) -> str:
        ours, theirs = (
            f"{statistics.median(each):8.1f} ({min(each):.1f} to {max(each):.1f})"
            for each in (self.ours, self.theirs)
        )
        verdict = f"target {self.target:.0f}x " + ("reached" if self.ratio >= self.target else "NOT REACHED")
        return f"{self.name:34} {ours:28} {theirs:28} {self.unit:3} {self.ratio:6.1f}x  {verdict}"


async def measure(kubeconfig: Path, cluster: kubernetes.client.BatchV1Api) -> list[Row]:
    """Run both services and return the comparisons."""
    users = {TOKEN: {"name": "alice", "scopes": SCOPES}}
    async with FakeHub(users) as hub:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            port, peer_port = find_ports(2)
            environment = hub.service_environment(PREFIX) | {"KUBECONFIG": str(kubeconfig)}
            service = Service(
                Path(folder), port=port, config=CONFIG.format(port=port), environment=environment
            )
            await asyncio.to_thread(service.start)
            try:
                peer = PeerServer(kubeconfig, hub.api_url, "a-token-of-the-peer", peer_port)
                await asyncio.to_thread(peer.__enter__)
                try:
                    ours, theirs = f"http://127.0.0.1:{port}{PREFIX}api/v1/jobs", f"{peer.url}/jobs/"
                    return await compare(cluster, ours, theirs)
                finally:
                    await asyncio.to_thread(peer.__exit__, None, None, None)
            finally:
                await asyncio.to_thread(service.stop)


async def compare(cluster: kubernetes.client.BatchV1Api, ours: str, theirs: str) -> list[Row]:
    """Ask both by turns: first submits, which leave the jobs that the lists then show."""
    submits = Row(f"submits, {IN_FLIGHT} in flight", "/s", 20, [], [], larger_is_better=True)
    their_share = JOBS // ROUNDS + 1
    for turn in range(ROUNDS):
        submits.ours.append((await load(Request("POST", ours, JOB), OUR_SHARE, IN_FLIGHT)).rate)
        await settle(cluster, OUR_SHARE * (turn + 1) + their_share * turn)
        submits.theirs.append((await load(Request("POST", theirs, PEER_JOB), their_share, IN_FLIGHT)).rate)
        await settle(cluster, (OUR_SHARE + their_share) * (turn + 1))
    await end_jobs(ours)
    page = Row(f"a page of 50 at {JOBS} jobs, p50", "ms", 100, [], [], larger_is_better=False)
    for _ in range(ROUNDS):
        page.ours.append(await median_ms(f"{ours}?limit=50", 50))
        page.theirs.append(await median_ms(theirs, 4))
    read = Row("one job read, p50", "ms", 10, [], [], larger_is_better=False)
    our_id = (await fetch(f"{ours}?limit=1"))["items"][0]["id"]
    their_name = (await fetch(theirs))["items"][0]["metadata"]["name"]
    for _ in range(ROUNDS):
        read.ours.append(await median_ms(f"{ours}/{our_id}", 200))
        read.theirs.append(await median_ms(f"{theirs}{their_name}", 50))
    return [submits, page, read]


async def load(request: Request, total: int, in_flight: int) -> Result:
    """Send one request many times; an answer that is an error would make the figure worthless."""
    result = await run_load(lambda number: request, total=total, in_flight=in_flight, headers=HEADERS)
    if any(status >= 400 for status in result.statuses):
        raise RuntimeError(f"{request.method} {request.url}: {result}")
    return result


async def settle(cluster: kubernetes.client.BatchV1Api, jobs: int) -> None:
    """Wait until so many Jobs are begun: what a turn leaves behind is not to be in the way of the next."""
    async with asyncio.timeout(END_SECONDS):
        while await asyncio.to_thread(count_begun, cluster) < jobs:  # noqa: ASYNC110
            await asyncio.sleep(2)
    await asyncio.sleep(QUIET_SECONDS)


def count_begun(cluster: kubernetes.client.BatchV1Api) -> int:
    """Return how many Jobs Kubernetes has taken care of."""
    answer = cluster.list_job_for_all_namespaces(_request_timeout=30, _preload_content=False)
    return sum("startTime" in job["status"] for job in json.loads(answer.data)["items"])


async def end_jobs(ours: str) -> None:
    """Cancel our jobs and wait until all are over: a user's jobs are, most of the time."""
    cancelled: set[str] = set()
    async with aiohttp.ClientSession(headers=HEADERS) as session, asyncio.timeout(END_SECONDS):
        while items := (await fetch(f"{ours}?status=queued,pending&limit=500"))["items"]:
            for job_id in {job["id"] for job in items} - cancelled:
                (await session.post(f"{ours}/{job_id}/cancel")).release()
                cancelled.add(job_id)
            await asyncio.sleep(1)


async def median_ms(url: str, times: int) -> float:
    """Return the median time of a GET, one at a time."""
    return (await load(Request("GET", url), times, 1)).percentile(50) * 1000


async def fetch(url: str) -> dict:
    """Return the JSON at a URL."""
    async with aiohttp.ClientSession(headers=HEADERS) as session, session.get(url) as answer:
        answer.raise_for_status()
        return json.loads(await answer.read())


def main() -> int:
    """Print the comparison; the exit status says whether every target was reached."""
    cluster = ensure_cluster()
    try:
        with kubernetes.config.new_client_from_config(str(cluster.kubeconfig)) as client:
            kubernetes.client.CoreV1Api(client).create_namespace({"metadata": {"name": NAMESPACE}})
            rows = asyncio.run(measure(Path(cluster.kubeconfig), kubernetes.client.BatchV1Api(client)))
    finally:
        cluster.stop()
    print(f"{'':34} {'kbatch-server (min to max)':28} {'kbatch-proxy 0.4.2':28}")
    print("\n".join(map(str, rows)))
    return 0 if all(row.ratio >= row.target for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
