"""Uploads and code URLs as a client meets them: limits, places, slow and vanishing clients, ranges."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import threading
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from kbatch_server.errors import TooManyRequests, Unavailable
from kbatch_server.handlers.compat import routes as kbatch
from kbatch_server.handlers.compat.first_client import NOT_A_ZIP
from kbatch_server.models.user import User
from kbatch_server.storage.base import StorageError, StorageFull
from kbatch_server.uploads.uploads import DECODINGS
from kbatch_server.web import multipart
from kbatch_server.web.query import read_range
from tests.support.waiting import SECONDS, until
from tests.support.web import PREFIX
from tests.support.zips import make_zip

LIMIT = 4 * 2**20
FORM_ROOM = multipart.ROOM_BYTES
SETTINGS = {"Uploads": {"max_upload_bytes": LIMIT, "concurrent_uploads_per_user": 2, "concurrent_uploads": 3}}
ALICE, BOB = User("alice"), User("bob")
PATHS = ["api/v1/uploads", "uploads/"]
HEAD = "POST /services/kbatch/{path} HTTP/1.1\nHost: x\nAuthorization: token {user}-token\n"
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="code.zip"\r\n\r\n'


@pytest.fixture
def web_settings():
    return SETTINGS


def make_head(*headers: str, path: str = "api/v1/uploads", user: str = "alice") -> bytes:
    lines = [HEAD.format(path=path, user=user), *[f"{header}\n" for header in headers], "\n"]
    return "".join(lines).replace("\n", "\r\n").encode()


async def begin(web, *headers: str, path: str = "api/v1/uploads", user: str = "alice", body: bytes = b"PK"):
    """Return the streams of an upload that has begun and that the service has begun to receive."""
    begun = len(web.storage.written)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    headers = headers or ("Content-Type: application/zip", "Content-Length: 1000")
    writer.write(make_head(*headers, path=path, user=user) + body)
    await until(lambda: len(web.storage.written) > begun)
    return reader, writer


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 10)
    return int(first.split()[1]), headers, json.loads(body)


# limits


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
@pytest.mark.parametrize(
    ("content_type", "size"),
    [("application/zip", LIMIT + 1), ("multipart/form-data; boundary=b", LIMIT + FORM_ROOM + 1)],
)
async def test_an_upload_that_says_it_is_too_large_is_told_limit_and_size_and_sends_nothing(
    web, path, expect, content_type, size
):
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    headers = [f"Content-Type: {content_type}", f"Content-Length: {size}", *expect]
    writer.write(make_head(*headers, path=path))
    status, _, error = await read_answer(reader)  # and not: HTTP/1.1 100 (Continue)
    assert (status, error["reason"]) == (413, "TooLarge")
    assert error["message"] == f"The request body has {size} bytes; the limit is {LIMIT} bytes."
    assert error["details"] == {"size": size, "limit": LIMIT}
    assert await web.read_uploads() == {}
    writer.close()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", [False, True])
async def test_a_streamed_upload_that_gets_too_large_is_told_the_limit_and_how_much_came(
    web, api, path, form
):
    async def body():
        yield FORM if form else b""
        for _ in range(100):
            yield b"PK" * 65536

    content_type = "multipart/form-data; boundary=b" if form else "application/zip"
    answer = await api.post(path, content=body(), headers={"Content-Type": content_type})
    details = answer.json()["details"]
    assert (answer.status_code, details["size"], details["limit"]) == (413, None, LIMIT)
    assert LIMIT < details["received"] <= LIMIT + 65536
    said = f"The request body is larger than the limit of {LIMIT} bytes ({details['received']} received)."
    assert answer.json()["message"] == said
    assert await web.read_uploads() == {}


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (b"--b\r\n\r\n\r\n", "has more than 100 parts"),
        (
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 40_000 + b"\r\n",
            "has more than 65536",
        ),
        (b"--b\r\n" + b"A: b\r\n" * 9, "is not multipart/form-data"),
        (b"--b\r\nA: " + b"b" * 10_000, "is not multipart/form-data"),
    ],
    ids=["tiny parts", "other parts", "headers of a part", "a long header"],
)
async def test_a_form_with_many_parts_or_much_beside_the_file_is_refused_at_once(web, api, part, why):
    fed = []
    feed = multipart.FilePart.feed

    def count(self, chunk):
        fed.append(len(chunk))
        return feed(self, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipart.FilePart, "feed", count)
        body = part * (2**21 // len(part))
        answer = await api.post(
            "api/v1/uploads", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "body")
    assert why in answer.json()["message"]
    assert sum(fed) <= 3 * 65536, "it goes on to be read"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (StorageFull("no space"), 507, "The storage is full. Tell an admin of the hub."),
        (StorageError("away"), 503, "The storage does not respond. Try again in a moment."),
    ],
)
async def test_what_the_upload_refuses_at_once_is_answered_before_the_body_is_asked_for(
    web, error, status, message
):
    web.storage.errors.append(error)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(make_head("Content-Type: application/zip", "Content-Length: 1000", "Expect: 100-continue"))
    answered, _, body = await read_answer(reader)
    assert (answered, body["message"]) == (status, message)
    writer.close()
    assert await web.read_uploads() == {}


async def test_with_a_good_expectation_the_body_is_asked_for_and_kept(web):
    content = make_zip()
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    length = f"Content-Length: {len(content)}"
    writer.write(make_head("Content-Type: application/zip", length, "Expect: 100-continue"))
    assert b"100 (Continue)" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(content)
    status, _, upload = await read_answer(reader)
    assert (status, await web.read_uploads()) == (201, {upload["id"]: content})
    writer.close()


# slow clients


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_sends_nothing_more_is_refused_and_cut_off(web, monkeypatch, path):
    monkeypatch.setattr("kbatch_server.web.body.IDLE_SECONDS", 0.2)
    monkeypatch.setattr("kbatch_server.handlers.exchange.LINGER_SECONDS", 0.2)
    reader, writer = await begin(web, path=path)
    status, headers, error = await read_answer(reader)
    assert (status, headers["connection"]) == (400, "close")
    assert error["details"] == [{"field": "body", "message": "no data arrived for 0.2 s"}]
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert await web.read_uploads() == {}
    writer.close()


async def test_a_client_that_goes_on_too_slowly_is_refused_and_cut_off(web, monkeypatch):
    web.uploads.max_upload_seconds = 1
    monkeypatch.setattr("kbatch_server.handlers.exchange.LINGER_SECONDS", 0.2)
    reader, writer = await begin(web)
    answering = asyncio.create_task(read_answer(reader))
    while not answering.done():
        writer.write(b".")
        await asyncio.sleep(0.05)
    status, _, error = answering.result()
    assert status == 400
    assert error["message"] == "body: did not arrive within the limit of 1 s"
    writer.close()
    assert await web.read_uploads() == {}


async def test_a_client_that_goes_away_while_its_zip_is_looked_at_leaves_nothing_and_no_noise(
    web, caplog, monkeypatch
):
    looking = asyncio.Event()

    async def hang(key, *, start=0, length=None):
        looking.set()
        await asyncio.Event().wait()
        yield b""

    monkeypatch.setattr(web.storage, "read", hang)
    content = make_zip()
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(make_head("Content-Type: application/zip", f"Content-Length: {len(content)}") + content)
    await asyncio.wait_for(looking.wait(), 5)
    assert list(web.storage.objects.values()) == [content]
    writer.close()
    await until(lambda: not web.storage.objects)
    await places_are_free(web)
    assert await web.read_uploads() == {}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# places


async def places_are_free(web) -> None:
    """Wait until alice has both of her places, and bob the third."""

    def are_free() -> bool:
        try:
            with web.uploads.place(ALICE), web.uploads.place(ALICE), web.uploads.place(BOB):
                return True
        except (TooManyRequests, Unavailable):
            return False

    await until(are_free)


async def test_a_user_sends_some_at_a_time_and_others_are_not_held_up(web):
    """Two for each user, three in all: see SETTINGS."""
    form = "Content-Type: multipart/form-data; boundary=b", "Content-Length: 1000"
    first, second = await begin(web), await begin(web, *form, path="uploads/", body=FORM + b"PK")
    for expect in ([], ["Expect: 100-continue"]):
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(make_head("Content-Type: application/zip", "Content-Length: 1000", *expect))
        status, headers, error = await read_answer(reader)
        assert (status, error["reason"], headers["retry-after"]) == (429, "TooManyRequests", "10")
        assert error["message"] == "You already have 2 uploads, which is the limit. Wait for one to end."
        writer.close()
    third = await begin(web, user="bob")
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(make_head("Content-Type: application/zip", "Content-Length: 1000", user="bob"))
    assert (await read_answer(reader))[0] == 503
    writer.close()
    for _, writer in (first, second, third):
        writer.close()
    await places_are_free(web)
    _, writer = await begin(web)
    writer.close()


async def test_a_place_is_free_again_after_every_kind_of_end(web, api):
    zip_type = {"Content-Type": "application/zip"}
    for content, headers, status in (
        (make_zip(), zip_type, 201),
        (b"no zip", zip_type, 400),
        (b"PK", {"Content-Type": "text/plain"}, 400),
        (b"junk", {"Content-Type": "multipart/form-data; boundary=b"}, 400),
    ):
        for _ in range(3):
            answer = await api.post("api/v1/uploads", content=content, headers=headers)
            assert answer.status_code == status
    await places_are_free(web)


def make_kbatch_body(code: bytes) -> dict:
    container = {"name": "job", "image": "python:3", "command": ["python", "main.py"]}
    job = {"metadata": {"name": "train"}, "spec": {"template": {"spec": {"containers": [container]}}}}
    return {"job": job, "code": {"binary_data": {"code": base64.b64encode(code).decode()}}}


@pytest.mark.parametrize(
    "web_settings",
    [{"Uploads": {"concurrent_uploads_per_user": 4, "concurrent_uploads": 4}}],
    ids=["4 places"],
)
async def test_a_large_body_of_json_takes_a_place_and_is_decoded_by_turns(web, api, monkeypatch):
    monkeypatch.setattr(kbatch, "LARGE_BODY_BYTES", 2000)
    codes = [make_zip({"data": text * 5000}, compress_type=zipfile.ZIP_STORED) for text in "abcd"]
    decoding, counts, together = [], [], threading.Barrier(DECODINGS)
    parse = kbatch.KBatchJobsHandler.get_json

    def counted(handler):
        decoding.append(handler)
        counts.append(len(decoding))
        together.wait(SECONDS)
        time.sleep(0.05)  # for one that does not wait for its turn
        try:
            return parse(handler)
        finally:
            decoding.remove(handler)

    with monkeypatch.context() as patch:
        patch.setattr(kbatch.KBatchJobsHandler, "get_json", counted)
        answers = await asyncio.gather(*[api.post("jobs/", json=make_kbatch_body(code)) for code in codes])
    assert [answer.status_code for answer in answers] == [200] * 4, answers[0].text
    assert max(counts) == DECODINGS
    names = [answer.json()["metadata"]["name"] for answer in answers]
    jobs = [await web.store.jobs.get(name, user="alice") for name in names]
    assert [web.storage.objects[f"uploads/{job.spec.upload}"] for job in jobs] == codes
    assert len(web.storage.objects) == 4
    with ExitStack() as taken:
        for _ in range(4):
            taken.enter_context(web.uploads.place(ALICE))
        assert (await api.post("jobs/", json=make_kbatch_body(codes[0]))).status_code == 429
        assert (await api.post("jobs/", json=make_kbatch_body(make_zip()))).status_code == 200
    await places_are_free(web)


async def test_the_first_client_is_told_what_is_wrong_with_its_file(web, api):
    answer = await api.post("uploads/", files={"file": ("code.zip", b"no zip")})
    assert (answer.status_code, answer.json()) == (400, {"file": [NOT_A_ZIP]})
    answer = await api.post("uploads/", files={"file": ("code.zip", make_zip({"../x": "x"}))})
    message = "The ZIP archive's entry '../x' has '..' in its path."
    assert (answer.status_code, answer.json()) == (400, {"file": [message]})
    assert await web.read_uploads() == {}


# code


@dataclass(frozen=True)
class Code:
    """The ZIP of a running job, and the path of the signed link with which the job fetches it."""

    content: bytes
    link: str

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()}"'


@pytest.fixture
async def code(web):
    """The code of a job of alice."""
    content = make_zip({"data": "x" * 1000})
    web.storage.piece_bytes = 50
    return Code(content, await web.sign_code(await web.add_with_code(content)))


async def test_code_is_handed_out_for_a_good_link_only(web, code):
    async with web.client(token=None) as client:
        whole = await client.get(code.link)
        head = await client.head(code.link, headers={"Range": "bytes=2-5"})
        bad = await client.get("code/forged")
    assert (whole.status_code, whole.content) == (200, code.content)
    assert (head.status_code, head.content) == (200, b"")
    for answer in (whole, head):
        assert answer.headers["Content-Length"] == str(len(code.content))
        assert answer.headers["ETag"] == code.etag
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Type"] == "application/zip"
        assert answer.headers["Cache-Control"] == "no-store"
    assert (bad.status_code, bad.json()["reason"]) == (403, "BadLink")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_code_is_read_only(web, code, method):
    async with web.client(token=None) as client:
        answer = await client.request(method, code.link)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert (await client.get(code.link)).content == code.content


async def test_of_a_range_no_more_than_that_is_read(web, code, monkeypatch):
    reads, read = [], web.storage.read

    def counted(key, *, start=0, length=None):
        reads.append((start, length))
        return read(key, start=start, length=length)

    monkeypatch.setattr(web.storage, "read", counted)
    size = len(code.content)
    async with web.client(token=None) as client:
        for asked, start, end in (
            ("2-5", 2, 6),
            ("-60", size - 60, size),
            ("100-", 100, size),
            ("0-9999", 0, size),
        ):
            answer = await client.get(code.link, headers={"Range": f"bytes={asked}"})
            assert answer.content == code.content[start:end], asked
            assert reads.pop() == (start, end - start)
            if (start, end) != (0, size):
                assert answer.status_code == 206
                assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"


async def test_a_range_that_is_not_there_is_416_with_the_size(web, code):
    async with web.client(token=None) as client:
        for asked in (f"{len(code.content)}-", "99999-100000", "-0"):
            answer = await client.get(code.link, headers={"Range": f"bytes={asked}"})
            assert answer.status_code == 416, asked
            assert answer.headers["Content-Range"] == f"bytes */{len(code.content)}"
            assert answer.json()["status"] == 416


async def test_a_range_of_another_version_or_several_is_the_whole(web, code):
    async with web.client(token=None) as client:
        for headers, status in (
            ({"Range": "bytes=2-5", "If-Range": code.etag}, 206),
            ({"Range": "bytes=2-5", "If-Range": '"another"'}, 200),
            ({"Range": "bytes=2-5", "If-Range": "Wed, 01 Jan 2020 00:00:00 GMT"}, 200),
            ({"Range": "bytes=2-5, 7-8"}, 200),
            ({"Range": "bytes=9-2"}, 200),
            ({"Range": "lines=1-2"}, 200),
        ):
            answer = await client.get(code.link, headers=headers)
            assert (answer.status_code, answer.content) == (
                status,
                code.content[2:6] if status == 206 else code.content,
            )


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=a-b", "bytes=1-2,4-5", "bytes=٣-٤", "bytes=5-4"]
)
def test_a_range_that_is_not_understood_is_none(header):
    assert read_range(header, 10) is None


async def test_a_storage_that_breaks_in_the_middle_does_not_make_a_half_look_whole(web, code, monkeypatch):
    async def broken(key, *, start=0, length=None):
        yield code.content[:100]
        raise StorageError("away")

    monkeypatch.setattr(web.storage, "read", broken)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(f"GET {PREFIX}{code.link} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    assert f"Content-Length: {len(code.content)}".encode() in answer
    assert answer.endswith(code.content[:100])
    writer.close()
