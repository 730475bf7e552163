"""Write the table of metrics in docs/operations.md from the code: ``python docs/generate_metrics.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client.metrics_core import Metric

from kbatch_server.engine.workqueue import WorkQueue
from kbatch_server.metrics import REGISTRY
from kbatch_server.models.job import Status
from kbatch_server.monitoring.gauges import Gauges
from kbatch_server.store.reports import ActiveJobs
from kbatch_server.web.inflight import InflightRequests
from kbatch_server.web.throttle import Throttle

TARGET = Path(__file__).with_name("operations.md")

BEGIN, END = "<!-- Made by docs/generate_metrics.py -->\n", "\n## Alerts"


def make_table() -> str:
    """Return the table, in Markdown."""
    rows = [
        f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |"
        for name, family, labels in sorted(_find_metrics(), key=lambda found: found[0])
    ]
    return "\n".join(["| name | kind | labels | what |", "|---|---|---|---|", *rows]) + "\n"


def _find_metrics() -> Iterator[tuple[str, Metric, tuple[str, ...]]]:
    nothing: Any = SimpleNamespace(parts=[], is_leading=True)
    queue = WorkQueue()
    gauges = Gauges(
        disk=SimpleNamespace(free_bytes={"database": 0}),  # type: ignore[arg-type]
        health=nothing,
        leader=nothing,
        reconciler=SimpleNamespace(queue=queue, count=queue.count),
        store=nothing,
        throttle=Throttle(),
        inflight=InflightRequests(),
    )
    gauges.set_counts(ActiveJobs({Status.QUEUED: 0}, None, 0), {"logs": 0})
    labels: dict[str, Any] = {}
    for each in [*REGISTRY._collector_to_names, *gauges.collect()]:
        name = getattr(each, "_name", None) or getattr(each, "name", "")
        labels[name] = getattr(each, "_labelnames", ())
    for family in [*REGISTRY.collect(), *gauges.collect()]:
        if family.name.startswith("kbatch_"):
            suffix = "_total" if family.type == "counter" else ""
            yield family.name + suffix, family, tuple(labels.get(family.name, ()))


def make_page() -> str:
    """Return the page as it is, with the table of now."""
    text = TARGET.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:begin] + make_table() + text[end:]


if __name__ == "__main__":
    TARGET.write_text(make_page())
