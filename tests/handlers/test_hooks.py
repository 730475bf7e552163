"""``pre_submit_hook`` as users meet it: what it changes and rejects, on each of the wires."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kbatch_server.errors import InvalidRequest

JOB = {"name": "train", "command": ["true"]}
SENT = json.loads((Path(__file__).parents[1] / "data/kbatch-0.5.0b1.json").read_text())


@pytest.fixture
def web_settings():
    return {"JobConfig": {"allowed_images": ["python:*"], "max_cpu_limit": 4}}


@pytest.fixture
def seen(web):
    """The requests and users that the hook was called with; it adds a variable."""
    calls = []

    def pre_submit_hook(request, user):
        calls.append((request, user))
        return request.model_copy(update={"env": {"ADDED": "1", **request.env}})

    web.jobs.hooks.pre_submit_hook = pre_submit_hook
    return calls


async def test_the_hook_changes_the_request_of_each_wire_and_of_a_rerun(web, api, seen):
    made = (await api.post("api/v1/jobs", json=JOB | {"env": {"A": "x"}})).json()
    assert made["env"] == {"ADDED": "1", "A": "x"}
    assert seen[0][0].env == {"A": "x"}
    assert seen[0][1].name == "alice"
    again = await api.post(f"api/v1/jobs/{made['id']}/rerun")
    assert again.status_code == 201
    assert (await api.get(f"api/v1/jobs/{again.json()['id']}")).json()["env"] == made["env"]
    sent = await api.post("jobs/", json=SENT["plain"])
    assert sent.status_code == 200, sent.text
    with_code = await api.post("jobs/", json=SENT["code"])
    assert with_code.status_code == 200, with_code.text
    assert len(seen) == 4  # once for each job
    kept = await web.store.jobs.read_env(sent.json()["metadata"]["name"])
    assert kept["ADDED"] == "1"


async def test_what_the_hook_makes_of_a_request_is_checked_like_a_users(web, api):
    web.jobs.hooks.pre_submit_hook = lambda request, user: request.model_copy(update={"cpu_limit": 5.0})
    refused = await api.post("api/v1/jobs", json=JOB)
    assert refused.status_code == 400
    assert refused.json()["details"][0]["field"] == "cpu_limit"
    web.jobs.hooks.pre_submit_hook = lambda request, user: request.model_copy(update={"retries": -1})
    refused = await api.post("api/v1/jobs", json=JOB)
    assert refused.status_code == 400
    assert refused.json()["details"][0]["field"] == "retries"


async def test_a_change_in_place_counts_and_reaches_no_other_request(web, api):
    def pre_submit_hook(request, user):
        request.env["ADDED"] = "1"

    web.jobs.hooks.pre_submit_hook = pre_submit_hook
    assert (await api.post("api/v1/jobs", json=JOB)).json()["env"] == {"ADDED": "1"}


async def test_the_hook_rejects_with_a_field(web, api):
    async def pre_submit_hook(request, user):
        raise InvalidRequest.of_field("image", f"{user.name} may not use {request.image}")

    web.jobs.hooks.pre_submit_hook = pre_submit_hook
    refused = await api.post("api/v1/jobs", json=JOB | {"image": "python:4"})
    assert refused.status_code == 400
    message = "alice may not use python:4"
    assert refused.json()["details"] == [{"field": "image", "message": message}]
    sent = await api.post("jobs/", json=SENT["plain"])
    assert sent.status_code == 400
    assert "may not use" in sent.text
    assert (await api.get("api/v1/jobs")).json()["items"] == []


async def test_a_hook_that_fails_is_a_logged_500_and_one_that_hangs_a_503(web, api, caplog):
    def pre_submit_hook(request, user):
        raise KeyError("oops")

    web.jobs.hooks.pre_submit_hook = pre_submit_hook
    failed = await api.post("api/v1/jobs", json=JOB)
    assert failed.status_code == 500
    assert failed.json()["details"]["request_id"] in failed.json()["message"]
    assert "oops" not in failed.text
    assert "pre_submit_hook raised KeyError: 'oops'" in caplog.text
    web.jobs.hooks.pre_submit_hook = lambda request, user: "yes"
    assert (await api.post("api/v1/jobs", json=JOB)).status_code == 500
    assert "pre_submit_hook returned str, not a request or None" in caplog.text
    web.jobs.hooks.timeout_seconds = 0.1
    web.jobs.hooks.pre_submit_hook = lambda request, user: time.sleep(0.5)
    late = await api.post("api/v1/jobs", json=JOB)
    assert late.status_code == 503
    assert late.headers["Retry-After"]
    assert "pre_submit_hook has not returned after 0.1 s" in caplog.text


async def test_a_repeated_submit_is_the_same_whatever_the_hook_makes_of_it(web, api):
    web.jobs.hooks.pre_submit_hook = lambda request, user: request.model_copy(
        update={"env": {"AT": str(time.time_ns())}}
    )
    headers = {"Idempotency-Key": "one"}
    first = await api.post("api/v1/jobs", json=JOB, headers=headers)
    second = await api.post("api/v1/jobs", json=JOB, headers=headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert first.json()["env"] == second.json()["env"]


async def test_code_of_a_job_that_the_hook_rejects_is_not_kept(web, api):
    async def refuse(request, user):
        raise InvalidRequest.of_field("name", "no")

    web.jobs.hooks.pre_submit_hook = refuse
    assert (await api.post("jobs/", json=SENT["code"])).status_code == 400
    assert [each async for each in web.storage.list("uploads/")] == []
    web.jobs.hooks.pre_submit_hook = None
    assert (await api.post("jobs/", json=SENT["code"])).status_code == 200
    assert len([each async for each in web.storage.list("uploads/")]) == 1
