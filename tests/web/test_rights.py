"""What a token may do without being good for more, and what its requests cost others."""

from __future__ import annotations

import pytest

from tests.support.hub_double import ACCESS
from tests.support.web import make_job, running_web

WORK = {"name": "train", "command": ["python", "main.py"], "env": {"KEY": "s3cret"}}
BRIEF = {"id", "user", "name", "status", "created_at"}


@pytest.fixture
async def writer(web):
    """A client whose token may submit and cancel, and not read."""
    web.hub.add_token("writer", scopes=(ACCESS, "custom:kbatch:jobs:submit", "custom:kbatch:jobs:cancel"))
    async with web.client("writer") as client:
        yield client


async def test_who_may_not_read_is_told_which_job_it_is_and_no_more(web, writer, api):
    await web.add(make_job(description="of Alice's"), env={"KEY": "s3cret"})
    for path, body in [
        ("api/v1/jobs", WORK),
        ("api/v1/jobs/train-1/rerun", None),
        ("api/v1/jobs/train-1/cancel", None),
    ]:
        answer = await writer.post(path, json=body)
        assert answer.is_success, answer.text
        assert set(answer.json()) == BRIEF
    await web.add(make_job("train-2"))
    assert "command" in (await api.post("api/v1/jobs/train-2/cancel")).json()


async def test_who_may_not_read_is_told_nothing_of_limits_use_and_queue(web, writer, api):
    shown = (await writer.get("api/v1/user")).json()
    assert (shown["name"], shown["actions"]) == ("alice", ["submit", "cancel"])
    assert (shown["usage"], shown["queue"], shown["group_totals"], shown["limits"]["jobs"]) == (None,) * 4
    assert (await api.get("api/v1/user")).json()["queue"] is not None


async def test_only_what_users_are_answered_holds_up_launches(web, api, monkeypatch):
    noted = []
    monkeypatch.setattr(
        web.inflight, "note_answer", lambda user, *, is_submit: noted.append((user, is_submit))
    )
    async with web.client(token=None) as stranger, web.client("bad") as forger:
        assert (await stranger.get("api/v1/health")).status_code == 200
        assert (await stranger.get("api/v1/jobs")).status_code == 401
        assert (await forger.get("api/v1/jobs")).status_code == 401
        assert (await api.get("api/v1/jobs/other-1")).status_code == 404
        assert (await api.post("api/v1/jobs", json={"name": ""})).status_code == 400
    assert noted == []
    assert (await api.get("api/v1/jobs")).status_code == 200
    assert (await api.post("api/v1/jobs", json=WORK)).status_code == 201
    assert noted == [("alice", False), ("alice", True)]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("api/v1/jobs/summary", {}),
        ("api/v1/jobs?search=tr", {}),
        ("api/v1/jobs?tag=a", {}),
        ("api/v1/jobs?limit=101", {}),
        ("api/v1/jobs/train-1/outputs", {}),
        ("api/v1/jobs/train-1/outputs.zip", {}),
        ("api/v1/jobs/train-1/logs?search=hello", {}),
        ("api/v1/audit", {"Accept": "application/x-ndjson"}),
    ],
)
async def test_a_user_has_few_reads_that_cost_much_at_a_time(tmp_path, path, headers):
    settings = {"Throttle": {"concurrent_costly_reads_per_user": 1, "concurrent_costly_reads": 2}}
    async with running_web(tmp_path, settings) as web, web.client("admin-token") as root:
        job = await web.add(make_job(user="root"), log=[b"hello\n"])
        await web.send_results(job, {"a.txt": b"x"})
        throttle = web.throttle
        user = web.auth.make_user({"name": "root", "scopes": []})
        with throttle.costly_read(user):
            refused = await root.get(path, headers=headers)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
            assert "You already have 1 expensive reads" in refused.json()["message"]
            assert (await root.get("api/v1/jobs")).status_code == 200
            assert (await root.get("api/v1/jobs/train-1/logs")).status_code == 200
            with throttle.costly_read(web.auth.make_user({"name": "bob", "scopes": []})):
                async with web.client() as alice:
                    assert (await alice.get("api/v1/jobs/summary")).status_code == 503
        assert (await root.get(path, headers=headers)).status_code == 200
        assert not throttle._costly_reads._taken
