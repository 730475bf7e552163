"""Jobs that are like a server of their user, and the home of a server in them, through api/v1."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbatch_server.launchers.base import LauncherUnavailable
from kbatch_server.models.server import ServerPod
from tests.support.waiting import until
from tests.support.web import running_web

DIGEST = f"sha256:{'a' * 64}"
IMAGE = "quay.io/lab/image:1"
SETTINGS = {
    "HubServers": {"enabled": True},
    "JobConfig": {"image": "python:3", "allowed_images": ["quay.io/lab/*"], "home": "same-node"},
    "Profiles": {
        "profile_list": [
            {"display_name": "Small", "kbatch_override": {"cpu_limit": 0.5, "home": "same-node"}},
            {"display_name": "GPU", "kbatch_override": {"image": "quay.io/lab/gpu:2", "allowed_images": []}},
        ]
    },
}
JOB = {"name": "a", "command": ["true"]}


@pytest.fixture
async def web(tmp_path: Path):
    async with running_web(tmp_path, SETTINGS) as web:
        add_service(web)
        await web.parts.servers.start()
        web.hub.add_server("alice", profile="small")
        web.hub.add_server("alice", "gpu", ready=False, profile="gpu")
        env = {"LANG": "C.UTF-8", "MODE": "server"}
        web.launcher.server_pods["alice", ""] = ServerPod(IMAGE, DIGEST, env)
        yield web
        await web.parts.servers.stop()


def add_service(web) -> None:
    web.hub.add_token("the-service-token", "kbatch", kind="service", scopes=web.hub.service_scopes)


async def submit(web, *, status: int = 201, token: str = "alice-token", **fields):
    async with web.client(token) as client:
        answer = await client.post("api/v1/jobs", json=JOB | fields)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_job_is_like_the_running_server(web):
    job = await submit(web, like="server", env={"MODE": "job"})
    assert job["image"] == f"quay.io/lab/image@{DIGEST}"
    assert job["profile"] == "small"
    assert job["cpu_limit"] == 0.5
    assert job["env"] == {"LANG": "C.UTF-8", "MODE": "job"}
    assert job["home"] == "server"
    assert job["taken"] == (
        f"From your server: the profile 'small' from the hub, the image {IMAGE} ({DIGEST}) from its pod, "
        "1 environment variable from its pod and its home."
    )


async def test_what_the_request_says_itself_is_kept(web):
    fields = {"image": "quay.io/lab/other:3", "profile": "small", "home": False, "env": {"LANG": "de"}}
    job = await submit(web, like="server", **fields)
    assert job["image"] == "quay.io/lab/other:3"
    assert job["home"] is None
    assert job["env"] == {"LANG": "de", "MODE": "server"}
    assert job["taken"] == "From your server: 1 environment variable from its pod."


async def test_a_server_that_does_not_run_has_its_profile_and_home(web):
    job = await submit(web, like="server:gpu")
    assert (job["image"], job["profile"], job["home"]) == ("quay.io/lab/gpu:2", "gpu", "server:gpu")
    assert job["taken"] == "From your server 'gpu': the profile 'gpu' from the hub and its home."


async def test_a_server_that_there_is_not_is_said_with_those_that_there_are(web):
    error = await submit(web, status=400, like="server:tpu")
    message = "'server:tpu' does not exist; your servers: server, server:gpu"
    assert error["details"] == [{"field": "like", "message": message}]
    web.hub.add_server("bob", ready=False)  # which every user has, and this one has never started
    web.hub.servers["bob"][0]["last_activity"] = None
    error = await submit(web, status=400, like="server", token="bob-token")
    assert "your servers: none; start one first" in error["message"]


async def test_the_servers_of_another_user_cannot_be_named(web):
    web.hub.add_server("bob", "theirs")
    for name in ("server:theirs", "server:bob--theirs", "server:../bob"):
        await submit(web, status=400, like=name)
    assert not [asked for asked in web.hub.asked if asked.startswith("users/bob")]


async def test_the_hubs_choice_is_checked_again(web):
    web.hub.add_server("bob", profile="secret", ready=False)
    error = await submit(web, status=400, like="server", token="bob-token")
    assert error["details"][0]["field"] == "like"
    assert "The server's profile 'secret' no longer exists. Set profile in the request" in error["message"]
    job = await submit(web, like="server", token="bob-token", profile="small")
    assert job["profile"] == "small"


async def test_an_image_that_is_not_allowed_is_not_taken(web):
    web.hub.servers["alice"][0]["user_options"] = {}
    web.launcher.server_pods["alice", ""] = ServerPod("evil.example.org/x:1", DIGEST)
    error = await submit(web, status=400, like="server")
    assert error["details"][0]["field"] == "like"
    assert "'evil.example.org/x:1' is not allowed" in error["message"]
    assert "Set image in the request" in error["message"]
    # the admin has changed the profile since the server was started: the profile has its own image
    web.hub.servers["alice"][0]["user_options"] = {"profile": "gpu"}
    web.parts.servers._seen.clear()
    assert (await submit(web, like="server"))["image"] == "quay.io/lab/gpu:2"


async def test_the_digest_stays_when_the_job_is_run_again_even_of_an_image_that_only_the_profile_allows(web):
    web.hub.servers["alice"][0]["user_options"] = {"profile": "gpu"}
    web.launcher.server_pods["alice", ""] = ServerPod("quay.io/lab/gpu:2", DIGEST)
    job = await submit(web, like="server")
    assert job["image"] == f"quay.io/lab/gpu@{DIGEST}"
    web.hub.servers.clear()
    async with web.client() as client:
        again = await client.post(f"api/v1/jobs/{job['id']}/rerun")
    assert again.status_code == 201, again.text
    kept = ("image", "profile", "env", "home", "like", "taken")
    assert {name: again.json()[name] for name in kept} == {name: job[name] for name in kept}


async def test_while_the_hub_does_not_respond_the_request_is_to_be_sent_again(web):
    async with web.client() as client:
        await client.get("api/v1/user")
        web.hub.status = 500
        answer = await client.post("api/v1/jobs", json=JOB | {"like": "server"})
        assert answer.status_code == 503
        assert "JupyterHub does not respond" in answer.json()["message"]
        assert answer.headers["Retry-After"]
        web.hub.status = 200
        web.launcher.fails = LauncherUnavailable("the API server is away")
        answer = await client.post("api/v1/jobs", json=JOB | {"like": "server"})
        assert answer.status_code == 503


async def test_a_scope_that_is_missing_is_said_with_its_name(tmp_path: Path, capfd):
    async with running_web(tmp_path, SETTINGS) as web:
        web.hub.service_scopes = []
        add_service(web)
        web.hub.add_server("alice")
        await web.parts.servers.start()
        await until(lambda: not web.parts.servers.is_available)
        assert "has not given this service the scope read:servers" in capfd.readouterr().err
        async with web.client() as client:
            assert (await client.get("api/v1/user")).json()["like"] is False
        error = await submit(web, status=503, like="server")
        assert error["reason"] == "HubScopeMissing"
        assert "read:servers" in error["message"]
        await web.parts.servers.stop()


async def test_the_form_is_told_what_there_is(web):
    async with web.client() as client:
        user = (await client.get("api/v1/user")).json()
        servers = (await client.get("api/v1/servers")).json()["items"]
    assert (user["like"], user["home"]) == (True, True)
    assert [(each["like"], each["is_running"]) for each in servers] == [
        ("server", True),
        ("server:gpu", False),
    ]
    async with web.client("bob-token") as client:
        assert (await client.get("api/v1/servers")).json() == {"items": []}


async def test_without_the_settings_neither_is_available(tmp_path: Path):
    async with running_web(tmp_path) as web:
        async with web.client() as client:
            user = (await client.get("api/v1/user")).json()
            assert (await client.get("api/v1/servers")).json() == {"items": []}
        assert (user["like"], user["home"]) == (False, False)
        error = await submit(web, status=400, like="server")
        assert error["details"][0]["field"] == "like"
        assert "HubServers.enabled" in error["message"]
        error = await submit(web, status=400, home=True)
        assert error["details"][0]["field"] == "home"
        assert "JobConfig.home" in error["message"]
        error = await submit(web, status=400, results_to_home=True)
        assert error["details"][0]["field"] == "results_to_home"


async def test_a_service_of_the_hub_has_no_server(web):
    web.hub.add_token("ci-token", "ci", kind="service")
    error = await submit(web, status=400, like="server", token="ci-token")
    assert "a service of the hub has no server" in error["message"]


async def test_the_hub_is_asked_once_for_many_jobs(web):
    for _ in range(5):
        await submit(web, like="server")
    assert web.hub.asked.count("users/alice") == 1
