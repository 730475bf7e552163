"""Every answer is as ``openapi.json`` says: generated requests to the real service, with a hub's token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from kbatch_server.handlers import list_routes
from kbatch_server.handlers.openapi import make_openapi
from tests.service.test_operations import connect, running
from tests.support.hub import Hub
from tests.support.service import Service
from tests.support.web import PREFIX
from tests.support.zips import make_zip

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]

ADMIN = "warden"
"""Nobody of whom other tests want to know who they are."""

# what is generated as a command must not run: the double takes each job and says that it runs
IDLE_LAUNCHER = """
from kbatch_server.launchers.base import JobLauncher
from kbatch_server.models.job import JobStatus, Status, utcnow

class IdleLauncher(JobLauncher):
    async def launch(self, job, launch):
        return {"idle": True}

    async def poll(self, job):
        return JobStatus(status=Status.RUNNING, started_at=job.started_at or utcnow())

    async def terminate(self, job):
        return True

c.KBatchServer.launcher_class = IdleLauncher
"""


@pytest.fixture(scope="module")
def service(hub: Hub) -> Iterator[Service]:
    with running(hub, IDLE_LAUNCHER) as service:
        yield service


@pytest.fixture(scope="module")
def ids(hub: Hub, service: Service) -> dict[str, str]:
    """A job and an upload of the warden's."""
    hub.add_user(ADMIN)
    with connect(service, hub.make_token(ADMIN)) as warden:
        job = warden.post("api/v1/jobs", json={"name": "there", "command": ["true"]}).json()
        zipped = {"content": make_zip(), "headers": {"Content-Type": "application/zip"}}
        return {"jobs": job["id"], "uploads": warden.post("api/v1/uploads", **zipped).json()["id"]}


@pytest.fixture(scope="module")
def admin(hub: Hub) -> str:
    hub.add_admin(ADMIN)
    return hub.make_token(ADMIN)


schemathesis.openapi.media_type("application/zip", st.one_of(st.binary(max_size=200), st.just(make_zip())))

# all but the one whose answer has no end: tests/browser and tests/jobs/test_watch.py read that
schema = schemathesis.openapi.from_dict(make_openapi("1.2.3", PREFIX, list_routes())).exclude(
    path="/jobs/watch"
)


@pytest.mark.parametrize("there", [True, False], ids=["there", "not-there"])
@schema.parametrize()
@settings(
    max_examples=10, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_every_answer_is_as_described(case, there, service, ids, admin):
    if there and "id" in case.path_parameters:
        case.path_parameters["id"] = ids[case.path.split("/")[1]]
    if case.path.endswith("/logs") and case.query:
        case.query.pop("follow", None)  # this job runs for ever: tests/handlers/test_streams.py follows logs
    case.call_and_validate(
        base_url=f"http://127.0.0.1:{service.port}{PREFIX}api/v1",
        headers={"Authorization": f"token {admin}"},
        timeout=20,
        checks=CHECKS,
    )
