"""The recipes of docs/hooks.md, each run as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from kbatch_server.hooks import Hooks
from kbatch_server.launchers.kube.manifests.job import make_job as make_manifest
from kbatch_server.launchers.kube.pod_hook import modify_pod
from kbatch_server.models.job import Status
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.user import User
from kbatch_server.profiles.spawner import make_spawner
from tests.support.web import make_job

PAGE = (Path(__file__).parents[2] / "docs/hooks.md").read_text()
RECIPES = dict(
    re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
)
JOB = {"name": "train", "command": ["true"]}


@pytest.fixture
def web_settings():
    return {"JobConfig": {"allowed_images": ["*"]}}


def load(title: str) -> Config:
    """Return what a configuration file with this recipe sets."""
    config = Config()
    exec(compile(RECIPES[title], title, "exec"), {"c": config})
    return config


def test_every_recipe_is_tested():
    text = Path(__file__).read_text()
    assert len(RECIPES) >= 5
    assert [title for title in RECIPES if f'load("{title}")' not in text] == []


async def test_dask_gateway(web, api):
    web.jobs.hooks.pre_submit_hook = load("Let jobs use dask-gateway").Hooks.pre_submit_hook
    own = {"DASK_GATEWAY__AUTH__TYPE": "basic", "A": "1"}
    env = (await api.post("api/v1/jobs", json=JOB | {"env": own})).json()["env"]
    assert env["DASK_GATEWAY__ADDRESS"] == "http://proxy-public/services/dask-gateway"
    assert env.items() >= own.items()
    assert len(env) == 5


async def test_scratch_bucket(web):
    web.jobs.hooks.pre_submit_hook = load("A scratch bucket for each user").Hooks.pre_submit_hook
    async with web.client() as client:
        env = (await client.post("api/v1/jobs", json=JOB)).json()["env"]
    assert env == {"SCRATCH_BUCKET": "s3://our-scratch/alice"}


async def test_images_for_a_group(web, api):
    hook = load("Images for a group only").Hooks.pre_submit_hook
    web.jobs.hooks.pre_submit_hook = hook
    allowed = JOB | {"image": "quay.io/jupyter/scipy-notebook:1"}
    assert (await api.post("api/v1/jobs", json=allowed)).status_code == 201
    wanted = JOB | {"image": "registry.example.org/course/a:1"}
    refused = await api.post("api/v1/jobs", json=wanted)
    assert refused.status_code == 400
    assert refused.json()["details"][0]["field"] == "image"
    assert "quay.io/jupyter/scipy-notebook:*" in refused.json()["message"]
    # a member of the group
    web.jobs.hooks.pre_submit_hook = lambda request, user: hook(request, User(user.name, ("teachers",)))
    assert (await api.post("api/v1/jobs", json=wanted)).status_code == 201


@pytest.mark.parametrize(("groups", "mounted"), [((), []), (("climate", "x"), ["shared-climate"])])
async def test_shared_folder(groups, mounted):
    hook = load("A shared folder for each group").KubeJobLauncher.modify_pod_hook
    job = make_job()
    manifest = make_manifest(
        job, env_names=[], namespace="n", instance="k", init_image="b", output_limits=OutputLimits()
    )
    await modify_pod(Hooks(), hook, manifest, job, make_spawner(User("alice", groups)))
    spec = manifest["spec"]["template"]["spec"]
    claims = [
        each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"] if "persist" in str(each)
    ]
    assert claims == mounted
    paths = [each["mountPath"] for each in spec["containers"][0]["volumeMounts"]]
    assert ("/shared/climate" in paths) == bool(mounted)


async def test_chat(monkeypatch):
    received: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        received.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("CHAT_WEBHOOK_URL", f"http://127.0.0.1:{port}/")
        hook = load("Tell a chat when a job has ended").Hooks.post_finish_hook
        job = make_job(status=Status.FAILED, message="Exit code 1.")
        await Hooks().run("post_finish_hook", hook, job)
    assert received == [{"text": "alice's job train (train-1): failed. Exit code 1."}]
