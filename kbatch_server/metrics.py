"""The counters and histograms for Prometheus; docs/operations.md lists them, and a test compares the two.

No label contains the name of a user or a job: each has few values, however many users and jobs there are.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY = CollectorRegistry()
"""All metrics of this process, apart from the library's own registry, which any code may add to."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets, in seconds, for what should take milliseconds."""

SLOW = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 86400)
"""Buckets, in seconds, for what waits for a place on the cluster."""

REQUESTS = Counter(
    "kbatch_http_requests",
    "Requests that the service answered.",
    ("handler", "method", "status"),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "kbatch_http_request_seconds",
    "Time to answer a request, except streams.",
    ("handler",),
    buckets=QUICK,
    registry=REGISTRY,
)

SUBMITTED = Counter("kbatch_jobs_submitted", "Jobs that this process accepted.", registry=REGISTRY)
ENDED = Counter("kbatch_jobs_ended", "Jobs that ended, by status.", ("status",), registry=REGISTRY)
LAUNCHES = Counter(
    "kbatch_launches",
    "Launches of jobs: ok, refused (permanently), unavailable (tried again), failed (a bug), again (launched "
    "again because a node rejected the pod).",
    ("result",),
    registry=REGISTRY,
)
QUEUE_SECONDS = Histogram(
    "kbatch_job_queue_seconds",
    "Time from accepting a job to launching it.",
    buckets=(0.1, 0.5, *SLOW),
    registry=REGISTRY,
)
START_SECONDS = Histogram(
    "kbatch_job_start_seconds",
    "Time from accepting a job to the start of its command.",
    buckets=SLOW,
    registry=REGISTRY,
)

RECONCILE_LAG_SECONDS = Histogram(
    "kbatch_reconcile_lag_seconds",
    "Time that a job waited for a worker of the reconciler.",
    buckets=QUICK,
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "kbatch_reconcile_seconds",
    "Time that the reconciler took for one step of a job.",
    buckets=QUICK,
    registry=REGISTRY,
)
RECONCILE_FAILURES = Counter(
    "kbatch_reconcile_failures",
    "Steps of jobs to be retried: unavailable (a part did not respond), failed (a bug).",
    ("why",),
    registry=REGISTRY,
)
WATCH_RESTARTS = Counter(
    "kbatch_watch_restarts",
    "Watches of Kubernetes that ended: stale (listed again), unavailable, refused, failed (a bug).",
    ("kind", "why"),
    registry=REGISTRY,
)

LOOP_LAG_SECONDS = Histogram(
    "kbatch_event_loop_lag_seconds",
    "Delay of a timer on the event loop.",
    buckets=QUICK,
    registry=REGISTRY,
)
LOOP_LAG_MAX_SECONDS = Gauge(
    "kbatch_event_loop_lag_max_seconds",
    "The longest delay of a timer on the event loop in the last minute.",
    registry=REGISTRY,
)

CONNECTIONS_CLOSED = Counter(
    "kbatch_connections_closed",
    "Connections closed at the limit to admit a new one: stranger (no known user), kept (idle, of a user).",
    ("whose",),
    registry=REGISTRY,
)
HUB_SECONDS = Histogram(
    "kbatch_hub_request_seconds",
    "Time that the hub took to identify a token.",
    buckets=QUICK,
    registry=REGISTRY,
)
HUB_FAILURES = Counter("kbatch_hub_failures", "Requests that the hub did not answer.", registry=REGISTRY)

UPLOADS = Counter("kbatch_uploads", "Uploads that this process accepted.", registry=REGISTRY)
UPLOADED_BYTES = Counter(
    "kbatch_uploaded_bytes", "Bytes of the uploads that this process accepted.", registry=REGISTRY
)
LIMITS_HELD = Counter(
    "kbatch_limits_held",
    "Times that a limit rejected or delayed something, by the name of its trait; `database_reader` and "
    "`database_costly_reader` are reads that waited for their user's turn.",
    ("limit",),
    registry=REGISTRY,
)
DATABASE_FAILURES = Counter(
    "kbatch_database_failures", "Failed reads and writes of the database.", registry=REGISTRY
)
