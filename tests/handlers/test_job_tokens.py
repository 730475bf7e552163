"""What a job may do with its own token, and what not: read itself, report progress, submit other jobs."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest

from kbatch_server.jobs import tokens
from kbatch_server.jobs.tokens import JobTokens
from kbatch_server.keyring import Keyring
from kbatch_server.models.job import JobSpec, Status
from kbatch_server.models.times import utcnow
from tests.support.waiting import until
from tests.support.web import PREFIX, make_job
from tests.support.zips import make_zip

WORK = {"name": "part", "command": ["true"]}
SPEC = JobSpec(
    image="python:3", command=["python"], max_children=3, max_child_depth=1, hub_scopes=["read:users!user"]
)


@pytest.fixture
def web_settings():
    return {"JobConfig": {"allowed_hub_scopes": ["read:users!user", "servers!user"], "max_children": 2}}


async def add(web, job_id="train-1", **fields):
    """Put a running job on record; return it and a client with its token."""
    job = await web.add(make_job(job_id, **{"spec": SPEC} | fields))
    return job, web.client(make_token(web, job))


def make_token(web, job) -> str:
    return web.parts.engine.tokens.make(job)


def forget(web) -> None:
    """Let the service ask the record again, as it does a second later."""
    web.parts.engine.tokens._remembered.clear()


async def test_a_job_reads_itself_and_its_children_and_nothing_else(web):
    job, client = await add(web, groups=["staff"])
    other, _ = await add(web, "other-1")
    strangers, _ = await add(web, "strangers-1", user="bob")
    async with client:
        own = (await client.get(f"api/v1/jobs/{job.id}")).json()
        assert (own["id"], own["user"], own["parent"], own["children"]) == (job.id, "alice", None, 0)
        child = (await client.post("api/v1/jobs", json=WORK)).json()
        assert (child["user"], child["parent"]) == ("alice", job.id)
        assert (await client.get(f"api/v1/jobs/{child['id']}")).json()["name"] == "part"
        for unseen in (other, strangers):
            answer = await client.get(f"api/v1/jobs/{unseen.id}")
            assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")
        listed = (await client.get(f"api/v1/jobs?parent={job.id}")).json()["items"]
        assert [each["id"] for each in listed] == [child["id"]]
        for query in ("", "?parent=other-1", "?user=bob", f"?parent={job.id}&user=*"):
            answer = await client.get(f"api/v1/jobs{query}")
            assert answer.status_code == 403, query
    recorded = await web.store.jobs.find(child["id"])
    assert (recorded.groups, recorded.depth) == (["staff"], 1)
    assert (await web.store.jobs.find(job.id)).children == 1
    assert web.hub.asked == []  # the hub has nothing to do with it


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "api/v1/user"),
        ("GET", "api/v1/jobs/{id}/logs"),
        ("GET", "api/v1/jobs/{id}/outputs"),
        ("GET", "api/v1/jobs/watch"),
        ("GET", "api/v1/audit"),
        ("GET", "api/v1/profiles"),
        ("POST", "api/v1/jobs/{id}/cancel"),
        ("POST", "api/v1/jobs/{id}/rerun"),
        ("DELETE", "api/v1/jobs/{id}"),
        ("POST", "api/v1/uploads"),
        ("GET", "jobs"),
        ("POST", "jobs"),
    ],
)
async def test_a_jobs_token_is_for_nothing_else(web, method, path):
    job, client = await add(web)
    async with client:
        answer = await client.request(method, path.format(id=job.id))
    assert (answer.status_code, answer.json()["reason"]) == (403, "JobToken")
    assert answer.json()["message"].startswith("A job's own token cannot do this.")


@pytest.mark.parametrize("scheme", ["token", "Bearer", "bearer"])
async def test_it_is_sent_as_any_other_token(web, scheme):
    job, client = await add(web)
    client.headers["Authorization"] = f"{scheme} {make_token(web, job)}"
    async with client:
        assert (await client.get(f"api/v1/jobs/{job.id}")).status_code == 200


async def test_a_jobs_token_is_dead_when_its_job_is(web):
    ends = {
        "ended": lambda job: web.store.jobs.update(job.id, status=Status.FAILED, ended_at=utcnow()),
        "cancelled": lambda job: web.store.jobs.request_cancel(job.id, user="alice"),
        "deleted": lambda job: web.store.jobs.request_delete(job.id, user="alice"),
        "forgotten": lambda job: web.jobs.forget_user("alice"),
        "removed": lambda job: web.store.jobs.remove(job.id),
    }
    for name, end in ends.items():
        job, client = await add(web, f"{name}-1", launch_begun_at=utcnow())
        async with client:
            assert (await client.get(f"api/v1/jobs/{job.id}")).status_code == 200
            await end(job)
            forget(web)
            for method, path in (("GET", ""), ("PUT", "/progress")):
                answer = await client.request(method, f"api/v1/jobs/{job.id}{path}", json={"done": 1})
                assert answer.status_code == 401, name
                assert "ended" in answer.json()["message"]
            answer = await client.post("api/v1/jobs", json=WORK)
            assert answer.status_code == 401


async def test_what_is_no_valid_token_of_this_service_gets_401_and_is_not_shown_to_the_hub(web, monkeypatch):
    job, _ = await add(web)
    good = make_token(web, job)
    of_another = JobTokens(audience=PREFIX, keyring=Keyring(["o" * 64]), jobs=web.store.jobs)
    elsewhere = JobTokens(audience="/other/", keyring=web.parts.keyring, jobs=web.store.jobs)
    link = "kbatch-job-" + web.parts.keyring.sign({"job": job.id}, purpose="outputs")
    monkeypatch.setattr(time, "time", lambda now=time.time: now() - 91 * 86400)
    expired = make_token(web, job)
    monkeypatch.undo()
    for bad in (
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good.replace(".", "x", 1),
        "kbatch-job-",
        "kbatch-job-x.y.z",
        "kbatch-job-" + "x" * 5000,
        of_another.make(job),
        elsewhere.make(job),
        link,
        expired,
    ):
        async with web.client(bad) as client:
            answer = await client.get(f"api/v1/jobs/{job.id}")
            assert answer.status_code == 401, bad[:60]
            assert bad not in answer.text
    assert web.hub.asked == []
    async with web.client(good) as client:
        assert (await client.get(f"api/v1/jobs/{job.id}")).status_code == 200


async def test_a_token_expires_when_its_job_must_have_ended(web):
    spec = SPEC.model_copy(
        update={"active_deadline_seconds": 60, "schedule_timeout_seconds": 100, "start_timeout_seconds": 40}
    )
    job, client = await add(web, spec=spec)
    assert spec.get_longest_seconds() == 60 + 30 + 300 + 100 + 40 + 600
    signed = make_token(web, job).removeprefix("kbatch-job-")
    said = web.parts.keyring.verify(signed, purpose="job-token", max_age_seconds=60)
    assert said["until"] == pytest.approx(time.time() + 1130, abs=30)
    await client.aclose()


async def test_a_flood_of_requests_reads_the_record_once_a_second(web, monkeypatch):
    job, client = await add(web)
    reads = []
    find = web.store.jobs.find

    async def count(job_id):
        reads.append(job_id)
        return await find(job_id)

    monkeypatch.setattr(tokens, "REMEMBERED_SECONDS", 60)
    monkeypatch.setattr(web.store.jobs, "find", count)
    async with client:
        for _ in range(50):
            path = f"api/v1/jobs/{job.id}/progress"
            assert (await client.put(path, json={"done": 1})).status_code == 204
    assert len(reads) == 1


async def test_a_job_submits_so_many_jobs_and_no_more(web):
    job, client = await add(web)
    async with client:
        answers = await asyncio.gather(*(client.post("api/v1/jobs", json=WORK) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [403] * 5
        refused = next(answer for answer in answers if answer.status_code == 403).json()
        assert refused["details"] == {"limit": 3, "resource": "children"}
        assert "the limit is 3" in refused["message"]
    assert (await web.store.jobs.find(job.id)).children == 3
    # deleting one makes no room: what it ran has run
    child = next(answer for answer in answers if answer.status_code == 201).json()["id"]
    await web.store.jobs.remove(child)
    async with web.client(make_token(web, job)) as client:
        assert (await client.post("api/v1/jobs", json=WORK)).status_code == 403


async def test_children_submit_none_unless_the_admin_allows_it(web):
    _, client = await add(web)
    async with client:
        child_id = (await client.post("api/v1/jobs", json=WORK)).json()["id"]
    child = await web.store.jobs.find(child_id)
    assert child.spec.max_children == 2  # the configuration's, for children of users' jobs
    async with web.client(make_token(web, child)) as client:
        answer = await client.post("api/v1/jobs", json=WORK)
        assert (answer.status_code, answer.json()["reason"]) == (403, "ChildrenNotAllowed")
        assert "maximum depth is 1" in answer.json()["message"]
    _, client = await add(web, "alone-1", spec=replace_spec(max_children=0))
    async with client:
        assert (await client.post("api/v1/jobs", json=WORK)).json()["reason"] == "ChildrenNotAllowed"


def replace_spec(**fields) -> JobSpec:
    return SPEC.model_copy(update=fields)


async def test_a_child_has_no_right_that_its_parent_lacks(web):
    _, client = await add(web)
    async with client:
        child = (await client.post("api/v1/jobs", json=WORK | {"hub_scopes": ["read:users!user"]})).json()
        assert child["hub_scopes"] == ["read:users!user"]
        answer = await client.post("api/v1/jobs", json=WORK | {"hub_scopes": ["servers!user"]})
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "hub_scopes")
        for field, wanted in (
            ("secret_env", {"KEY": "other"}),
            ("secret_files", {"key": "other"}),
            ("registry_secrets", ["other"]),
        ):
            answer = await client.post("api/v1/jobs", json=WORK | {field: wanted})
            assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, field)
        for field, wanted in (("home", True), ("home", "server:gpu"), ("like", "server")):
            answer = await client.post("api/v1/jobs", json=WORK | {field: wanted})
            assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, field)
            assert "the job that submits this one" in answer.json()["message"]
        bobs = await send_code(web, "bob-token")
        answer = await client.post("api/v1/jobs", json=WORK | {"upload": bobs})
        assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")
        own = await send_code(web, "alice-token")
        assert (await client.post("api/v1/jobs", json=WORK | {"upload": own})).status_code == 201


async def send_code(web, token: str) -> str:
    async with web.client(token, headers={"Content-Type": "application/zip"}) as client:
        return (await client.post("api/v1/uploads", content=make_zip())).json()["id"]


async def test_a_repeated_submit_of_a_job_returns_its_child_and_never_another_job(web):
    job, client = await add(web)
    other, others = await add(web, "other-1")
    async with client, others, web.client() as alice:
        key = {"Idempotency-Key": "step-1"}
        first = await client.post("api/v1/jobs", json=WORK, headers=key)
        again = await client.post("api/v1/jobs", json=WORK, headers=key)
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json()["id"] == first.json()["id"]
        for apart in (alice, others):
            answer = await apart.post("api/v1/jobs", json=WORK, headers=key)
            assert answer.status_code == 201
            assert answer.json()["id"] != first.json()["id"]
        long = {"Idempotency-Key": "x" * 191}
        assert (await client.post("api/v1/jobs", json=WORK, headers=long)).status_code == 400
    assert (await web.store.jobs.find(job.id)).children == 1
    assert (await web.store.jobs.find(other.id)).children == 1


async def test_it_is_on_record_which_job_submitted_one(web):
    job, client = await add(web)
    async with client:
        child = (await client.post("api/v1/jobs", json=WORK)).json()["id"]
    async with web.client("admin-token") as admin:
        entries = (await admin.get(f"api/v1/audit?name={child}")).json()["items"]
    assert [(each["who"], each["kind"], each["detail"]) for each in entries] == [
        ("alice", "job", f"by {job.id}")
    ]


async def test_a_users_limits_count_children(web):
    web.jobs.limits.max_queued = 1
    _, client = await add(web)
    async with client:
        assert (await client.post("api/v1/jobs", json=WORK)).status_code == 201
        answer = await client.post("api/v1/jobs", json=WORK)
        assert (answer.status_code, answer.json()["details"]["resource"]) == (429, "queued")


# Progress


async def test_progress_is_shown_to_the_owner_and_to_those_who_watch(web):
    job, client = await add(web)
    async with client, web.client() as alice:
        async with alice.stream("GET", "api/v1/jobs/watch") as watching:
            lines = watching.aiter_lines()
            await read_event(lines, "reset")
            report = {"done": 3, "total": 10, "message": "epoch 3, loss 0.25"}
            answer = await client.put(f"api/v1/jobs/{job.id}/progress", json=report)
            assert answer.status_code == 204
            while (seen := await read_event(lines, "job"))["progress"] is None:
                pass
        shown = (await alice.get(f"api/v1/jobs/{job.id}")).json()["progress"]
        listed = (await alice.get("api/v1/jobs")).json()["items"][0]["progress"]
    assert seen["progress"] == shown == listed
    assert {name: shown[name] for name in report} == report
    assert shown["at"].endswith("Z")


async def read_event(lines, name: str) -> dict:
    async for line in lines:
        if line == f"event: {name}":
            while not (line := await anext(lines)).startswith("data: "):
                pass
            return json.loads(line.removeprefix("data: "))
    raise AssertionError(name)


async def test_of_many_reports_the_last_is_kept_with_few_writes(web, monkeypatch):
    job, client = await add(web)
    writes = []
    update = web.store.jobs.update

    async def count(job_id, **columns):
        writes.append(columns["progress"].done)
        return await update(job_id, **columns)

    monkeypatch.setattr(web.store.jobs, "update", count)
    async with client:
        path = f"api/v1/jobs/{job.id}/progress"
        begun = time.monotonic()
        for done in range(1, 101):
            assert (await client.put(path, json={"done": done, "total": 100})).status_code == 204

        async def is_written():
            return (await web.store.jobs.find(job.id)).progress.done == 100

        await until(is_written)
        seconds = time.monotonic() - begun
    assert (writes[0], writes[-1]) == (1, 100)
    assert len(writes) <= 2 + seconds


async def test_the_last_report_is_written_when_the_job_ends_or_the_service_stops_before(web):
    job, client = await add(web)
    async with client:
        path = f"api/v1/jobs/{job.id}/progress"
        for done in (1, 2, 3):
            await client.put(path, json={"done": done})
    await web.store.jobs.update(job.id, status=Status.SUCCEEDED, ended_at=utcnow())
    await web.jobs.progress.close()
    assert (await web.store.jobs.find(job.id)).progress.done == 3


@pytest.mark.parametrize(
    ("report", "field"),
    [
        ({}, "done"),
        ({"total": 3}, "done"),
        ({"done": -1}, "done"),
        ({"done": "1"}, "done"),
        ({"done": 1e300}, "done"),
        ({"done": 1, "total": 0}, "total"),
        ({"message": "x" * 501}, "message"),
        ({"message": 1}, "message"),
        ({"done": 1, "more": 2}, "more"),
    ],
)
async def test_a_wrong_report_names_the_field(web, report, field):
    job, client = await add(web)
    async with client:
        answer = await client.put(f"api/v1/jobs/{job.id}/progress", json=report)
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == field


async def test_a_report_has_a_maximum_size(web):
    job, client = await add(web)
    async with client:
        answer = await client.put(f"api/v1/jobs/{job.id}/progress", content=b" " * 20_000)
    assert answer.status_code == 413


async def test_progress_is_of_ones_own_job_that_has_not_ended(web):
    job, client = await add(web)
    other, _ = await add(web, "other-1")
    over, _ = await add(web, "over-1", status=Status.SUCCEEDED)
    report = {"done": 1}
    async with (
        client,
        web.client() as alice,
        web.client("bob-token") as bob,
        web.client("admin-token") as root,
    ):
        assert (await client.put(f"api/v1/jobs/{other.id}/progress", json=report)).status_code == 404
        assert (await alice.put(f"api/v1/jobs/{job.id}/progress", json=report)).status_code == 204
        for stranger in (bob, root):
            answer = await stranger.put(f"api/v1/jobs/{job.id}/progress", json=report)
            assert answer.status_code == 404
        answer = await alice.put(f"api/v1/jobs/{over.id}/progress", json=report)
        assert (answer.status_code, answer.json()["reason"]) == (409, "JobEnded")


# The request for a token of the hub


@pytest.mark.parametrize(
    "scopes", [["admin:users"], ["servers"], ["read:users!user", "tokens"], ["SERVERS!user"]]
)
async def test_only_the_scopes_of_the_admins_list_may_be_requested(web, scopes):
    async with web.client() as alice:
        answer = await alice.post("api/v1/jobs", json=WORK | {"hub_scopes": scopes})
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "hub_scopes")
    assert "read:users!user, servers!user" in answer.json()["message"]


async def test_the_requested_scopes_are_kept_and_shown_each_once(web):
    async with web.client() as alice:
        scopes = ["servers!user", "read:users!user", "servers!user"]
        job = (await alice.post("api/v1/jobs", json=WORK | {"hub_scopes": scopes})).json()
        again = (await alice.post(f"api/v1/jobs/{job['id']}/rerun")).json()
        many = await alice.post("api/v1/jobs", json=WORK | {"hub_scopes": scopes * 20})
    assert job["hub_scopes"] == again["hub_scopes"] == ["servers!user", "read:users!user"]
    assert many.status_code == 400


def test_a_users_name_says_whose_job_it_is_and_no_admins_rights_come_with_it():
    job = replace(make_job(user="root"), groups=["kbatch-admins"])
    user = tokens._make_user(job)
    assert (user.name, user.groups, user.admin, user.actions) == (
        "root",
        ("kbatch-admins",),
        False,
        ("submit", "read"),
    )


async def test_a_child_has_the_secrets_of_its_parent_if_it_requests_them(web):
    async with web.client() as alice:
        answer = await alice.put("api/v1/secrets/mine", json={"value": "hush"})
        assert answer.status_code in {200, 201, 204}, answer.text
    _, client = await add(web, spec=replace_spec(secret_env={"KEY": "mine"}))
    async with client:
        answer = await client.post("api/v1/jobs", json=WORK | {"secret_files": {"key": "mine"}})
        assert answer.status_code == 201, answer.text
        answer = await client.get("api/v1/secrets")
        assert (answer.status_code, answer.json()["reason"]) == (403, "JobToken")
