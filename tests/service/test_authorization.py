"""Every route as everybody: made from the routes, so that a new one cannot be missed; with a real hub.

What is expected is declared beside each method (``Needs``): a method that does not say whose things it is
about fails here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from kbatch_server import handlers
from kbatch_server.handlers.pages import find_files
from kbatch_server.web.access import Needs
from kbatch_server.web.auth import DEFAULT_SCOPES
from tests.service.test_operations import connect, run_job, running
from tests.support.hub import Hub
from tests.support.hub_double import ACCESS
from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.support.zips import make_zip

METHODS = ("get", "head", "post", "put", "patch", "delete")
ROUTES = [
    (pattern, method, getattr(getattr(handler, method), "needs", None))
    for module in handlers.MODULES
    for pattern, handler in module.default_handlers
    for method in METHODS
]
DECLARED = [(pattern, method, needs) for pattern, method, needs in ROUTES if needs is not None]
ALL = frozenset({"submit", "read", "cancel"})
PAGES = {"job/([^/]+)/?", "submit/?", "use/?", "admin/?"}
STYLE = find_files()["page.css"]


@dataclass(frozen=True)
class Caller:
    """Somebody, and what they may."""

    name: str
    token: str | None = None
    is_known: bool = True
    has_access: bool = True
    rights: frozenset[str] = field(default=ALL)
    is_job: bool = False
    """Whether it is a job of Alice's, with its own token."""

    @property
    def is_owner(self) -> bool:
        return self.name.startswith("alice")


@pytest.fixture(scope="module")
def service(hub: Hub) -> Iterator[Service]:
    with running(hub) as service:
        yield service


@pytest.fixture(scope="module")
def callers(hub: Hub, things: dict[str, str], running_job: dict[str, str]) -> list[Caller]:
    hub.add_admin("warden")
    alone = [
        Caller(
            f"alice with {action} alone",
            hub.make_token("alice", [ACCESS, DEFAULT_SCOPES[action]]),
            rights=frozenset({action}),
        )
        for action in sorted(ALL)
    ]
    no_access = hub.make_token("alice", [DEFAULT_SCOPES["read"]])
    return [
        Caller("nobody", is_known=False),
        Caller("a bad token", secrets.token_hex(16), is_known=False),
        Caller("alice", hub.make_token("alice")),
        Caller("alice without access", no_access, has_access=False, rights=frozenset({"read"})),
        Caller("alice with access alone", hub.make_token("alice", [ACCESS]), rights=frozenset()),
        *alone,
        Caller("bob", hub.make_token("bob")),
        Caller("an admin", hub.make_token("warden"), rights=ALL | {"admin"}),
        Caller("a service", hub.ci_token),
        Caller("prometheus", hub.metrics_token, rights=frozenset({"metrics"})),
        Caller(
            "another job of hers", running_job["token"], rights=frozenset({"submit", "read"}), is_job=True
        ),
        Caller("an ended job of hers", things["token"], is_known=False),
    ]


@pytest.fixture(scope="module")
def running_job(hub: Hub, service: Service) -> Iterator[dict[str, str]]:
    """A job of Alice's that runs, and its own token."""
    with connect(service, hub.make_token("alice")) as alice:
        command = ["sh", "-c", "echo $KBATCH_JOB_TOKEN; exec sleep 600"]
        job_id = alice.post("api/v1/jobs", json={"name": "runs", "command": command}).json()["id"]
        token = wait_until(lambda: read_log(alice, job_id))
        yield {"job": job_id, "token": token}
        alice.post(f"api/v1/jobs/{job_id}/cancel")


def read_log(client: httpx.Client, job_id: str) -> str:
    answer = client.get(f"api/v1/jobs/{job_id}/logs")
    return answer.text.strip() if answer.status_code == 200 else ""


@pytest.fixture(scope="module")
def things(hub: Hub, service: Service) -> dict[str, str]:
    """What of Alice's the paths name."""
    with connect(service, hub.make_token("alice")) as alice:
        job_id = run_job(alice, "sh", "-c", "echo $KBATCH_JOB_TOKEN; echo x > $KBATCH_OUTPUT_DIR/result.txt")
        [pod] = alice.get("pods", params={"job_name": job_id}).json()["items"]
        upload = alice.post(
            "api/v1/uploads", content=make_zip(), headers={"Content-Type": "application/zip"}
        ).json()["id"]
        token = wait_until(lambda: read_log(alice, job_id))
    return {"token": token, "job": job_id, "pod": pod["metadata"]["name"], "upload": upload}


def make_path(pattern: str, things: dict[str, str]) -> str:
    """Return a path of the pattern that names Alice's things."""
    kind = "upload" if "uploads/" in pattern else "pod" if pattern == r"pods/([^/]+)/?" else "job"
    first = {"code/": "forged", "outputs/": "forged", "static/": STYLE}
    value = next((word for begin, word in first.items() if pattern.startswith(begin)), things[kind])
    path = pattern.replace("([^/]+)", value, 1).replace("(.+)", "result.txt").replace("\\", "")
    return re.sub(r"\(\?:.*\)\?$|/\?$", "", path)


def call(client: httpx.Client, method: str, path: str) -> int:
    options: dict[str, object] = {}
    if method == "post" and path.endswith("uploads"):
        options = {"content": make_zip(), "headers": {"Content-Type": "application/zip"}}
        if not path.startswith("api/"):
            options = {"files": {"file": make_zip()}}
    elif method == "post" and path.endswith("jobs"):
        options = {"json": {"name": "matrix", "command": ["true"]}}
    elif path.endswith("/progress"):
        options = {"json": {"done": 1}}
    with client.stream(method.upper(), path, **options) as answer:  # one of them has no end
        return answer.status_code


def expect(caller: Caller, needs: Needs, pattern: str) -> str:
    """Return what somebody gets: ``401``, ``403``, ``404``, ``302`` (to the hub's login), or ``answer``."""
    if pattern.startswith("outputs/"):
        return "403"  # the link alone counts
    if caller.token is None and needs.user:
        return "302" if pattern in PAGES else "401"
    if caller.token is not None and not caller.is_known:
        return "401"
    if caller.token is not None and not caller.has_access:
        return "403"
    if caller.is_job:
        # it may do little, and nothing of that with a job that is neither itself nor its own
        may_not = not needs.admits_jobs or (pattern == "api/v1/jobs/?" and needs.action == "read")
        return "403" if may_not else "404" if needs.whose in {"job", "own-job"} else "answer"
    if needs.action is not None and needs.action not in caller.rights:
        return "403"
    if needs.whose == "link":
        return "403"
    is_admin = "admin" in caller.rights and needs.whose == "job"
    if needs.whose in {"job", "own-job", "upload"} and not (caller.is_owner or is_admin):
        return "404"
    return "answer"


def is_answer(status: int, pattern: str) -> bool:
    if pattern.startswith("cronjobs"):
        return status == 501
    return status < 300 or (status == 409 and ("/cancel" in pattern or "/progress" in pattern))


def test_every_route_declares_what_it_needs_and_whose_things_it_is_about():
    assert {pattern for pattern, *_ in ROUTES} == {pattern for pattern, *_ in DECLARED}
    assert [(pattern, method) for pattern, method, needs in DECLARED if needs.whose is None] == []


@pytest.mark.parametrize(
    ("pattern", "method", "needs"),
    [
        route
        for route in DECLARED
        if not (route[1] == "delete" and route[2].whose == "job") and route[0] != "oauth_callback"
    ],
    ids=lambda value: None if isinstance(value, Needs) else value or "/",
)
def test_each_route_answers_those_who_may_and_nobody_else(pattern, method, needs, service, callers, things):
    path = make_path(pattern, things)
    for caller in callers:
        with connect(service, caller.token) as client:
            status = call(client, method, path)
        expected = expect(caller, needs, pattern)
        if expected == "answer":
            assert is_answer(status, pattern), f"{caller.name}: {status}"
        else:
            assert str(status) == expected, caller.name


@pytest.mark.parametrize(
    "pattern", [pattern for pattern, _, needs in DECLARED if needs.whose == "self" and "user" in needs.query]
)
@pytest.mark.parametrize("whose", ["alice", "*"])
def test_what_is_of_others_is_asked_for_by_admins_only(pattern, whose, service, callers, things):
    path = f"{make_path(pattern, things)}?user={whose}"
    tokens = {caller.name: caller.token for caller in callers}
    for name in ("bob", "alice", "an admin"):
        with connect(service, tokens[name]) as client:
            status = call(client, "get", path)
        may = name == "an admin" or name == whose
        assert status == (200 if may else 403), name


@pytest.mark.parametrize("path", ["api/v1/jobs/{}", "jobs/{}"])
def test_a_job_is_deleted_by_those_who_may_and_nobody_else(path, service, callers, things):
    with connect(service, next(each.token for each in callers if each.name == "alice")) as alice:
        for caller in callers:
            body = {"name": "matrix", "command": ["true"]}
            job_id = alice.post("api/v1/jobs", json=body).json()["id"]
            with connect(service, caller.token) as client:
                status = client.delete(path.format(job_id)).status_code
            expected = expect(caller, Needs(action="cancel", whose="job"), path)
            assert (status < 300) if expected == "answer" else str(status) == expected, caller.name
            assert (alice.get(f"api/v1/jobs/{job_id}").status_code == 404) == (expected == "answer")


OF_JOBS = {
    ("api/v1/jobs/?", "post"),
    ("api/v1/jobs/?", "get"),
    ("api/v1/jobs/([^/]+)/?", "get"),
    ("api/v1/jobs/([^/]+)/progress/?", "put"),
}


def test_what_a_job_may_do_with_its_own_token_is_known(service, running_job):
    assert {(pattern, method) for pattern, method, needs in DECLARED if needs.admits_jobs} == OF_JOBS
    for pattern, method in OF_JOBS:
        path = make_path(pattern, running_job)
        query = f"?parent={running_job['job']}" if path == "api/v1/jobs" and method == "get" else ""
        with connect(service, running_job["token"]) as client:
            assert call(client, method, path + query) < 300, pattern


def test_the_end_of_a_login_that_nobody_began_lets_nobody_in(service):
    with connect(service, None) as client:
        for query in ("", "?code=x&state=y", "?error=x"):
            answer = client.get(f"oauth_callback{query}")
            assert answer.status_code in {400, 403}, query
            assert not [name for name in answer.cookies if name.startswith("service-kbatch")]


def test_an_admins_reading_of_others_is_on_record(service, callers, things, hub):
    with connect(service, next(each.token for each in callers if each.name == "an admin")) as admin:
        admin.get("api/v1/jobs/" + things["job"])
        admin.get("api/v1/jobs?user=*")
        admin.get("api/v1/jobs/summary?user=alice")
        for whose in ("*", "alice", "warden"):
            with admin.stream("GET", f"api/v1/jobs/watch?user={whose}") as answer:
                assert answer.status_code == 200
        entries = admin.get("api/v1/audit?who=warden&limit=6").json()["items"]
    assert [(each["action"], each["name"], each["user"]) for each in entries] == [
        ("audit", "", "*"),
        ("list", "", "alice"),
        ("list", "", "*"),
        ("list", "", "alice"),
        ("list", "", "*"),
        ("read", things["job"], "alice"),
    ]
    assert entries[5]["detail"] == f"GET /services/kbatch/api/v1/jobs/{things['job']}"
    assert "admin" in entries[3]["rights"]


READS_OF_OTHERS = [(pattern, method) for pattern, method, needs in DECLARED if "user" in needs.query]
"""All that may be asked for others, or for everybody."""


@pytest.mark.parametrize("whose", ["alice", "*"])
@pytest.mark.parametrize(("pattern", "method"), READS_OF_OTHERS)
def test_each_route_that_an_admin_reads_others_with_puts_it_on_record(
    pattern, method, whose, service, callers, things
):
    path = make_path(pattern, things)
    with connect(service, next(each.token for each in callers if each.name == "an admin")) as admin:
        with admin.stream(method.upper(), path, params={"user": whose}) as answer:
            assert answer.status_code == 200
            request_id = answer.headers["X-Request-ID"]
        entries = admin.get("api/v1/audit?who=warden&limit=10").json()["items"]
    noted = [(each["action"], each["user"]) for each in entries if each["request_id"] == request_id]
    assert noted == [("audit", "*") if "audit" in pattern else ("list", whose)]


def test_what_an_admin_may_read_of_others_is_known():
    """A new one must be on record, too: see the test before."""
    assert {pattern for pattern, _ in READS_OF_OTHERS} == {
        "api/v1/audit/?",
        "api/v1/jobs/?",
        "api/v1/jobs/counts/?",
        "api/v1/jobs/summary/?",
        "api/v1/jobs/watch/?",
    }
