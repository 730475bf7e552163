"""Whatever fails of a real installation while jobs come in: each comes to its right end, exactly once.

``make faults`` waits for as long as it takes in real life (``KBATCH_TEST_FAULTS=long``); without it, what
lasts a minute there is cut to a few seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kbatch_server.failpoints import STEPS
from tests.support.cluster import ClusterLike
from tests.support.faultkit.apiproxy import GATEWAY_TIMEOUT, GONE
from tests.support.faultkit.load import BAD, CANCELLED, GOOD, SLOW, Kind, Load
from tests.support.faultkit.site import FAKETIME, Site
from tests.support.faultkit.steps import kill_at_each
from tests.support.faultkit.table import check
from tests.support.faultkit.verdict import ENDS, settle
from tests.support.postgresql import PostgreSQL
from tests.support.s3server import find_s3server, running_s3server
from tests.support.waiting import wait_until

IS_LONG = os.environ.get("KBATCH_TEST_FAULTS") == "long"
AWAY_SECONDS = 60 if IS_LONG else 15
PAUSE_SECONDS = 2.0
SETTLE_SECONDS = 240
OVER_SECONDS = 120

WAITS = "trap 'exit 143' TERM; sleep 600 & wait"
EVICTED = Kind("evicted", WAITS, ("failed",))
EVICTED_WITH_RETRIES = Kind(
    "evicted-with-retries", f"[ $n -gt 1 ] && exit; {WAITS}", ("succeeded",), fields={"retries": 1}, runs=2
)
DELETED_POD = Kind("deleted-pod", WAITS, ("failed",))
IN_TIME = replace(SLOW, name="in-time", fields={"active_deadline_seconds": 600})
DELETED_JOB = Kind("deleted-job", WAITS, ("failed",))


@pytest.fixture
def site(cluster: ClusterLike, postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path) -> Iterator[Site]:
    with running_s3server(find_s3server(), tmp_path, host=cluster.host_address) as s3:
        site = Site(tmp_path, cluster, postgresql, s3, postgresql_url)
        yield site
        site.remove()


def accept(load: Load, count: int) -> None:
    """Wait until so many more jobs were accepted."""
    wanted = len(load.jobs) + count
    wait_until(lambda: len(load.jobs) >= wanted, f"{count} more jobs")


def wait_until_over(site: Site, load: Load) -> None:
    """Wait until every job that was accepted has its end."""
    client = site.client()
    for each in list(load.jobs):
        wait_until(
            lambda each=each: client.get(each.id)["status"] in ENDS, f"{each.id} is over", OVER_SECONDS
        )
    client.http.close()


def stop_the_api_server(site: Site, load: Load) -> None:
    accept(load, 1)
    site.cluster.stop_apiserver()
    stopped_at = time.monotonic()
    accept(load, 3)
    client = site.client()
    assert client.get(load.jobs[-1].id)["status"] == "queued"
    client.http.close()
    load.note_health(site.wait_failed("launcher"))
    time.sleep(max(0, stopped_at + AWAY_SECONDS - time.monotonic()))
    site.cluster.start_apiserver()


def drop_the_watches(site: Site, load: Load) -> None:
    for _ in range(3):
        accept(load, 1)
        wait_until(site.proxy.drop_watches, "a watch is open")


def end_the_watches_as_gone(site: Site, load: Load) -> None:
    accept(load, 1)
    wait_until(lambda: site.proxy.end_watches(GONE), "a watch is open")
    accept(load, 2)


def put_a_504_into_the_watches(site: Site, load: Load) -> None:
    accept(load, 1)
    wait_until(lambda: site.proxy.end_watches(GATEWAY_TIMEOUT), "a watch is open")
    accept(load, 1)
    wait_until(lambda: site.proxy.end_watches_in_the_middle(GATEWAY_TIMEOUT), "a watch is open again")
    accept(load, 1)


def answer_all_with_504(site: Site, load: Load) -> None:
    site.proxy.answers_504 = True
    site.proxy.drop_watches()
    accept(load, 2)
    site.proxy.answers_504 = False


def lose_answers(site: Site, load: Load) -> None:
    site.proxy.loses_answers = True
    accept(load, 3)
    site.proxy.loses_answers = False


def delay_all(site: Site, load: Load) -> None:
    site.proxy.delay_seconds = 2
    accept(load, 3)
    site.proxy.delay_seconds = 0


def evict_a_pod(site: Site, load: Load) -> None:
    for kind in (EVICTED, EVICTED_WITH_RETRIES):
        job_id = load.submit_and_wait(kind)
        name = site.find_pod(job_id)
        body = {"metadata": {"name": name, "namespace": site.namespace}}
        site.core.create_namespaced_pod_eviction(name, site.namespace, body)


def delete_a_pod(site: Site, load: Load) -> None:
    job_id = load.submit_and_wait(DELETED_POD)
    site.core.delete_namespaced_pod(site.find_pod(job_id), site.namespace, grace_period_seconds=1)


def delete_a_job(site: Site, load: Load) -> None:
    job_id = load.submit_and_wait(DELETED_JOB)
    site.batch.delete_namespaced_job(job_id, site.namespace, propagation_policy="Background")


def lose_the_node(site: Site, load: Load) -> None:
    with load.held():
        # a container that is being started by a kubelet that is killed fails, and its job with it
        wait_until_over(site, load)
        load.submit_and_wait(SLOW)
        site.cluster.stop_kubelet()
    if IS_LONG:
        wait_until(lambda: not site.is_node_ready(), "the node is not ready", 120)
    else:
        site.say_node_is_lost()  # what the node controller says itself, after a minute
    accept(load, 2)
    site.cluster.start_kubelet()


def restart_the_database(site: Site, load: Load) -> None:
    accept(load, 1)
    for mode in ("immediate", "fast"):
        site.postgresql.stop(mode)
        load.note_health(site.wait_failed("database"))
        site.postgresql.start()
        accept(load, 1)


def stop_the_storage(site: Site, load: Load) -> None:
    accept(load, 1)
    site.s3.stop()
    load.note_health(site.wait_failed("storage"))
    accept(load, 2)
    site.s3.start()


def stop_the_hub(site: Site, load: Load) -> None:
    token = site.hub.make_token("bob")
    site.hub.stop()
    accept(load, 2)
    client = site.client(token)
    assert "JupyterHub" in client.call("GET", "api/v1/jobs", status=503)["message"]
    load.note_health(site.wait_failed("hub"))
    site.hub.start(is_service_up=True)
    wait_until(lambda: client.http.get("api/v1/jobs").status_code == 200, "the hub knows its users again")
    client.http.close()


def move_the_clock(site: Site, load: Load) -> None:
    site.service.kill()
    site.service.set_environment(
        LD_PRELOAD=str(FAKETIME),
        FAKETIME_TIMESTAMP_FILE=str(site.clock),
        FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    site.service.start()
    for moved in ("+2h", "-2h", "+0"):
        for kind in (SLOW, IN_TIME):
            load.submit(kind)
        site.clock.write_text(moved)
        accept(load, 2)
    site.service.kill()
    site.service.set_environment(LD_PRELOAD=None)
    site.service.start()


FAULTS: dict[str, Callable[[Site, Load], None]] = {
    "watches dropped": drop_the_watches,
    "watches ended by 410 Gone": end_the_watches_as_gone,
    "504 in the watches": put_a_504_into_the_watches,
    "504 to every request": answer_all_with_504,
    "answers to writes lost": lose_answers,
    "API server slow by 2 s": delay_all,
    "pod evicted": evict_a_pod,
    "pod deleted by hand": delete_a_pod,
    "Job deleted by hand": delete_a_job,
    "node NotReady": lose_the_node,
    f"API server away for {AWAY_SECONDS} s": stop_the_api_server,
    "PostgreSQL restarted": restart_the_database,
    "S3 down": stop_the_storage,
    "hub down": stop_the_hub,
    "clock moved by 2 h": move_the_clock,
}


@pytest.mark.timeout(1800)  # six minutes, on a machine with nothing else to do
def test_every_accepted_job_ends_right_and_once_whatever_fails(site: Site) -> None:
    load = Load(site.client, site.ledger, pause_seconds=PAUSE_SECONDS)
    load.begin("none", (GOOD, BAD, CANCELLED))
    with load:
        accept(load, 3)
        for name, fail in FAULTS.items():
            load.begin(name, (GOOD, BAD, CANCELLED))
            begun = time.monotonic()
            fail(site, load)
            print(f"{name}: {time.monotonic() - begun:.1f} s")
        site.service.kill()
        # these jobs request no token of the hub
        kill_at_each(site.service, load, [step for step in STEPS if not step.startswith("token.")])
    check(settle(site, load, seconds=SETTLE_SECONDS))
