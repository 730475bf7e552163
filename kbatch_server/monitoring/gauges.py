"""The metrics that the service computes when Prometheus asks: jobs, bytes, leader, health of the parts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from .. import __version__
from ..engine.leader import Leader
from ..engine.reconciler import Reconciler
from ..errors import Unavailable
from ..metrics import REGISTRY
from ..models.times import utcnow
from ..storage.diskspace import DiskSpace
from ..store.reports import ActiveJobs, KeptBytes, ReportStore
from ..web.inflight import InflightRequests
from ..web.throttle import Throttle
from .health import Health

JOBS_SECONDS = 5.0
"""Seconds for which to reuse the count of jobs that have not ended."""

BYTES_SECONDS = 300.0
"""Seconds for which to reuse the sum of stored bytes, which needs all rows."""


class Gauges(Collector):
    """The metrics that the service looks up on request, rather than counting events."""

    def __init__(
        self,
        *,
        disk: DiskSpace,
        health: Health,
        leader: Leader,
        reconciler: Reconciler,
        reports: ReportStore,
        throttle: Throttle,
        inflight: InflightRequests,
    ) -> None:
        self._disk = disk
        self._health = health
        self._leader = leader
        self._reconciler = reconciler
        self._reports = reports
        self._throttle = throttle
        self._inflight = inflight
        self._jobs: ActiveJobs | None = None
        self._bytes: KeptBytes | None = None
        self._jobs_until = self._bytes_until = float("-inf")
        self._lock = asyncio.Lock()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def make_page(self) -> bytes:
        """Return all metrics of this process, in Prometheus's text format.

        It omits metrics that the database cannot provide now.
        """
        async with self._lock:
            await self._look_up()
        await self._disk.look()
        own = generate_latest(self._registry)
        # in a thread: some of it is read from files of the kernel
        return own + await asyncio.to_thread(generate_latest, REGISTRY)

    async def _look_up(self) -> None:
        now = time.monotonic()
        jobs, kept = self._jobs, self._bytes
        try:
            if now >= self._jobs_until:
                jobs = None
                jobs = await self._reports.count_active()
                self._jobs_until = now + JOBS_SECONDS
            if now >= self._bytes_until:
                kept = None
                kept = await self._reports.sum_bytes()
                self._bytes_until = now + BYTES_SECONDS
        except Unavailable:
            pass  # the store has logged why
        finally:
            self.set_counts(jobs, kept)

    def set_counts(self, jobs: ActiveJobs | None, kept: KeptBytes | None) -> None:
        """Set the numbers from the database."""
        self._jobs, self._bytes = jobs, kept

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the latest numbers of the database and of this process, for Prometheus's library."""
        info = GaugeMetricFamily("kbatch_info", "Always 1; the label has the version.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "kbatch_leader", "1 in the leader, 0 in other processes.", value=int(self._leader.is_leading)
        )
        up = GaugeMetricFamily(
            "kbatch_part_up", "1 if a part that the service depends on responds, else 0.", labels=["part"]
        )
        for part in self._health.parts:
            up.add_metric([part.name], int(part.state == "ok"))
        yield up
        free = GaugeMetricFamily(
            "kbatch_disk_free_bytes",
            "Free bytes on the disks of the database and of files, if they are on this machine.",
            labels=["disk"],
        )
        for disk, size in self._disk.free_bytes.items():
            free.add_metric([disk], size)
        yield free
        requests = GaugeMetricFamily(
            "kbatch_http_open_requests",
            "Requests in progress: stream (followed logs, watched jobs) and other.",
            labels=["kind"],
        )
        for kind, count in self._inflight.count().items():
            requests.add_metric([kind], count)
        yield requests
        connections = GaugeMetricFamily(
            "kbatch_connections",
            "Open connections: stranger (no known user), user (request in progress), kept (idle, of a user).",
            labels=["whose"],
        )
        for whose, count in self._throttle.connections.count().items():
            connections.add_metric([whose], count)
        yield connections
        yield from self._collect_queue()
        yield from self._collect_jobs()

    def _collect_queue(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily(
            "kbatch_reconcile_queue",
            "Jobs that need a step by this process, if it is the leader: now, in a worker, later, or waiting"
            " to be launched.",
            labels=["state"],
        )
        for state, count in self._reconciler.count().items():
            depth.add_metric([state], count)
        yield depth
        yield GaugeMetricFamily(
            "kbatch_reconcile_oldest_seconds",
            "Time that the first job in line for a worker has waited.",
            value=self._reconciler.queue.get_lag_seconds(),
        )

    def _collect_jobs(self) -> Iterator[GaugeMetricFamily]:
        if self._jobs is not None:
            jobs = GaugeMetricFamily("kbatch_jobs", "Jobs that have not ended.", labels=["status"])
            for status, count in self._jobs.counts.items():
                jobs.add_metric([status.value], count)
            yield jobs
            since = self._jobs.oldest_queued_at
            yield GaugeMetricFamily(
                "kbatch_oldest_queued_seconds",
                "Time that the oldest queued job has waited; 0 if no job is queued.",
                value=0 if since is None else (utcnow() - since).total_seconds(),
            )
            yield GaugeMetricFamily(
                "kbatch_jobs_to_clean",
                "Jobs that have ended or were deleted, and are not cleaned up yet.",
                value=self._jobs.to_clean,
            )
        if self._bytes is not None:
            kept = GaugeMetricFamily("kbatch_kept_bytes", "Bytes in the storage, by kind.", labels=["kind"])
            for kind, size in self._bytes.items():
                kept.add_metric([kind], size)
            yield kept
