"""Where a request comes from: only proxies that are trusted are believed about it."""

from __future__ import annotations

import tracemalloc

import pytest
from tornado.httputil import HTTPHeaders
from traitlets import TraitError

from kbatch_server.web.forwarded import ProxyAddresses, find_network
from kbatch_server.web.server import WebServer
from tests.support.web import running_web

LOOPBACK = ["127.0.0.0/8", "::1"]
CLUSTER = [*LOOPBACK, "10.0.0.0/8"]


@pytest.mark.parametrize(
    ("trusted", "peer", "headers", "client"),
    [
        # nobody is believed who is not trusted
        (LOOPBACK, "203.0.113.9", {"X-Forwarded-For": "1.2.3.4", "X-Real-IP": "1.2.3.4"}, "203.0.113.9"),
        ([], "127.0.0.1", {"X-Forwarded-For": "1.2.3.4"}, "127.0.0.1"),
        # the hub's proxy, and what a client may send it
        (LOOPBACK, "127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        (LOOPBACK, "127.0.0.1", {"X-Forwarded-For": "1.2.3.4, 203.0.113.9"}, "203.0.113.9"),
        (LOOPBACK, "127.0.0.1", {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "1.2.3.4"}, "203.0.113.9"),
        (LOOPBACK, "::1", {"X-Forwarded-For": "2001:db8::7"}, "2001:db8::7"),
        (LOOPBACK, "::ffff:127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        # proxies before proxies
        (CLUSTER, "10.1.0.5", {"X-Forwarded-For": "1.2.3.4, 203.0.113.9, 10.2.0.1"}, "203.0.113.9"),
        (CLUSTER, "10.1.0.5", {"X-Forwarded-For": "10.3.0.1, 10.2.0.1"}, "10.3.0.1"),
        (CLUSTER, "10.1.0.5", {"X-Forwarded-For": "203.0.113.9:4711"}, "203.0.113.9"),
        (CLUSTER, "10.1.0.5", {"X-Forwarded-For": "[2001:db8::7]:4711"}, "2001:db8::7"),
        # a proxy that knows the other header only
        (LOOPBACK, "127.0.0.1", {"X-Real-IP": "203.0.113.9"}, "203.0.113.9"),
        # what is no address
        (LOOPBACK, "127.0.0.1", {}, "127.0.0.1"),
        (LOOPBACK, "127.0.0.1", {"X-Forwarded-For": "unknown"}, "127.0.0.1"),
        (CLUSTER, "127.0.0.1", {"X-Forwarded-For": "<b>, 10.2.0.1"}, "10.2.0.1"),
        (LOOPBACK, "127.0.0.1", {"X-Forwarded-For": "1.2.3.4" + ",127.0.0.1" * 1000}, "127.0.0.1"),
        (LOOPBACK, "0.0.0.0", {"X-Forwarded-For": "1.2.3.4"}, "0.0.0.0"),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(trusted, peer, headers, client):
    assert ProxyAddresses(trusted).find_client(peer, HTTPHeaders(headers)) == client


def test_what_is_too_long_for_an_address_is_not_remembered():
    proxies = ProxyAddresses(LOOPBACK)
    tracemalloc.start()
    try:
        for number in range(500):
            made_up = f"[{number}" + "1" * 30_000
            headers = HTTPHeaders({"X-Forwarded-For": made_up})
            assert proxies.find_client("127.0.0.1", headers) == "127.0.0.1"
            assert find_network(made_up) == made_up
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


@pytest.mark.parametrize(
    ("peer", "headers", "scheme"),
    [
        ("127.0.0.1", {"X-Forwarded-Proto": "https,http"}, "https"),
        ("127.0.0.1", {"X-Scheme": "https", "X-Forwarded-Proto": "http"}, "https"),
        ("127.0.0.1", {"X-Forwarded-Proto": "javascript"}, None),
        ("203.0.113.9", {"X-Forwarded-Proto": "https"}, None),
    ],
)
def test_the_scheme_is_what_the_first_proxy_saw(peer, headers, scheme):
    assert ProxyAddresses(LOOPBACK).find_scheme(peer, HTTPHeaders(headers)) == scheme


@pytest.mark.parametrize("wrong", ["proxy", "10.0.0.0/33", ""])
def test_a_wrong_address_is_named_at_the_start(wrong):
    with pytest.raises(TraitError, match=r"WebServer\.trusted_downstream_ips"):
        WebServer(trusted_downstream_ips=[wrong])


@pytest.mark.parametrize(("trusted", "shown"), [(LOOPBACK, "203.0.113.9"), ([], "127.0.0.1")])
async def test_the_address_is_that_of_the_request_and_of_no_later_one(tmp_path, trusted, shown, caplog):
    settings = {"WebServer": {"trusted_downstream_ips": trusted}}
    async with running_web(tmp_path, settings) as web, web.client() as client:
        with caplog.at_level("INFO", "tornado.access"):
            await client.get("api/v1/jobs", headers={"X-Forwarded-For": "203.0.113.9"})
            await client.get("api/v1/jobs")
            await client.get("nothing", headers={"X-Forwarded-For": "203.0.113.9"})
    assert [record.args["ip"] for record in caplog.records] == [shown, "127.0.0.1", shown]
