"""The wires of the published kbatch client and of the first one: bodies as these clients send them."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import io
import json
import zipfile
import zlib
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from kbatch_server.errors import InvalidRequest
from kbatch_server.handlers.compat import answers as manifests
from kbatch_server.handlers.compat import first_client as flat
from kbatch_server.handlers.compat import requests as kbatch
from kbatch_server.handlers.compat.routes import Compressor
from kbatch_server.handlers.streams import MAX_LINE_BYTES, LineChunker
from kbatch_server.logs import follower
from kbatch_server.models.job import JobSpec, Pod, Profile, Status
from kbatch_server.models.times import utcnow
from tests.support.web import PROFILES as PROFILE_LIST
from tests.support.web import make_job
from tests.support.zips import make_zip

VERSIONS = ("0.4.2", "0.5.0b1")
SENT = {
    version: json.loads((Path(__file__).parents[1] / f"data/kbatch-{version}.json").read_text())
    for version in VERSIONS
}
SMALL = Profile(slug="small", display_name="Small", image="python:3", cpu_limit=0.5, mem_limit=2**30)
LARGE = Profile(slug="large", display_name="Large", image="python:3", cpu_limit=8, mem_limit=2**34)
PROFILES = {"small": SMALL, "large": LARGE}
SPEC = "job.spec.template.spec"


@pytest.fixture
def web_settings():
    return {"JobConfig": {"allowed_images": ["python:*"]}}


def read(body):
    return kbatch.read_body(body, PROFILES)


# what the clients send


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_job_is_understood(version):
    request, code = read(SENT[version]["plain"])
    assert (request.name, request.image, request.command) == ("train", "python:3", ["python", "main.py"])
    assert (request.args, request.env, request.profile, code) == ([], {}, None, None)


@pytest.mark.parametrize("version", VERSIONS)
def test_arguments_and_environment_are_understood(version):
    request, _ = read(SENT[version]["full"])
    assert (request.name, request.command, request.args) == ("my-job_1", ["sh", "-c"], ["env"])
    assert request.env == {"A": "1", "EMPTY": ""}


@pytest.mark.parametrize("version", VERSIONS)
def test_code_is_the_zip_that_the_client_made(version):
    _, code = read(SENT[version]["code"])
    archive = b"".join(kbatch.decode_code(code))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.read("main.py") == b"print('hello')\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profile_that_was_copied_is_known_again_and_left_to_the_server(version):
    request, _ = read(SENT[version]["profile"])
    assert request.profile == "small"
    assert (request.image, request.cpu_limit, request.mem_limit) == (None, None, None)


def test_the_profile_that_the_client_gets_is_the_one_that_it_sends():
    shown = kbatch.make_profiles([SMALL])["small"]
    container = SENT["0.5.0b1"]["profile"]["job"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == shown["resources"]["limits"]
    assert container["image"] == shown["image"]


def test_options_of_a_profile_are_chosen_by_a_variable_that_the_job_does_not_get():
    body = copy.deepcopy(SENT["0.5.0b1"]["profile"])
    [container] = body["job"]["spec"]["template"]["spec"]["containers"]
    variable = {"name": "KBATCH_PROFILE_OPTIONS", "value": '{"image": "next", "size--unlisted-choice": "7"}'}
    container["env"] = [variable, {"name": "A", "value": "1"}]
    request, _ = read(body)
    assert request.profile_options == {"image": "next", "size--unlisted-choice": "7"}
    assert request.env == {"A": "1"}
    assert request.image is None
    for wrong in ("image=next", "[1]", '{"image": 1}'):
        variable["value"] = wrong
        with pytest.raises(InvalidRequest, match=r"containers\[0\].env.KBATCH_PROFILE_OPTIONS"):
            read(body)


def test_what_differs_from_the_profile_is_asked_for():
    body = copy.deepcopy(SENT["0.5.0b1"]["profile"])
    container = body["job"]["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"] = {"cpu": "250m", "memory": "1.5Gi"}
    container["image"] = "other:1"
    request, _ = read(body)
    assert (request.image, request.cpu_limit, request.mem_limit) == ("other:1", 0.25, 3 * 2**29)


def test_keys_may_be_written_as_kubernetes_writes_them():
    body = {
        "job": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"generateName": "train-", "creationTimestamp": None},
            "spec": {
                "backoffLimit": 2,
                "activeDeadlineSeconds": 60,
                "ttlSecondsAfterFinished": 300,
                "template": {
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "job", "workingDir": "/code"}]}
                },
            },
        }
    }
    request, _ = read(body)
    assert (request.name, request.retries, request.active_deadline_seconds) == ("train", 2, 60)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("/code", ""), ("/code/", ""), ("/code/repo-main", "repo-main"), ("/code/a//b/", "a/b")],
)
def test_a_folder_of_the_code_may_be_the_working_directory(said, meant):
    body = put(SENT["0.5.0b1"]["plain"], (*CONTAINER, "working_dir"), said)
    assert read(body)[0].working_dir == meant


# what is refused, and by which path


def put(body, path, value):
    """Put a value at a path into a copy of a body."""
    body = copy.deepcopy(body)
    *parents, last = path
    found = body
    for key in parents:
        found = found[key]
    if isinstance(found, list):
        found.append(value)
    else:
        found[last] = value
    return body


POD = ("job", "spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ((*POD, "host_network"), True, f"{SPEC}.host_network"),
        ((*POD, "hostNetwork"), True, f"{SPEC}.hostNetwork"),
        ((*POD, "hostPID"), True, f"{SPEC}.hostPID"),
        ((*POD, "hostIPC"), False, f"{SPEC}.hostIPC"),
        ((*POD, "service_account_name"), "admin", f"{SPEC}.service_account_name"),
        ((*POD, "serviceAccountName"), "admin", f"{SPEC}.serviceAccountName"),
        ((*POD, "serviceAccount"), "admin", f"{SPEC}.serviceAccount"),
        ((*POD, "nodeName"), "control-plane", f"{SPEC}.nodeName"),
        ((*POD, "node_selector"), {"a": "b"}, f"{SPEC}.node_selector.a"),
        ((*POD, "automountServiceAccountToken"), True, f"{SPEC}.automountServiceAccountToken"),
        ((*POD, "volumes"), [{"name": "v", "hostPath": {"path": "/etc"}}], f"{SPEC}.volumes[0].hostPath"),
        ((*POD, "initContainers"), [{"name": "i", "image": "x"}], f"{SPEC}.initContainers[0].image"),
        ((*POD, "containers", 1), {"name": "second", "image": "x"}, f"{SPEC}.containers[1]"),
        ((*POD, "securityContext"), {"runAsUser": 0}, f"{SPEC}.securityContext.runAsUser"),
        ((*POD, "restart_policy"), "Always", f"{SPEC}.restart_policy"),
        ((*POD, "runtimeClassName"), "x", f"{SPEC}.runtimeClassName"),
        ((*POD, "affinity"), {"node_affinity": {"x": 1}}, f"{SPEC}.affinity.node_affinity"),
        (
            (*POD, "tolerations"),
            [{"operator": "Exists", "key": "gpu", "value": "x"}],
            f"{SPEC}.tolerations[0]",
        ),
        ((*POD, "tolerations"), [{"operator": "Exists"}], f"{SPEC}.tolerations[0]"),
        (
            (*CONTAINER, "securityContext"),
            {"privileged": True},
            f"{SPEC}.containers[0].securityContext.privileged",
        ),
        (
            (*CONTAINER, "volume_mounts"),
            [{"mount_path": "/x"}],
            f"{SPEC}.containers[0].volume_mounts[0].mount_path",
        ),
        (
            (*CONTAINER, "env_from"),
            [{"secret_ref": {"name": "x"}}],
            f"{SPEC}.containers[0].env_from[0].secret_ref",
        ),
        (
            (*CONTAINER, "env"),
            [{"name": "A", "value_from": {"secret_key_ref": {"name": "x"}}}],
            f"{SPEC}.containers[0].env[0].value_from.secret_key_ref",
        ),
        ((*CONTAINER, "env"), [{"name": "A", "value": 1}], f"{SPEC}.containers[0].env[0].value"),
        ((*CONTAINER, "env"), [{"name": "A=B", "value": "1"}], f"{SPEC}.containers[0].env"),
        ((*CONTAINER, "working_dir"), "/", f"{SPEC}.containers[0].working_dir"),
        ((*CONTAINER, "working_dir"), "/codes", f"{SPEC}.containers[0].working_dir"),
        ((*CONTAINER, "working_dir"), "/code/../etc", f"{SPEC}.containers[0].working_dir"),
        (
            (*CONTAINER, "lifecycle"),
            {"post_start": {"exec": {}}, "x": 1},
            f"{SPEC}.containers[0].lifecycle.x",
        ),
        ((*CONTAINER, "ports"), [{"host_port": 22}], f"{SPEC}.containers[0].ports[0].host_port"),
        ((*CONTAINER, "image"), "a b", f"{SPEC}.containers[0].image"),
        ((*CONTAINER, "command"), "python main.py", f"{SPEC}.containers[0].command"),
        (
            (*CONTAINER, "resources"),
            {"requests": {"cpu": "9"}},
            f"{SPEC}.containers[0].resources.requests.cpu",
        ),
        (
            (*CONTAINER, "resources"),
            {"limits": {"cpu": "lots"}},
            f"{SPEC}.containers[0].resources.limits.cpu",
        ),
        ((*CONTAINER, "resources"), {"limits": {"cpu": "0"}}, f"{SPEC}.containers[0].resources.limits.cpu"),
        (
            (*CONTAINER, "resources"),
            {"limits": {"nvidia.com/gpu": "8"}},
            f"{SPEC}.containers[0].resources.limits.nvidia.com/gpu",
        ),
        (("job", "metadata", "namespace"), "kube-system", "job.metadata.namespace"),
        (("job", "metadata", "labels"), {"a": "b"}, "job.metadata.labels.a"),
        (("job", "metadata", "annotations"), {"a": "b"}, "job.metadata.annotations.a"),
        (("job", "metadata", "owner_references"), [{"uid": "x"}], "job.metadata.owner_references[0].uid"),
        (("job", "metadata", "name"), "a/b", "job.metadata.name"),
        (("job", "kind"), "CronJob", "job.kind"),
        (("job", "spec", "parallelism"), 100, "job.spec.parallelism"),
        (("job", "spec", "completions"), 100, "job.spec.completions"),
        (("job", "spec", "suspend"), True, "job.spec.suspend"),
        (("job", "spec", "backoff_limit"), -1, "job.spec.backoff_limit"),
        (("job", "status"), {"active": 1}, "job.status.active"),
        (("job", "spec", "template", "metadata", "namespace"), "x", "job.spec.template.metadata.namespace"),
        (
            ("job", "spec", "template", "metadata", "labels"),
            {"a": "b"},
            "job.spec.template.metadata.labels.a",
        ),
        (("code",), {"data": {"a": "b"}}, "code.data.a"),
        (("code",), {"binary_data": {"code": "UEs=", "other": "x"}}, "code.binary_data.other"),
        (("code",), {"binary_data": {"code": 1}}, "code.binary_data.code"),
        (("other",), 1, "other"),
    ],
)
def test_a_field_that_is_not_understood_is_refused_by_its_path(path, value, field):
    with pytest.raises(InvalidRequest) as caught:
        read(put(SENT["0.4.2"]["plain"], path, value))
    fields = [each["field"] for each in caught.value.details]
    assert any(each == field or each.startswith(f"{field}.") for each in fields), fields


def test_a_body_of_the_wrong_shape_is_refused():
    for body in (
        {"job": None},
        {"job": []},
        {"job": {"spec": "x"}},
        {"job": {"metadata": {"name": "a"}, "spec": {}}},
    ):
        with pytest.raises(InvalidRequest):
            read(body)


@pytest.mark.parametrize("text", ["UE", "U E=", "UEs=UEs=", "ü", "-_-_"])
def test_what_is_not_base64_is_refused(text):
    with pytest.raises(InvalidRequest, match=r"code\.binary_data\.code"):
        list(kbatch.decode_code(text))


def test_code_is_decoded_piece_by_piece():
    data = bytes(range(256)) * 3000
    pieces = list(kbatch.decode_code(base64.b64encode(data).decode()))
    assert b"".join(pieces) == data
    assert len(pieces) > 3


# what the clients read


@pytest.mark.parametrize(
    ("status", "word_042", "word_050"),
    [
        (Status.QUEUED, "active", "pending"),
        (Status.PENDING, "active", "pending"),
        (Status.RUNNING, "active", "running"),
        (Status.SUCCEEDED, "done", "done"),
        (Status.FAILED, "failed", "failed"),
        (Status.CANCELLED, "failed", "failed"),
    ],
)
def test_both_clients_can_tell_what_a_job_is(status, word_042, word_050):
    job = make_job(status=status, reason="R", message="M.")
    if status is not Status.QUEUED:
        job.started_at = job.created_at
    if job.is_over:
        job.ended_at = job.created_at + timedelta(seconds=5)
    shown = manifests.make_job(job)["status"]
    # 0.4.2: the first of these that is true, and an exception if none is
    assert (
        next(w for k, w in [("succeeded", "done"), ("failed", "failed"), ("active", "active")] if shown[k])
        == word_042
    )
    # 0.5.0b1: another order
    order = [("failed", "failed"), ("ready", "running"), ("active", "pending"), ("succeeded", "done")]
    assert next(word for key, word in order if shown[key]) == word_050
    assert datetime.fromisoformat(shown["start_time"]).tzinfo is not None
    assert not shown["start_time"].endswith("Z")  # which Python 3.8 cannot parse
    if status is Status.SUCCEEDED:
        assert datetime.fromisoformat(shown["completion_time"]) >= datetime.fromisoformat(shown["start_time"])
    elif job.is_over:
        (condition,) = [each for each in shown["conditions"] if each["type"] == "Failed"]
        datetime.fromisoformat(condition["last_transition_time"])
        assert (condition["reason"], condition["message"]) == ("R", "M.")


async def add_all(web, jobs):
    """Put many jobs on record, together, as one after the other would take long."""
    await asyncio.gather(*[web.add(job) for job in jobs])


async def read_code(web, job_id):
    """Return the ZIP that is kept for a job of alice."""
    job = await web.store.jobs.get(job_id, user="alice")
    upload = await web.store.uploads.get(job.spec.upload, user="alice")
    return web.storage.objects[upload.key]


async def test_submit_list_show_and_delete_by_the_clients_urls(web, api):
    body = SENT["0.5.0b1"]["code"]
    answer = await api.post("jobs/", json=body)
    assert answer.status_code == 200, answer.text
    name = answer.json()["metadata"]["name"]
    assert await read_code(web, name) == base64.b64decode(body["code"]["binary_data"]["code"])
    for path in (f"jobs/{name}", f"jobs/{name}/"):
        assert (await api.get(path)).json()["metadata"]["name"] == name
    listed = (await api.get("jobs")).json()
    assert [job["metadata"]["name"] for job in listed["items"]] == [name]
    assert (await api.delete(f"jobs/{name}")).json()["status"] == "Success"
    assert (await api.get("jobs/")).json()["items"] == []
    assert (await api.get("pods/")).json()["items"] == []


async def test_a_long_list_comes_whole_page_by_page(web, api, monkeypatch):
    await add_all(web, [make_job(f"train-{number}") for number in range(1234)])
    sizes, list_page = [], web.store.jobs.list_page

    async def counted(query):
        page = await list_page(query)
        sizes.append(len(page.jobs))
        return page

    monkeypatch.setattr(web.store.jobs, "list_page", counted)
    items = (await api.get("jobs/")).json()["items"]
    assert [item["metadata"]["name"] for item in items] == [
        f"train-{number}" for number in reversed(range(1234))
    ]
    assert sizes == [500, 500, 234]


async def test_pods_are_listed_behind_a_page_of_jobs_that_have_none(web, api):
    pod = Pod(name="train-1-abcde", phase="Running", created_at=utcnow())
    await web.add(make_job(pods=[pod]))
    await add_all(web, [make_job(f"waits-{number}", status=Status.QUEUED) for number in range(600)])
    (listed,) = (await api.get("pods/")).json()["items"]
    assert listed["metadata"]["name"] == "train-1-abcde"


@pytest.mark.parametrize(
    ("web_settings", "days"),
    [({}, 7), ({"KBatchServer": {"kbatch_list_days": 1.5}}, 1.5)],
    ids=["default", "1.5 days"],
)
async def test_jobs_that_ended_long_ago_are_not_listed(web, api, days):
    created_at = utcnow() - timedelta(days=30)
    for name, ended_days in (("old", days + 0.1), ("new", days - 0.1)):
        ended_at = utcnow() - timedelta(days=ended_days)
        job = make_job(f"{name}-1", status=Status.SUCCEEDED, ended_at=ended_at)
        await web.add(replace(job, created_at=created_at))
    await web.add(replace(make_job("runs-1"), created_at=created_at))
    items = (await api.get("jobs/")).json()["items"]
    assert [item["metadata"]["name"] for item in items] == ["runs-1", "new-1"]


async def test_pods_and_logs_by_the_name_of_either(web, api):
    pods = [Pod(name="train-1-abcde", phase="Running", created_at=utcnow())]
    await web.add(make_job(pods=pods), log=[b"hello\n"])
    await web.add(make_job("other-1", pods=[]))
    theirs = Pod(name="theirs-1-x", phase="Running", created_at=utcnow())
    await web.add(make_job("theirs-1", user="bob", pods=[theirs]), log=[b"theirs\n"])
    (pod,) = (await api.get("pods/?job_name=train-1")).json()["items"]
    assert (pod["metadata"]["name"], pod["status"]["phase"]) == ("train-1-abcde", "Running")
    assert (await api.get("pods/?job_name=")).json()["items"] == [pod]
    assert (await api.get("pods/?job_name=other-1")).json()["items"] == []
    for name in ("theirs-1", "none-such-1"):  # as of Kubernetes itself
        answer = await api.get(f"pods/?job_name={name}")
        assert (answer.status_code, answer.json()["items"]) == (200, [])
    assert (await api.get("pods/train-1-abcde")).json() == pod
    for path in ("jobs/logs/train-1/", "jobs/logs/train-1-abcde/", "pods/logs/train-1-abcde/"):
        assert (await api.get(path)).text == "hello\n"
    for path in ("jobs/logs/train-1-zzzzz/", "pods/logs/theirs-1-x/", "jobs/logs/theirs-1/", "pods/train-1"):
        assert (await api.get(path)).status_code == 404


async def test_the_log_of_a_job_that_waits_says_why(web, api):
    await web.add(make_job(status=Status.PENDING, message="No node has room."))
    answer = await api.get("jobs/logs/train-1/")
    assert (answer.status_code, answer.json()["reason"]) == (409, "LogNotFound")
    assert "No node has room." in answer.json()["detail"]


async def test_errors_say_detail(web, api):
    missing = (await api.get("jobs/none")).json()
    assert missing["detail"] == missing["message"]
    answer = await api.get("cronjobs/")
    assert (answer.status_code, answer.json()["reason"]) == (501, "NotImplemented")
    assert "Cronjobs" in answer.json()["detail"]
    for method, path in [("POST", "cronjobs/"), ("DELETE", "cronjobs/x"), ("GET", "cronjobs/x")]:
        assert (await api.request(method, path)).status_code == 501
    body = put(SENT["0.4.2"]["code"], (*CONTAINER, "image"), "forbidden")
    answer = await api.post("jobs/", json=body)
    assert answer.json()["details"][0]["field"] == f"{SPEC}.containers[0].image"
    assert web.storage.written == []
    answer = await api.post(
        "jobs/", json=put(SENT["0.4.2"]["plain"], ("code",), {"binary_data": {"code": "AAAA"}})
    )
    assert answer.json()["details"][0]["field"] == "code.binary_data.code"
    assert await web.read_uploads() == {}
    assert (await api.get("jobs/")).json()["items"] == []


@pytest.mark.parametrize(
    ("web_settings", "shown"),
    [({}, ["small", "large"]), ({"Profiles": {"profile_list": lambda spawner: PROFILE_LIST}}, [])],
    ids=["of all users", "of each user"],
)
async def test_profiles_need_no_token_but_show_less_without(web, api, shown):
    async with web.client(token=None) as client:
        assert list((await client.get("profiles/")).json()) == shown
        assert (await client.get("authorized")).status_code == 401
    assert list((await api.get("profiles/")).json()) == ["small", "large"]
    assert (await api.get("authorized")).json() == {"name": "alice", "groups": []}


async def stream_chunks(web, job, on_chunk, *, headers):
    """Return a followed log as the client's ``iter_text`` yields it, and how it was encoded.

    It calls ``on_chunk`` with the chunks so far, each time that there is one more: the job runs until then.
    """
    chunks = []
    async with (
        web.client(headers=headers) as client,
        client.stream("GET", f"jobs/logs/{job.id}/?stream=true") as answer,
    ):
        async for chunk in answer.aiter_text():
            chunks.append(chunk)
            await on_chunk(chunks)
        return chunks, answer.headers.get("Content-Encoding")


def ending(web, job):
    """Return what lets a job end as soon as there is a chunk."""

    async def end(chunks):
        if len(chunks) == 1:
            await web.finish(job)

    return end


@pytest.mark.parametrize(("accepted", "expected"), [("gzip, deflate", "gzip"), ("identity", None)])
async def test_the_client_that_prints_chunk_by_chunk_prints_the_log(web, monkeypatch, accepted, expected):
    monkeypatch.setattr(follower, "PIECE_BYTES", 10)
    log = "line 0\nline 1\n\n\ncaf\u00e9\nno end"
    job = await web.add(log=[log.encode()])
    chunks, used = await stream_chunks(web, job, ending(web, job), headers={"Accept-Encoding": accepted})
    assert used == expected
    assert "".join(f"{chunk}\n" for chunk in chunks) == log + "\n"


BAR = b"".join(b"\rstep %d/1000" % each for each in range(1001)) + b"\n\x1b[1mINFO\x1b[0m | saved\n"


@pytest.mark.parametrize("web_settings", [{"LogRecorder": {"segment_bytes": 4096}}], ids=["short segments"])
async def test_a_progress_bar_is_printed_once_as_it_was_at_last(web, monkeypatch):
    monkeypatch.setattr(follower, "PIECE_BYTES", 1000)
    expected = "step 1000/1000\n\x1b[1mINFO\x1b[0m | saved\n"
    for encoding in ("gzip", "identity"):
        job = await web.add(make_job(f"{encoding}-1"), log=[])
        for at in range(0, len(BAR), 1000):
            await web.write_log(job, BAR[at : at + 1000])
        chunks, _ = await stream_chunks(web, job, ending(web, job), headers={"Accept-Encoding": encoding})
        assert "".join(f"{chunk}\n" for chunk in chunks) == expected
    async with web.client() as client:
        assert (await client.get("jobs/logs/gzip-1/")).text == expected
    async with web.client(headers={"User-Agent": "curl/8"}) as client:
        assert (await client.get("jobs/logs/gzip-1/")).content == BAR


async def test_a_progress_bar_that_takes_long_is_printed_now_and_then(web, monkeypatch):
    monkeypatch.setattr("kbatch_server.handlers.compat.routes.GATHER_SECONDS", 0.01)
    monkeypatch.setattr("kbatch_server.handlers.compat.routes.BAR_SECONDS", 0.05)
    job = await web.add(log=[b"\rhalf"])

    async def finish_bar(chunks):
        if len(chunks) == 2:
            await web.write_log(job, b"\rdone\n")
            await web.finish(job)

    chunks, _ = await stream_chunks(web, job, finish_bar, headers={})
    assert set(chunks[:-1]) == {"half"}
    assert chunks[-1] == "done"


async def test_others_get_the_bytes_as_they_are(web, monkeypatch):
    monkeypatch.setattr(follower, "PIECE_BYTES", 9)
    job = await web.add(log=[b"line 0\nline 1\n"])
    chunks, used = await stream_chunks(web, job, ending(web, job), headers={"User-Agent": "curl/8"})
    assert ("".join(chunks), used) == ("line 0\nline 1\n", None)


async def test_lines_that_come_all_the_time_are_printed_meanwhile(web, monkeypatch):
    monkeypatch.setattr("kbatch_server.handlers.compat.routes.GATHER_SECONDS", 0.05)
    job = await web.add(log=[b"line\n"])
    lines = ["line"]

    async def write_on():
        while True:
            await asyncio.sleep(0.005)
            web.find_log().write(b"line\n")
            lines.append("line")

    async def end(chunks):
        if len(chunks) == 4:
            writing.cancel()
            await web.finish(job)

    writing = asyncio.create_task(write_on())
    try:
        chunks, _ = await stream_chunks(web, job, end, headers={})
    finally:
        writing.cancel()
    assert "".join(f"{chunk}\n" for chunk in chunks).split() == lines


async def print_as_client(received):
    """Return the chunks that the client prints of a compressed answer, which came in these pieces."""

    async def pieces():
        for piece in received:
            yield piece

    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}
    answer = httpx.Response(200, headers=headers, content=pieces())
    return [chunk async for chunk in answer.aiter_text()]


@pytest.mark.parametrize(
    ("writes", "gather_seconds"), [(b".", 60), (b"", 0.01)], ids=["a line without an end", "nothing"]
)
async def test_what_has_no_whole_line_is_kept_alive_without_a_word(web, monkeypatch, writes, gather_seconds):
    """A client that reads nothing for a while gives up, also if the job always writes."""
    monkeypatch.setattr("kbatch_server.handlers.compat.routes.GATHER_SECONDS", gather_seconds)
    monkeypatch.setattr("kbatch_server.handlers.compat.routes.KEEP_ALIVE_SECONDS", 0.05)
    job = await web.add(log=[writes])

    async def write_on():
        while True:
            await asyncio.sleep(0.005)
            web.find_log().write(writes)

    received = []
    writing = asyncio.create_task(write_on())
    try:
        async with web.client() as client, client.stream("GET", "jobs/logs/train-1/?stream=true") as answer:
            async for piece in answer.aiter_raw():
                received.append(piece)
                if len(received) == 5:
                    writing.cancel()
                    await web.finish(job)
    finally:
        writing.cancel()
    assert await print_as_client(received[:5]) == []
    assert "".join(await print_as_client(received)) == web.find_log().data.decode()
    assert bool(await print_as_client(received)) == bool(writes)


def test_chunks_of_whole_lines():
    chunker = LineChunker()
    printed = ""
    for piece in (b"a\nb", b"", b"c\n", b"\n", b"d\n", b"e"):
        chunker.add(piece)
        lines = chunker.take()
        printed += f"{lines.decode()}\n" if lines else ""
    rest = chunker.take(final=True)
    assert printed + rest.decode() + "\n" == "a\nbc\n\nd\ne\n"


def test_a_line_that_is_drawn_for_ever_is_kept_in_little_memory():
    chunker = LineChunker()
    chunker.add(b"first\n")
    for number in range(100):
        chunker.add(b"\rstep %d" % number * 5000)
        assert len(chunker._rest) <= 2 * MAX_LINE_BYTES
        assert not chunker.is_full
    assert (chunker.take(), chunker.show_bar()) == (b"first", b"step 99")
    chunker.add(b"\r\x1b[K\n")
    assert chunker.take() == b""  # an empty line goes with the next one
    chunker.add(b"last\n")
    assert chunker.take() == b"\nlast"


def test_a_line_that_never_ends_is_sent_in_parts_after_an_empty_one_too():
    chunker, printed = LineChunker(), b""
    chunker.add(b"\n")
    for _ in range(100):
        chunker.add(b"x" * 10_000)
        printed += chunker.take() if chunker.is_full else b""
        assert len(chunker._rest) <= MAX_LINE_BYTES + 1
    assert printed + chunker.take(final=True) == b"\n" + b"x" * 1_000_000


def test_an_empty_block_is_no_data():
    encoder = Compressor()
    pieces = [
        encoder.head,
        encoder.EMPTY_BLOCK,
        encoder.compress(b"one"),
        encoder.EMPTY_BLOCK,
        encoder.EMPTY_BLOCK,
    ]
    decoder = zlib.decompressobj(wbits=31)
    assert [decoder.decompress(piece) for piece in pieces] == [b"", b"", b"one", b"", b""]
    assert gzip.decompress(b"".join(pieces) + encoder.compress(b" two", final=True)) == b"one two"


# the first client


async def test_the_first_clients_way_from_a_zip_to_a_job(web, api):
    archive = make_zip()
    answer = await api.post("uploads/", files={"file": ("code.zip", archive)})
    assert answer.status_code == 201, answer.text
    url = answer.json()["url"]
    upload_id = answer.json()["id"]
    assert url == f"{web.url}uploads/{upload_id}/"
    assert (await api.get(url)).json()["id"] == upload_id
    job = {
        "name": "hello",
        "command": ["python", "main.py"],
        "image": "python:3",
        "upload": url,
        "env": {"A": "1"},
    }
    answer = await api.post("jobs/", json={**job, "args": ["x"], "description": None})
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert shown["url"] == f"{web.url}jobs/{shown['id']}/"
    assert {key: shown[key] for key in ("command", "args", "image", "upload", "env", "user", "status")} == {
        "command": ["python", "main.py"],
        "args": ["x"],
        "image": "python:3",
        "upload": url,
        "env": {"A": "1"},
        "user": "alice",
        "status": "queued",
    }
    assert await read_code(web, shown["id"]) == archive


async def test_what_is_no_zip_is_told_in_the_words_that_client_knows(web, api):
    answer = await api.post("uploads/", files={"file": ("code.txt", b"no zip")})
    assert (answer.status_code, answer.json()) == (
        400,
        {"file": ["The submitted file must be a ZIP archive."]},
    )
    answer = await api.post("uploads/", files={"other": ("code.zip", make_zip())})
    assert (answer.status_code, answer.json()) == (400, {"file": ["No file was submitted."]})
    assert await web.read_uploads() == {}


async def test_a_file_in_the_job_itself_becomes_a_zip(web, api):
    body = {
        "name": "hello",
        "command": ["python", "a b.py"],
        "upload_data": {"name": "a b.py", "content": "print('é')"},
    }
    answer = await api.post("jobs", json=body)
    assert answer.status_code == 201, answer.text
    with zipfile.ZipFile(io.BytesIO(await read_code(web, answer.json()["id"]))) as archive:
        assert archive.read("a b.py").decode() == "print('é')"


@pytest.mark.parametrize(
    "inline",
    [
        {"name": "a.py"},
        {"content": "x"},
        {"name": "a.py", "content": "x", "more": 1},
        {"name": "a.py", "content": 1},
        {"name": None, "content": "x"},
        [],
        "text",
    ],
)
async def test_upload_data_of_a_wrong_structure_is_told_in_the_words_that_client_knows(web, api, inline):
    answer = await api.post("jobs/", json={"name": "a", "command": ["x"], "upload_data": inline})
    assert answer.status_code == 400
    assert answer.json()["upload_data"] == [
        "Incorrect structure for upload data field. Must have a 'name' and 'content' field."
    ]
    assert answer.json()["reason"] == "Invalid"


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"upload": "u0", "upload_data": {"name": "a", "content": "b"}}, {"upload", "upload_data"}),
        ({"command": "python"}, {"command"}),
        ({"command": []}, {"command"}),
        ({"privileged": True}, {"privileged"}),
        ({"env": {"A": 1}, "args": [1]}, {"env", "args"}),
        ({"upload_data": {"name": "../x", "content": "b"}}, {"upload_data"}),
        ({"upload_data": {"name": "..", "content": "b"}}, {"upload_data"}),
        ({"upload": "https://example.org/a.zip"}, {"upload"}),
        ({"image": "forbidden", "upload_data": {"name": "a", "content": "b"}}, {"image"}),
    ],
)
async def test_each_wrong_field_of_a_flat_job_is_a_key_of_the_answer(web, api, change, fields):
    answer = await api.post("jobs/", json={"name": "a", "command": ["x"], **change})
    assert answer.status_code == 400
    body = answer.json()
    assert {key for key, value in body.items() if isinstance(value, list) and key != "details"} == fields
    assert body["detail"] == body["message"]
    assert (await api.get("jobs/")).json()["items"] == []
    assert (web.storage.written, await web.read_uploads()) == ([], {})


async def test_a_flat_job_without_a_name_is_told_so(api):
    body = (await api.post("jobs/", json={"command": ["x"]})).json()
    assert body["name"] == ["Field required"]
    assert (await api.post("jobs/", json=[])).json()["reason"] == "Invalid"


def test_an_upload_is_named_by_its_url_or_its_id():
    for upload in (
        "abc",
        "uploads/abc",
        "/services/kbatch/uploads/abc/",
        "https://hub/services/kbatch/uploads/abc/",
    ):
        request, _ = flat.read_body({"name": "a", "upload": upload})
        assert request.upload == "abc"


def test_a_flat_job_without_code_has_no_upload():
    shown = flat.make_job(make_job(spec=JobSpec(image="x")), "http://hub/services/kbatch/")
    assert shown["upload"] is None
