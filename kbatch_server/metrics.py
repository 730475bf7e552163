"""What is counted and timed for Prometheus; docs/operations.md has the list, and a test compares the two.

No label has the name of a user or a job: each has few values, however many there are of those.
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
"""All metrics of this process; not the library's own, which everybody's code may add to."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds of what should take milliseconds."""

SLOW = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 86400)
"""Seconds of what waits for a place on the cluster."""

REQUESTS = Counter(
    "kbatch_http_requests", "Requests that were answered.", ("handler", "method", "status"), registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "kbatch_http_request_seconds",
    "How long answers took, but for those that are streams.",
    ("handler",),
    buckets=QUICK,
    registry=REGISTRY,
)

SUBMITTED = Counter("kbatch_jobs_submitted", "Jobs that were accepted here.", registry=REGISTRY)
ENDED = Counter("kbatch_jobs_ended", "Jobs that ended, by their status.", ("status",), registry=REGISTRY)
LAUNCHES = Counter(
    "kbatch_launches",
    "Tries to hand a job over: ok, refused (for good), unavailable (tried again), failed (a defect), again "
    "(launched again, as its node did not take it).",
    ("result",),
    registry=REGISTRY,
)
QUEUE_SECONDS = Histogram(
    "kbatch_job_queue_seconds",
    "From a job's acceptance until it was handed to the launcher.",
    buckets=(0.1, 0.5, *SLOW),
    registry=REGISTRY,
)
START_SECONDS = Histogram(
    "kbatch_job_start_seconds",
    "From a job's acceptance until its command ran.",
    buckets=SLOW,
    registry=REGISTRY,
)

RECONCILE_LAG_SECONDS = Histogram(
    "kbatch_reconcile_lag_seconds",
    "How long a job that there was something to do about waited for a worker.",
    buckets=QUICK,
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "kbatch_reconcile_seconds", "How long one step of a job took.", buckets=QUICK, registry=REGISTRY
)
RECONCILE_FAILURES = Counter(
    "kbatch_reconcile_failures",
    "Steps that are tried again: unavailable (something did not answer), failed (a defect).",
    ("why",),
    registry=REGISTRY,
)
WATCH_RESTARTS = Counter(
    "kbatch_watch_restarts",
    "Watches of Kubernetes that broke: stale (listed again), unavailable, refused, failed (a defect).",
    ("kind", "why"),
    registry=REGISTRY,
)

LOOP_LAG_SECONDS = Histogram(
    "kbatch_event_loop_lag_seconds",
    "How much later than asked for the event loop came back to a timer.",
    buckets=QUICK,
    registry=REGISTRY,
)
LOOP_LAG_MAX_SECONDS = Gauge(
    "kbatch_event_loop_lag_max_seconds", "The longest of those lags in the last minute.", registry=REGISTRY
)

CONNECTIONS_CLOSED = Counter(
    "kbatch_connections_closed",
    "Connections closed as there were too many: of a stranger, or kept by a user, for a new one; or the new.",
    ("whose",),
    registry=REGISTRY,
)
HUB_SECONDS = Histogram(
    "kbatch_hub_request_seconds",
    "How long the hub took to say who a token is.",
    buckets=QUICK,
    registry=REGISTRY,
)
HUB_FAILURES = Counter("kbatch_hub_failures", "Questions that the hub did not answer.", registry=REGISTRY)

UPLOADS = Counter("kbatch_uploads", "Uploads that were accepted here.", registry=REGISTRY)
UPLOADED_BYTES = Counter("kbatch_uploaded_bytes", "Bytes of the uploads accepted here.", registry=REGISTRY)
LIMITS_HELD = Counter(
    "kbatch_limits_held",
    "Times that something was refused or put off because of a limit, by the name of its trait; "
    "`database_reader` and `database_costly_reader` are reads that waited for their user's turn.",
    ("limit",),
    registry=REGISTRY,
)
DATABASE_FAILURES = Counter(
    "kbatch_database_failures", "Reads and writes that the database did not do.", registry=REGISTRY
)
