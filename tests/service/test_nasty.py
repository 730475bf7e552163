"""Every route with words that no client of ours sends: the mistake of whoever does, never the service's."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from kbatch_server import handlers
from tests.service.test_operations import connect, run_job, running
from tests.support.hub import Hub
from tests.support.service import Service
from tests.support.web import PREFIX

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")

ROUTES = [
    (re.sub(r"\(\?:.*\)\?$|/\?$", "", pattern).replace("\\", ""), method, needs)
    for module in handlers.MODULES
    for pattern, handler in module.default_handlers
    for method in METHODS
    if (needs := getattr(getattr(handler, method, None), "needs", None)) is not None
]

LAX = ("stream", "job_name", "code", "state", "error", "error_description", "x")
"""Parameters of routes that take whatever is asked, and one of none."""

WORDS = [
    "%E6%97%A5",  # not in latin-1
    "%C3%A9",
    "%F0%9F%98%80",
    "%0A",
    "%0D%0AX-Injected:%20yes",
    "%00",
    "%22%27%5C",
    "%3Cscript%3E",
    "%ff",
    "%ED%A0%80",  # half of a character
    "..%2F..%2Fetc%2Fpasswd",
    "a%2Fb",
    "-1",
    "1e400",
    "99999999999999999999",
    "NaN",
    "%D9%A3",  # a digit, elsewhere
    "0000-00-00T00:00:00",
    "2030-01-31T12:00:00%2B99:99",
    "x" * 5000,
    "*",
    "%25s%25n",
]

HEADERS = {
    "Accept": ("", "api/v1/jobs/([^/]+)/logs", "api/v1/audit"),
    "Authorization": ("", "api/v1/health", "api/v1/jobs", "jobs"),
    "Content-Type": ("api/v1/jobs", "api/v1/uploads", "uploads"),
    "Cookie": ("", "api/v1/jobs", "oauth_callback"),
    "Idempotency-Key": ("api/v1/jobs",),
    "If-None-Match": ("api/v1/health", "api/v1/jobs/([^/]+)/outputs/(.+)"),
    "If-Range": ("api/v1/jobs/([^/]+)/outputs/(.+)",),
    "Last-Event-ID": ("api/v1/jobs/([^/]+)/logs",),
    "Origin": ("api/v1/jobs",),
    "Range": ("api/v1/jobs/([^/]+)/logs", "api/v1/jobs/([^/]+)/outputs/(.+)"),
    "Sec-Fetch-Mode": ("", "api/v1/jobs"),
    "User-Agent": ("jobs/logs/([^/]+)",),
    "X-Forwarded-For": ("api/v1/health",),
    "X-Forwarded-Proto": ("", "api/v1/health"),
    "X-Kbatch-Pod": ("outputs/([^/]+)",),
    "X-Kbatch-Unreadable": ("outputs/([^/]+)",),
    "X-Request-ID": ("api/v1/health",),
    "X-XSRFToken": ("api/v1/jobs",),
}
"""Headers that we read, or a library that we use, and where."""

VALUES = [
    *(b"\xe9", b"\xe6\x97\xa5", b'"', b";=,", b"bytes=9-1", b"bytes=-", b"=?utf-8?q?x?=", b"\t", b'a="\\'),
    *(b"1" * 3000, b"99999999999999999999-1", b"token " + b"\xff" * 10, b"service-kbatch=x; _xsrf=2|x|y|z"),
]


@pytest.fixture(scope="module")
def service(hub: Hub) -> Iterator[Service]:
    with running(hub) as service:
        yield service


@pytest.fixture(scope="module")
def alice(hub: Hub) -> bytes:
    return f"Authorization: token {hub.make_token('alice')}".encode()


@pytest.fixture(scope="module")
def job_id(hub: Hub, service: Service) -> str:
    with connect(service, hub.make_token("alice")) as client:
        return run_job(client, "sh", "-c", "echo hello; echo x > $KBATCH_OUTPUT_DIR/result.txt")


def ask(service: Service, method: str, path: str, *headers: bytes) -> int:
    """Send a request as it stands, and return its status; 0 where the connection was closed unanswered."""
    head = [f"{method.upper()} {PREFIX}{path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*head, b"", b""]))
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert b"\r\nX-Injected" not in answer
    return int(answer[9:12] or 0)


def check(service: Service, method: str, path: str, *headers: bytes) -> None:
    status = ask(service, method, path, *headers)
    is_well = 0 < status < 500 or (status == 501 and path.startswith("cronjobs"))
    assert is_well, f"{method} {path} {headers[1:]}: {status}\n{service.tail(30)}"


def fill(pattern: str, job_id: str) -> str:
    return pattern.replace("(.+)", "result.txt").replace("([^/]+)", job_id)


@pytest.mark.parametrize("word", WORDS)
def test_a_path_may_have_anything_in_it(service, alice, word):
    for pattern, method, _ in ROUTES:
        if "(" in pattern:
            path = pattern.replace("(.+)", word).replace("([^/]+)", word)
            check(service, method, path, alice)
            check(service, method, f"{path}?download=1", alice)


@pytest.mark.parametrize("word", WORDS)
def test_a_query_may_have_anything_in_it(service, alice, job_id, word):
    for pattern, method, needs in ROUTES:
        if method == "get" and "watch" not in pattern:
            for name in needs.query or LAX:
                check(service, method, f"{fill(pattern, job_id)}?{name}={word}", alice)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_may_have_anything_in_it(service, alice, job_id, name):
    for pattern, method, _ in ROUTES:
        if pattern in HEADERS[name]:
            for value in VALUES:
                ours = [] if name == "Authorization" else [alice]
                check(service, method, fill(pattern, job_id), b": ".join([name.encode(), value]), *ours)
