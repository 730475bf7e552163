"""What a client sees of the web: admission, limits, errors, the api's resources, streams and pages."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest

from kbatch_server import __version__, handlers
from kbatch_server.errors import Unavailable
from kbatch_server.handlers import exchange, logs, pages
from kbatch_server.handlers.base import BaseHandler
from kbatch_server.handlers.compat import routes as kbatch
from kbatch_server.handlers.pages import find_files
from kbatch_server.log import make_formatter
from kbatch_server.logs import follower
from kbatch_server.logs import text as log_text
from kbatch_server.models.job import Pod, Status
from kbatch_server.models.times import utcnow
from kbatch_server.monitoring.health import CheckedPart
from kbatch_server.storage.base import StorageError
from kbatch_server.web.access import needs_scope
from kbatch_server.web.auth import DEFAULT_SCOPES
from tests.support.fuzzing import peak_below
from tests.support.hub_double import ACCESS
from tests.support.waiting import SECONDS, until
from tests.support.web import PREFIX, make_job
from tests.support.zips import make_zip

PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'
WORK = {"name": "train", "command": ["python", "main.py"]}
MAX_UPLOAD_BYTES = 4 * 1024**2


@pytest.fixture
def web_settings():
    return {
        "KBatchServer": {"max_job_bytes": 1024**2, "max_body_bytes": 1024**2},
        "Uploads": {"max_upload_bytes": MAX_UPLOAD_BYTES},
    }


async def raw_request(web, head, *pieces, read_first=True):
    """Send a request by hand and return the answer as it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(head.replace("\n", "\r\n").encode())
    for piece in pieces:
        writer.write(piece)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode()


# admission


async def test_without_a_token_the_answer_is_401_in_the_one_form(http_client, base_url):
    answer = await http_client.fetch(f"{base_url}{PREFIX}api/v1/jobs", raise_error=False)
    assert answer.code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert set(json.loads(answer.body)) == {"status", "reason", "message", "details"}


@pytest.mark.parametrize(
    ("action", "method", "path"),
    [
        ("submit", "POST", "api/v1/jobs"),
        ("submit", "POST", "api/v1/uploads"),
        ("submit", "POST", "api/v1/jobs/train-1/rerun"),
        ("read", "GET", "api/v1/jobs"),
        ("read", "GET", "api/v1/jobs/train-1"),
        ("read", "GET", "api/v1/jobs/train-1/logs"),
        ("read", "GET", "api/v1/jobs/train-1/events"),
        ("read", "GET", "api/v1/jobs/train-1/outputs"),
        ("read", "GET", "api/v1/jobs/train-1/outputs.zip"),
        ("read", "GET", "api/v1/jobs/train-1/outputs/a.txt"),
        ("cancel", "POST", "api/v1/jobs/train-1/cancel"),
        ("cancel", "DELETE", "api/v1/jobs/train-1"),
        ("submit", "POST", "jobs/"),
        ("read", "GET", "jobs/"),
        ("read", "GET", "pods/"),
        ("cancel", "DELETE", "jobs/train-1"),
    ],
)
async def test_each_action_needs_its_own_scope(web, action, method, path):
    scope = DEFAULT_SCOPES[action]
    others = [each for each in DEFAULT_SCOPES.values() if each != scope]
    web.hub.add_token("weak", scopes=[ACCESS, *others])
    await web.add()
    async with web.client("weak") as client:
        answer = await client.request(method, path, json={} if method == "POST" else None)
    assert (answer.status_code, answer.json()["reason"]) == (403, "MissingScope")
    assert answer.json()["details"] == {"scope": scope}


async def test_a_method_without_a_declared_need_cannot_be_called(app, web, http_client, base_url):
    class Forgetful(BaseHandler):
        def get(self):
            self.write("secret")

    app.add_handlers(".*", [(r"/forgetful", Forgetful, {"services": web.services})])
    headers = {"Authorization": "token alice-token"}
    answer = await http_client.fetch(f"{base_url}/forgetful", headers=headers, raise_error=False)
    assert answer.code == 405
    assert b"secret" not in answer.body


def test_every_method_of_every_handler_declares_what_it_needs():
    for module in handlers.MODULES:
        for pattern, handler in module.default_handlers:
            for method in ("get", "post", "put", "patch", "delete", "head"):
                function = getattr(handler, method)
                inherited = function.__qualname__.startswith("RequestHandler.")
                callback = function.__qualname__.startswith("HubOAuthCallbackHandler.")
                assert inherited or callback or hasattr(function, "needs"), (pattern, method)


def test_the_decorator_keeps_nothing():
    mark = needs_scope("read")

    def first(): ...

    def second(): ...

    assert mark(first) is first
    assert mark(second).needs == first.needs


# the one form of errors


async def test_what_is_not_there_is_404_and_the_wrong_method_is_405(web, api):
    for path in ("nothing", "api/v1/nothing", "api/v2/jobs", "../elsewhere"):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound"), path
    answer = await api.put("api/v1/jobs", json={})
    assert (answer.status_code, answer.json()["reason"]) == (405, "MethodNotAllowed")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "POST"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b'{"name": NaN}', "body"),
        (b"[" * 200_000, "body"),
        (b'{"name": ' + b"9" * 5000 + b"}", "body"),
        (b'{"name": "a"}x', "body"),
        (b'{"name": "a/b"}', "name"),
        (b'{"name": "a", "command": []}', "command"),
        (b'{"name": "a", "privileged": true}', "privileged"),
        (b'{"name": "a", "env": {"A": 1}}', "env.A"),
        (b'{"name": "a", "env": {"A": "\\ud800"}}', "body"),
    ],
)
async def test_bad_input_is_400_with_the_field(web, api, body, field):
    answer = await api.post("api/v1/jobs", content=body)
    assert answer.status_code == 400, answer.text
    assert field in [each["field"] for each in answer.json()["details"]]
    assert (await api.get("api/v1/jobs")).json()["items"] == []


async def test_an_unknown_query_parameter_is_named(api):
    answer = await api.get("api/v1/jobs?statsu=running")
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "statsu"


async def test_a_defect_is_logged_with_the_id_that_the_user_is_told(web, api, caplog):
    async def get(user, job_id):
        raise RuntimeError("password=hunter2")

    web.jobs.get = get
    answer = await api.get("api/v1/jobs/x?token=s3cret")
    assert answer.status_code == 500
    request_id = answer.headers["X-Request-ID"]
    assert request_id in answer.json()["message"]
    assert "hunter2" not in answer.text
    record = next(record for record in caplog.records if record.name == "tornado.application")
    assert request_id in record.getMessage()
    assert record.exc_info[1].args == ("password=hunter2",)
    assert "s3cret" not in caplog.text


async def test_every_answer_has_an_id_and_is_not_sniffed_or_kept(web, api):
    for path in ("api/v1/version", "api/v1/jobs/none", "nothing"):
        answer = await api.get(path)
        assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
    answer = await api.get("api/v1/version", headers={"X-Request-ID": "from-the-proxy"})
    assert answer.headers["X-Request-ID"] == "from-the-proxy"


# bodies


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(web, monkeypatch):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.2)
    head = (
        "POST /services/kbatch/api/v1/jobs HTTP/1.1\nHost: x\nAuthorization: token alice-token\n"
        "Content-Length: 999999999\nExpect: 100-continue\n\n"
    )
    answer = await raw_request(web, head)
    assert answer.startswith("HTTP/1.1 413 ")
    assert "100 (Continue)" not in answer
    assert json.loads(answer.split("\r\n\r\n")[1])["details"] == {"size": 999999999, "limit": 1024**2}


async def test_who_sends_too_much_reads_the_answer_all_the_same(web, api):
    answer = await api.post("api/v1/jobs", content=b" " * (8 * 1024**2))
    assert answer.status_code == 413
    assert answer.headers["Connection"] == "close"

    async def chunks():
        for _ in range(128):
            yield b" " * 65536

    answer = await api.post("api/v1/jobs", content=chunks())
    assert (answer.status_code, answer.json()["details"]["limit"]) == (413, 1024**2)


async def test_a_body_without_a_token_is_refused_unread(web):
    async with web.client(token=None) as client:
        answer = await client.post("api/v1/jobs", content=b" " * (8 * 1024**2))
    assert answer.status_code == 401


async def test_who_goes_on_sending_after_a_refusal_is_cut_off(web, monkeypatch):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.2)
    head = "POST /services/kbatch/api/v1/jobs HTTP/1.1\nHost: x\nContent-Length: 999999\n\n"
    answer = await raw_request(web, head)
    assert answer.startswith("HTTP/1.1 401 ")


async def test_who_goes_on_sending_after_a_refusal_in_the_middle_is_cut_off_too(web, monkeypatch):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.2)
    head = (
        "POST /services/kbatch/api/v1/jobs HTTP/1.1\nHost: x\nAuthorization: token alice-token\n"
        "Transfer-Encoding: chunked\n\n"
    )
    answer = await raw_request(web, head, b"200000\r\n" + b" " * 0x200000 + b"\r\n1\r\n")
    assert answer.startswith("HTTP/1.1 413 ")


# jobs


async def test_a_submit_is_201_and_its_repeat_200(web, api):
    first = await api.post("api/v1/jobs", json=WORK, headers={"Idempotency-Key": "k"})
    again = await api.post("api/v1/jobs", json=WORK, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (await api.get(web.join(first.headers["Location"]))).json()["id"] == first.json()["id"]
    answer = await api.post("api/v1/jobs", json=WORK, headers={"Idempotency-Key": "k" * 256})
    assert answer.json()["details"][0]["field"] == "Idempotency-Key"


async def test_a_list_is_asked_for_in_the_words_of_the_api(web, api):
    for number in range(3):
        await web.add(make_job(f"train-{number}"))
    await web.add(make_job("other-1", user="bob"))
    page = (await api.get("api/v1/jobs?limit=2")).json()
    rest = (await api.get("api/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [job["id"] for job in page["items"] + rest["items"]] == ["train-2", "train-1", "train-0"]
    assert rest["next_cursor"] is None


async def test_a_list_is_chosen_by_status_name_tags_and_time(web, api):
    wanted = {"created_at": datetime(2030, 1, 31, 10, tzinfo=UTC), "tags": {"team": "a", "kept": "x"}}
    for job_id, fields in {
        "running-1": {},
        "failed-1": {"status": Status.FAILED},
        "queued-1": {"status": Status.QUEUED},
        "other-status": {"status": Status.SUCCEEDED},
        "other-name": {"name": "eval"},
        "other-tag": {"tags": {"team": "b", "kept": "x"}},
        "no-tag": {"tags": {"team": "a"}},
        "earlier": {"created_at": datetime(2030, 1, 31, 9, 59, 59, tzinfo=UTC)},
        "theirs": {"user": "bob"},
    }.items():
        await web.add(replace(make_job(job_id), **wanted | fields))
    answer = await api.get(
        "api/v1/jobs?status=running,failed&status=queued&name=train&tag=team:a&tag=kept&since=2030-01-31T12:00:00%2B02:00"
    )
    assert {job["id"] for job in answer.json()["items"]} == {"running-1", "failed-1", "queued-1"}


async def test_a_page_of_few_jobs_has_fewer_bytes_and_one_of_many_is_a_costly_read(web, api, monkeypatch):
    queries, list_page = [], web.store.jobs.list_page

    def note(query):
        queries.append(query)
        return list_page(query)

    monkeypatch.setattr(web.store.jobs, "list_page", note)
    for query, most in [("", 2**20), ("?limit=100", 2**20), ("?limit=101", 2**22), ("?search=x", 2**22)]:
        assert (await api.get(f"api/v1/jobs{query}")).status_code == 200
        assert (queries[-1].max_bytes, queries[-1].is_costly) == (most, most == 2**22)


@pytest.mark.parametrize(
    ("path", "is_in_thread"),
    [
        ("api/v1/jobs", False),
        ("api/v1/jobs?limit=500", True),
        ("jobs/", True),
        ("pods/", True),
    ],
)
async def test_the_json_of_a_large_page_is_made_while_others_are_answered(
    web, api, monkeypatch, path, is_in_thread
):
    for number in range(300):
        pods = [Pod(name=f"train-{number}-x", phase="Running", created_at=utcnow())]
        await web.add(make_job(f"train-{number}", status=Status.RUNNING, message="y" * 1000, pods=pods))
    threads, dumps = set(), json.dumps

    def note(value, **options):
        if "train-" in str(value):
            threads.add(threading.current_thread() is not threading.main_thread())
        return dumps(value, **options)

    monkeypatch.setattr(json, "dumps", note)
    assert len((await api.get(path)).json()["items"]) == (300 if is_in_thread else 50)
    assert threads == {is_in_thread}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=ten", "limit=٣", "status=done", "since=24h", "since=", "tag=:x"]
)
async def test_a_wrong_query_is_named(api, query):
    answer = await api.get(f"api/v1/jobs?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["details"][0]["field"] == query.partition("=")[0]


async def test_another_users_job_is_not_there(web, api):
    await web.add(make_job("theirs-1", user="bob"))
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/rerun"),
        ("GET", "/logs"),
    ]:
        answer = await api.request(method, f"api/v1/jobs/theirs-1{path}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "NotFound")
    answer = await api.get("api/v1/jobs?user=bob")
    assert answer.status_code == 403


async def test_a_job_is_shown_with_its_environment_and_a_list_without(web, api):
    body = {"name": "train", "command": ["true"], "env": {"PASSWORD": "hunter2"}}
    answer = await api.post("api/v1/jobs", json=body)
    assert answer.json()["env"] == body["env"]
    job_id = answer.json()["id"]
    assert (await api.get(f"api/v1/jobs/{job_id}")).json()["env"] == body["env"]
    for route in ("api/v1/jobs", "jobs/"):
        assert "hunter2" not in (await api.get(route)).text
    assert (await api.post("api/v1/jobs", json=body | {"env": {}})).json()["env"] == {}
    assert [job["env"] for job in (await api.get("api/v1/jobs")).json()["items"]] == [{}, None]


async def test_an_admin_sees_everybodys_jobs_without_the_values_of_their_environment(web):
    await web.add(make_job("theirs-1", user="bob"), env={"PASSWORD": "hunter2"})
    async with web.client("admin-token") as client:
        listed = (await client.get("api/v1/jobs?user=*")).json()["items"]
        shown = (await client.get("api/v1/jobs/theirs-1")).json()
        page = await client.get("jobs/theirs-1")
    assert [job["env"] for job in listed] == [None]
    assert shown["env"] == {"PASSWORD": None}
    assert "hunter2" not in page.text


async def test_cancel_rerun_and_delete(web, api):
    await web.add(make_job(status=Status.QUEUED))
    await web.add(make_job("train-2", status=Status.SUCCEEDED))
    for _ in range(2):
        assert (await api.post("api/v1/jobs/train-1/cancel")).json()["status"] == "cancelled"
    assert (await api.post("api/v1/jobs/train-2/cancel")).status_code == 409
    answer = await api.post("api/v1/jobs/train-1/rerun")
    again = answer.json()
    assert (answer.status_code, again["status"]) == (201, "queued")
    assert again["id"] != "train-1"
    assert again["command"] == ["python", "main.py"]
    answer = await api.delete("api/v1/jobs/train-1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.get("api/v1/jobs/train-1")).status_code == 404


# uploads


@pytest.mark.parametrize("form", [False, True])
async def test_a_zip_is_kept_as_it_was_sent(web, api, form):
    archive = make_zip({"data": "x" * 3_000_000})
    if form:
        answer = await api.post("api/v1/uploads", files={"note": (None, "hi"), "file": ("code.zip", archive)})
    else:
        answer = await api.post(
            "api/v1/uploads", content=archive, headers={"Content-Type": "application/zip"}
        )
    assert answer.status_code == 201, answer.text
    assert set(answer.json()) == {"id", "size", "sha256", "created_at", "expires_at", "top_folder"}
    upload = await web.store.uploads.get(answer.json()["id"], user="alice")
    assert b"".join([piece async for piece in web.uploads.read(upload)]) == archive
    assert (await api.get(web.join(answer.headers["Location"]))).json() == answer.json()


@pytest.mark.parametrize(
    ("content", "content_type", "field"),
    [
        (b"no zip", "application/zip", "file"),
        (b"", "application/zip", "file"),
        (b"PK", "text/plain", "Content-Type"),
        (b"PK", "multipart/form-data", "Content-Type"),
        (b"junk", "multipart/form-data; boundary=b", "body"),
        (PART % b"other" + b"PK\r\n--b--\r\n", "multipart/form-data; boundary=b", "file"),
        (PART % b"file" + b"PK", "multipart/form-data; boundary=b", "body"),
        (PART % b"file" + b"PK\r\n" + PART % b"file", "multipart/form-data; boundary=b", "file"),
    ],
)
async def test_what_is_no_upload_is_400_and_nothing_is_kept(web, api, content, content_type, field):
    answer = await api.post("api/v1/uploads", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == 400, answer.text
    assert answer.json()["details"][0]["field"] == field
    assert web.storage.objects == {}


async def test_an_upload_over_its_limit_is_413(web, api):
    for content in (b"PK" * (3 * 1024**2), aiter_bytes(b"PK" * 65536, 64)):
        answer = await api.post(
            "api/v1/uploads", content=content, headers={"Content-Type": "application/zip"}
        )
        assert (answer.status_code, answer.json()["details"]["limit"]) == (413, 4 * 1024**2)
    assert web.storage.objects == {}


async def aiter_bytes(piece, times):
    for _ in range(times):
        yield piece


async def test_a_client_that_goes_away_leaves_no_upload(web):
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(
        b"POST /services/kbatch/api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: token alice-token\r\n"
        b"Content-Type: application/zip\r\nContent-Length: 100000\r\n\r\nPK and some"
    )
    await until(lambda: web.storage.written)
    writer.close()
    await until(lambda: not web.inflight.count()["other"])
    assert await web.read_uploads() == {}


async def test_a_client_is_slowed_down_to_the_pace_of_the_storage(web):
    sent = 0
    web.storage.opens.clear()
    web.uploads.max_upload_bytes = 2**30
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    archive = make_zip({"data": os.urandom(32 * 1024**2)})
    size = len(archive)
    writer.write(
        b"POST /services/kbatch/api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: token alice-token\r\n"
        b"Content-Type: application/zip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while sent < size:
                writer.write(archive[sent : sent + 65536])
                sent += 65536
                await writer.drain()
    assert sent < size / 2  # the sender was stopped by full buffers, long before the end
    web.storage.opens.set()
    writer.write(archive[sent:])
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    assert answer.startswith(b"HTTP/1.1 201")
    writer.close()


# logs


async def test_a_log_is_text(web, api):
    await web.add(log=[b"caf\xc3\xa9\n", b"<script>\n"])
    answer = await api.get("api/v1/jobs/train-1/logs")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.text == "café\n<script>\n"


async def test_a_log_that_is_not_there_says_why(web, api):
    await web.add(make_job(message="No node has room."))
    answer = await api.get("api/v1/jobs/train-1/logs")
    assert (answer.status_code, answer.json()["reason"]) == (404, "LogNotFound")
    assert "No node has room." in answer.json()["message"]


async def test_followed_text_comes_at_once_and_ends_with_the_client(web, api):
    await web.add(log=[b"one\n"])
    async with api.stream("GET", "api/v1/jobs/train-1/logs?follow=true") as answer:
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert await anext(answer.aiter_raw()) == b"one\n"
        assert web.inflight.count()["stream"] == 1
    await until(lambda: not web.inflight.count()["stream"])


async def test_many_dropped_streams_leave_no_task(web):
    await web.add(log=[b"one\n"])
    async with web.client() as client:
        await client.get("api/v1/user")  # the connection to the hub is made, and is kept
    before = len(asyncio.all_tasks())
    for accept in ("text/plain", "text/event-stream"):
        async with web.client(headers={"Accept": accept}) as client:
            for _ in range(50):
                async with client.stream("GET", "api/v1/jobs/train-1/logs?follow=true") as answer:
                    await anext(answer.aiter_raw())
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - a task's end is no event
            await asyncio.sleep(0.01)


async def test_a_log_that_breaks_off_does_not_look_whole(web, api, monkeypatch):
    await web.add(make_job(status=Status.SUCCEEDED), log=[b"one\ntwo\n"])

    async def read(key, *, start=0, length=None):
        yield b"one\n"
        raise StorageError("the disk")

    monkeypatch.setattr(web.storage, "read", read)
    with pytest.raises(httpx.RemoteProtocolError):
        await api.get("api/v1/jobs/train-1/logs")


async def read_event(lines):
    """Return the next event of a stream, without comments."""
    event = []
    async with asyncio.timeout(10):
        async for line in lines:
            if event and not line:
                return "\n".join(event)
            if line and not line.startswith(":"):
                event.append(line)
    raise EOFError


async def test_events_of_a_log(web, api, monkeypatch):
    monkeypatch.setattr(logs, "KEEP_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(follower, "PIECE_BYTES", 1)  # also within a line's end and a character
    job = await web.add(log=[b"one\ntw", b"o\nprogress\r", b"\nlast \xe2\x82", b"\xac"])
    received = b""
    url, headers = "api/v1/jobs/train-1/logs?follow=true", {"Accept": "text/event-stream"}
    async with api.stream("GET", url, headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for piece in answer.aiter_raw():
            received += piece
            if b": keep-alive\n\n" in received and not job.is_over:
                job = await web.finish(job, message="Done.", exit_code=0)
    text = received.decode()
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert data[:-1] == ["one", "two", "progress", "last €"]
    assert text.rstrip().splitlines()[-2] == "event: end"
    assert json.loads(data[-1]) == {"status": "succeeded", "reason": "", "message": "Done.", "exit_code": 0}


async def test_each_event_of_a_log_says_where_to_go_on(web, api):
    job = await web.add(log=[])
    url, headers = "api/v1/jobs/train-1/logs", {"Accept": "text/event-stream"}
    async with api.stream("GET", f"{url}?follow=true", headers=headers) as answer:
        lines = answer.aiter_lines()
        for piece, event in [
            (b"one\ntw", "id: 1-4\ndata: one"),
            (b"o\nthree\n", "id: 1-14\ndata: two\ndata: three"),
            (b"caf\xc3\xa9\nno end", "id: 1-20\ndata: café"),
        ]:
            await web.write_log(job, piece)
            assert await read_event(lines) == event
        await web.finish(job)
        assert await read_event(lines) == "id: 1-26\ndata: no end"
    rest = (await api.get(f"{url}?follow=true", headers=headers | {"Last-Event-ID": "1-14"})).text
    assert rest.split("\n\n")[1:3] == ["id: 1-20\ndata: café", "id: 1-26\ndata: no end"]
    whole = (await api.get(url, headers={"Last-Event-ID": "1-14"})).text  # of events only
    assert whole == "one\ntwo\nthree\ncafé\nno end"
    bad = await api.get(url, headers=headers | {"Last-Event-ID": "x"})
    assert (bad.status_code, bad.json()["details"][0]["field"]) == (400, "Last-Event-ID")


async def test_a_progress_bar_is_seen_as_it_goes(web, api, monkeypatch):
    monkeypatch.setattr(follower, "PIECE_BYTES", 4)
    job = await web.add(log=[b"10%\r"])
    url, headers = "api/v1/jobs/train-1/logs?follow=true", {"Accept": "text/event-stream"}
    async with api.stream("GET", url, headers=headers) as answer:
        lines = answer.aiter_lines()
        events = [await read_event(lines)]
        await web.write_log(job, b"20%\r30%\r")
        events.append(await read_event(lines))
    # of states that come faster than they can be read the last one, though nothing comes after it
    assert [event.splitlines()[-1] for event in events] == ["data: 10%", "data: 30%"]


async def test_what_was_drawn_over_before_it_is_sent_is_no_event(web, api):
    bar = b"".join(b"\rstep %d/1000" % each for each in range(1001))
    job = await web.add(log=[b"one\n" + bar])
    url, headers = "api/v1/jobs/train-1/logs?follow=true", {"Accept": "text/event-stream"}
    async with api.stream("GET", url, headers=headers) as answer:
        lines = answer.aiter_lines()
        assert await read_event(lines) == "id: 1-4\ndata: one"
        assert await read_event(lines) == "id: 1-4\ndata: step 1000/1000"
        await web.write_log(job, b"\n")  # it is shown already
        await web.write_log(job, b"step 1000/1000\n")
        assert await read_event(lines) == f"id: 1-{len(bar) + 20}\ndata: step 1000/1000"
        await web.write_log(job, b"\x1b[1mbold\x1b[0m")
        await web.finish(job)
        assert await read_event(lines) == f"id: 1-{len(bar) + 32}\ndata: \x1b[1mbold\x1b[0m"
        assert (await read_event(lines)).startswith("event: end\n")


async def test_a_long_line_is_sent_in_parts_and_no_character_is_torn(web, api):
    line = "é" * 100_000
    await web.add(make_job(status=Status.SUCCEEDED), log=[b"x" + line.encode()])
    answer = await api.get("api/v1/jobs/train-1/logs", headers={"Accept": "text/event-stream"})
    parts = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert "".join(parts[:-1]) == "x" + line


@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [
        ("bytes=2-5", 206, 2, 6),
        ("bytes=5-", 206, 5, 12),
        ("bytes=-3", 206, 9, 12),
        ("bytes=2-99", 206, 2, 12),
        ("bytes=5-2", 200, 0, 12),
        ("lines=1-2", 200, 0, 12),
        ("bytes=0-1,4-5", 200, 0, 12),
    ],
)
async def test_a_part_of_a_log(web, api, header, status, start, end):
    await web.add(log=[b"one\ntwo\nend\n"])
    answer = await api.get("api/v1/jobs/train-1/logs", headers={"Range": header})
    assert (answer.status_code, answer.content) == (status, b"one\ntwo\nend\n"[start:end])
    said = f"bytes {start}-{end - 1}/12" if status == 206 else None
    assert answer.headers.get("Content-Range") == said
    assert answer.headers["Content-Length"] == str(end - start)


@pytest.mark.parametrize("header", ["bytes=12-", "bytes=99-100", "bytes=-0"])
async def test_a_part_that_there_is_not(web, api, header):
    await web.add(log=[b"one\ntwo\nend\n"])
    answer = await api.get("api/v1/jobs/train-1/logs", headers={"Range": header})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */12")
    assert answer.json()["reason"] == "RangeNotSatisfiable"


async def test_a_log_is_searched(web, api):
    await web.add(log=[b"an error\nfine\nError 2\nerror <3>\n"])
    url = "api/v1/jobs/train-1/logs?search=ERROR"
    assert (await api.get(url)).text == "1:an error\n3:Error 2\n4:error <3>\n"
    assert (await api.get(f"{url}&limit=2")).text.splitlines()[-1].startswith("[... more lines")
    as_json = {"Accept": "application/json"}
    found = (await api.get(f"{url}&limit=2", headers=as_json)).json()
    assert found == {
        "items": [{"line": 1, "text": "an error"}, {"line": 3, "text": "Error 2"}],
        "truncated": True,
    }
    assert (await api.get(f"{url}&limit=3", headers=as_json)).json()["truncated"] is False
    nothing = await api.get("api/v1/jobs/train-1/logs?search=none", headers=as_json)
    assert nothing.json() == {"items": [], "truncated": False}


async def test_a_search_that_takes_long_says_that_more_may_match(web, api, monkeypatch):
    await web.add(log=[b"an error\n" * 3])
    open_log = web.jobs.open_log

    async def open_slow_log(*args):
        text, attempt = await open_log(*args)
        monkeypatch.setattr(log_text, "PLAIN_SLICE_BYTES", 9)
        monkeypatch.setattr(log_text, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        text.search_seconds = 1.5
        return text, attempt

    monkeypatch.setattr(web.jobs, "open_log", open_slow_log)
    url = "api/v1/jobs/train-1/logs?search=error"
    found = (await api.get(url, headers={"Accept": "application/json"})).json()
    assert found == {"items": [{"line": 1, "text": "an error"}], "truncated": True}
    first, last = (await api.get(url)).text.splitlines()
    assert first == "1:an error"
    assert last == "[... the search took more than 1.5 s: more lines may match ...]"


async def test_many_long_lines_are_sent_as_they_are_read(web, api):
    await web.add(log=[(b"e" + b"\x01" * 8000 + b"\n") * 1000])  # six times as much, as JSON
    for query in ("line=1", "search=e"):
        size = 0
        with peak_below(32 * 2**20):  # the log itself is there three times
            async with api.stream("GET", f"api/v1/jobs/train-1/logs?{query}&limit=1000") as answer:
                async for chunk in answer.aiter_bytes():
                    size += len(chunk)
        assert size >= 8 * 10**6


async def test_a_log_is_downloaded(web, api):
    await web.add(log=[b"<script>\n"])
    answer = await api.get("api/v1/jobs/train-1/logs?download=true")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="train-1.log"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.text == "<script>\n"


async def test_which_log_and_how_much_of_it(web, api):
    now = utcnow()
    pods = [Pod(name=name, phase="Running", created_at=now) for name in ("first", "second")]
    job = await web.add(make_job(pods=pods))
    await web.write_log(replace(job, pods=pods[:1]), b"of the first\n")
    await web.write_log(job, b"of the second\nand its end\n")
    url = "api/v1/jobs/train-1/logs"
    for query, text in [
        ("attempt=1", "of the first\n"),
        ("attempt=2&tail=1", "and its end\n"),
        ("pod=first", "of the first\n"),
        ("pod=second", "of the second\nand its end\n"),
        ("", "of the second\nand its end\n"),
    ]:
        assert (await api.get(f"{url}?{query}")).text == text, query


async def test_a_log_since_a_time_or_for_so_long(web, api):
    now = utcnow()
    ages = {"90": 90, "90s": 90, "10m": 600, "2h": 7200, "1d": 86400}
    job = await web.add(log=[])
    log = web.find_log()
    written = (90_000, 80_000, 7000, 500, 60)
    for seconds in written:
        log.write(b"%d\n" % seconds, time=now - timedelta(seconds=seconds))
        await web.write_log(job)
    url = "api/v1/jobs/train-1/logs"
    for age, longest in ages.items():
        shown = (await api.get(url, params={"since": age})).text
        assert [int(line) for line in shown.splitlines()] == [each for each in written if each <= longest]
        assert (
            shown
            == (await api.get(url, params={"since": (now - timedelta(seconds=longest)).isoformat()})).text
        )
    assert (await api.get(f"{url}?since=10m")).text == "500\n60\n"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("search=x&follow=true", "search"),
        ("search=x&tail=5", "search"),
        ("search=", "search"),
        ("search=" + "x" * 1001, "search"),
        ("search=a%0Ab", "search"),
        ("limit=5", "limit"),
        ("search=x&limit=0", "limit"),
        ("search=x&limit=10001", "limit"),
        ("download=true&follow=true", "download"),
        ("attempt=1&pod=x", "attempt"),
        ("attempt=0", "attempt"),
        ("since=yesterday", "since"),
        ("since=999999999d", "since"),
        ("tail=-1", "tail"),
        ("tails=1", "tails"),
    ],
)
async def test_what_does_not_go_together_is_said(web, api, query, field):
    await web.add(log=[b"one\n"])
    answer = await api.get(f"api/v1/jobs/train-1/logs?{query}")
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, field)


# about the service


async def test_health_version_user_and_profiles(web, api):
    async with web.client(token=None) as client:
        assert (await client.get("api/v1/health")).json() == {"status": "ok"}
        assert (await client.get("api/v1/version")).json() == {"version": __version__}
        assert (await client.get("api/v1/user")).status_code == 401
    user = (await api.get("api/v1/user")).json()
    assert (user["name"], user["actions"]) == ("alice", ["submit", "read", "cancel"])
    assert user["limits"]["max_upload_bytes"] == web.uploads.max_upload_bytes
    assert [each["slug"] for each in (await api.get("api/v1/profiles")).json()["items"]] == ["small", "large"]


async def test_ready_says_how_each_part_is(web, api):
    async def good():
        pass

    async def bad():
        raise OSError("secret detail")

    async def away():
        raise Unavailable("It is at https://x.example/?sig=secret.")

    health = web.services.health
    health.parts = [
        CheckedPart("database", good, is_needed=True),
        CheckedPart("storage", bad),
        CheckedPart("hub", away),
    ]
    answer = await api.get("api/v1/ready")
    said = answer.json()
    assert (answer.status_code, said["status"], said["failed"]) == (200, "degraded", ["storage", "hub"])
    assert said["parts"]["database"] | {"since": ""} == {
        "state": "ok", "since": "", "message": "", "needed": True,
    }  # fmt: skip
    assert datetime.fromisoformat(said["parts"]["storage"]["since"]) <= utcnow()
    assert said["parts"]["storage"]["message"] == "It failed: OSError."
    assert said["parts"]["hub"]["message"] == "It is at https://x.example/?sig=[secret]"
    assert "secret" not in answer.text.replace("[secret]", "")

    health.parts = [CheckedPart("database", bad, is_needed=True)]
    answer = await api.get("api/v1/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")


async def test_openapi_has_every_route_with_its_methods_and_parameters(api):
    described = (await api.get("api/v1/openapi.json")).json()
    routes = {}
    for module in handlers.MODULES:
        for pattern, handler in module.default_handlers:
            if pattern.startswith("api/v1/"):
                path = (
                    pattern.removeprefix("api/v1")
                    .removesuffix("/?")
                    .replace("users/([^/]+)", "users/{name}")
                    .replace("secrets/([^/]+)", "secrets/{name}")
                    .replace("([^/]+)", "{id}")
                    .replace("(.+)", "{path}")
                    .replace("\\", "")
                )
                routes[path] = {
                    method: set(getattr(handler, method).needs.query)
                    for method in ("get", "head", "post", "put", "delete")
                    if hasattr(getattr(handler, method), "needs")
                }
    assert {
        path: {
            method: {each["name"] for each in operation["parameters"] if each["in"] == "query"}
            for method, operation in methods.items()
        }
        for path, methods in described["paths"].items()
    } == routes
    schemas = described["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(described)):
        assert reference in schemas
    assert set(schemas["Job"]["properties"]) == set(make_job().to_dict())


# the access log


@pytest.mark.parametrize("as_json", [False, True])
def test_a_traceback_shows_no_secret_of_a_url(as_json):
    try:
        raise OSError("403 for url: https://budget/api?user=alice&token=s3cret")
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    line = make_formatter(as_json=as_json).format(record)
    assert "s3cret" not in line
    assert "user=alice" in line


async def test_the_access_log_tells_who_and_what_but_no_secret(web, api, caplog):
    with caplog.at_level(logging.DEBUG, "tornado.access"):
        await api.get("api/v1/version?token=s3cret")
        await api.get("code/s3cret.signed")
        await api.get("api/v1/health")
        answer = await api.get("api/v1/jobs")
    lines = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "tornado.access"
    ]
    assert "s3cret" not in caplog.text
    assert [level for level, _ in lines] == ["INFO", "WARNING", "DEBUG", "INFO"]
    assert re.fullmatch(
        r"200 GET /services/kbatch/api/v1/jobs \(alice@127\.0\.0\.1\) [\d.]+ms request="
        + answer.headers["X-Request-ID"],
        lines[-1][1],
    )


# pages


async def test_a_browser_is_sent_to_the_hubs_login(web):
    async with web.client(token=None, headers={"Accept": "text/html"}) as client:
        answer = await client.get("?x=1")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/hub/api/oauth2/authorize?client_id=service-kbatch&")
    assert "state=" in answer.headers["Location"]


async def test_the_root_is_json_for_everything_else(http_client, base_url):
    answer = await http_client.fetch(f"{base_url}{PREFIX}")
    assert json.loads(answer.body) == {"message": "kbatch"}


@pytest.mark.parametrize("path", ["", "?status=failed", "job/train-1", "submit?from=train-1", "use", "admin"])
async def test_each_page_is_the_same_shell_with_nothing_inline(web, path):
    evil = '"><script>alert("x")</script>'
    web.hub.add_token("evil", evil)
    async with web.client("evil", headers={"Accept": "text/html"}) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    assert "&lt;script&gt;" in answer.text
    assert all(" src=" in tag for tag in re.findall(r"<script\b[^>]*>", answer.text))
    assert " style=" not in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "_xsrf=" in answer.headers["Set-Cookie"]


async def test_what_the_pages_are_made_of_is_sent_and_nothing_else(web):
    async with web.client(token=None, headers={"Accept": "text/html"}) as client:
        for plain, name in find_files().items():
            answer = await client.get(f"static/{name}")
            assert answer.status_code == 200
            kind = "text/css" if plain.endswith(".css") else "text/javascript"
            assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
            assert "immutable" in answer.headers["Cache-Control"]
        for name in ("..%2Fauth.py", "..%2Ftemplates%2Fpage.html", "none.css", "%00.css", "manifest.json"):
            missing = await client.get(f"static/{name}")
            assert (missing.status_code, missing.headers["Cache-Control"]) == (404, "no-store"), name


async def test_pages_that_were_not_built_are_an_error_that_says_how(web, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "STATIC", tmp_path)
    find_files.cache_clear()
    async with web.client(headers={"Accept": "text/html"}) as client:
        answer = await client.get("submit")
    assert (answer.status_code, "npm run build" in answer.text) == (500, True)
    find_files.cache_clear()


def test_every_limit_of_the_kbatch_wire_leaves_the_client_time():
    assert kbatch.KEEP_ALIVE_SECONDS < 60  # the client's default read timeout


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("nothing", "", 404), ("api/v1/jobs", "", 401), ("api/v1/jobs?x=y", "alice-token", 400)],
)
async def test_a_connection_is_kept_after_a_request_that_was_refused(web, path, token, status):
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    credentials = f"Authorization: token {token}\r\n" if token else ""
    with contextlib.closing(writer):
        for each, expected in [(path, status), ("api/v1/health", 200)] * 2:
            writer.write(f"GET {PREFIX}{each} HTTP/1.1\r\nHost: x\r\n{credentials}\r\n".encode())
            async with asyncio.timeout(5):
                answer = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", answer)[1]))
            assert answer.startswith(f"HTTP/1.1 {expected} ".encode())
    await writer.wait_closed()


async def test_an_odd_content_length_is_the_clients_mistake(web):
    head = f"POST {PREFIX}api/v1/jobs HTTP/1.1\nHost: x\nAuthorization: token alice-token\n"
    answer = await raw_request(web, f"{head}Connection: close\nContent-Length: 5, 5\n\n", b"hello")
    assert answer.startswith("HTTP/1.1 400 ")


async def test_watching_sends_changes_as_events_with_ids(web):
    async with web.client() as client:
        refused = await client.get("api/v1/jobs/watch?user=*&x=1")
        assert refused.status_code == 400
        async with client.stream("GET", "api/v1/jobs/watch", headers={"Last-Event-ID": "x-3"}) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            lines = answer.aiter_lines()
            kind, place, data = (await read_event(lines)).split("\n")
            epoch = place.removeprefix("id: ").partition("-")[0]
            assert (kind, place, data) == ("event: reset", f"id: {epoch}-0", "data: {}")
            await web.add(make_job("theirs-1", user="bob"))
            await web.add(env={"KEY": "secret"})
            kind, place, data = (await read_event(lines)).split("\n")
            told = json.loads(data.removeprefix("data: "))
            assert (kind, place) == ("event: job", f"id: {epoch}-2")
            assert (told["id"], told["env"]) == ("train-1", None)
            assert (await client.delete("api/v1/jobs/train-1")).status_code == 204
            assert await read_event(lines) == f'event: deleted\nid: {epoch}-3\ndata: {{"id": "train-1"}}'
        again = {"Last-Event-ID": f"{epoch}-2"}
        async with client.stream("GET", "api/v1/jobs/watch", headers=again) as answer:
            lines = answer.aiter_lines()
            assert (await read_event(lines)).startswith("event: deleted\n")


async def test_jobs_are_counted_by_status(web):
    await web.add()
    await web.add(make_job("theirs-1", user="bob"))
    async with web.client() as client:
        counts = (await client.get("api/v1/jobs/counts")).json()["counts"]
    assert counts == {status.value: int(status == Status.RUNNING) for status in Status}


async def test_jobs_are_summed_up(web):
    for number, created_at in enumerate(
        [datetime(2030, 1, 31, 12, tzinfo=UTC), datetime(2030, 1, 31, 11, tzinfo=UTC)]
    ):
        await web.add(replace(make_job(f"train-{number}"), created_at=created_at))
    async with web.client() as client:
        answer = await client.get("api/v1/jobs/summary", params={"since": "2030-01-31T12:00:00Z", "limit": 3})
        refused = await client.get("api/v1/jobs/summary?limit=101")
    alice = {"user": "alice", "jobs": 1, "active": 1, "run_seconds": 0}
    assert answer.json() == {"jobs": 1, "users": [alice], "reasons": []}
    assert (refused.status_code, refused.json()["details"][0]["field"]) == (400, "limit")


async def test_the_timeline_of_a_job_is_that_of_its_record(web):
    begun = utcnow()
    pod = Pod(name="p1", phase="Failed", created_at=begun, exit_code=1, scheduled_at=begun, started_at=begun)
    await web.add(make_job(status=Status.FAILED, pods=[pod], launch_begun_at=begun, ended_at=begun))
    async with web.client() as client:
        told = (await client.get("api/v1/jobs/train-1/timeline")).json()
    steps = [(item["step"], item["attempt"]) for item in told["items"]]
    assert steps == [
        ("accepted", None), ("handed_over", None), ("scheduled", 1), ("running", 1), ("ended", None)
    ]  # fmt: skip
    assert [(each["number"], each["pod"], each["exit_code"]) for each in told["attempts"]] == [(1, "p1", 1)]


async def test_lines_of_a_log_are_read_by_their_numbers(web):
    await web.add(log=[b"one\ntwo\nthree\nfour"])
    async with web.client() as client:
        told = (await client.get("api/v1/jobs/train-1/logs?line=2&limit=2")).json()
        end = (await client.get("api/v1/jobs/train-1/logs?line=4")).json()
        wrong = await client.get("api/v1/jobs/train-1/logs?line=2&search=x")
    assert told["items"] == [{"line": 2, "text": "two"}, {"line": 3, "text": "three"}]
    assert (told["last_line"], told["last_line_is_open"], told["place"]) == (4, True, "1-18")
    assert end["items"] == [{"line": 4, "text": "four"}]
    assert (wrong.status_code, wrong.json()["details"][0]["field"]) == (400, "line")


async def test_who_cancelled_a_job_and_why_is_told(web):
    await web.add()
    await web.add(make_job("train-2"))
    web.hub.add_token("admin", "carol", scopes=(ACCESS, *DEFAULT_SCOPES.values()))
    async with web.client("admin") as client:
        told = (await client.post("api/v1/jobs/train-1/cancel", json={"note": "The node goes down."})).json()
        wrong = await client.post("api/v1/jobs/train-2/cancel", json={"why": "?"})
        other = (await client.post("api/v1/jobs/train-2/cancel")).json()
    assert (told["cancelled_by"], told["cancel_note"]) == ("carol", "The node goes down.")
    assert told["message"] == "Cancelled by carol: The node goes down."
    assert (wrong.status_code, wrong.json()["details"][0]["field"]) == (400, "why")
    assert other["message"] == "Cancelled by carol."
