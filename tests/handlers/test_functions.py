"""Functions in the admin's configuration, as a user meets their mistakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def never_return(spawner: Any) -> int:
    await asyncio.sleep(3600)
    return 0


def ask_the_hub(spawner: Any) -> int:
    raise RuntimeError("password=hunter2")


@pytest.fixture
def web_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    settings: dict[str, Any] = request.param
    return settings


@pytest.mark.parametrize(
    "web_settings",
    [
        {"JobConfig": {"uid": ask_the_hub}},
        {"JobConfig": {"uid": never_return}},
        {"JobConfig": {"uid": lambda spawner: "root"}},
        {"Profiles": {"profile_list": never_return}},
    ],
    indirect=True,
)
async def test_a_mistake_in_a_function_is_logged_and_not_shown(web, api, caplog, monkeypatch):
    monkeypatch.setattr("kbatch_server.profiles.profiles.FUNCTIONS_SECONDS", 0.2)
    answer = await api.post("api/v1/jobs", json={"name": "job", "command": ["true"]})
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] in answer.json()["message"]
    assert "hunter2" not in answer.text
    assert "root" not in answer.text
    assert [record for record in caplog.records if record.name == "tornado.application"]
    assert (await api.get("api/v1/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    "web_settings", [{"JobConfig": {"uid": lambda spawner: 1000 + len(spawner.user.name)}}], indirect=True
)
async def test_a_function_decides_for_each_user(web, api):
    answer = await api.post("api/v1/jobs", json={"name": "job", "command": ["true"]})
    assert answer.status_code == 201
    job = await web.store.jobs.find(answer.json()["id"])
    assert job.spec.uid == 1000 + len(job.user)
