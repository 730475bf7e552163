"""Uploads and code URLs as a client meets them: limits, places, slow and vanishing clients, ranges."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import zipfile

import pytest

from kbatch_server.handlers import uploads
from kbatch_server.handlers.compat import routes as kbatch
from kbatch_server.handlers.compat.first_client import NOT_A_ZIP
from kbatch_server.web import multipart
from kbatch_server.web.query import read_range
from tests.support.web_doubles import UploadsDouble
from tests.support.zips import make_zip

LIMIT = UploadsDouble.max_upload_bytes
FORM_ROOM = multipart.ROOM_BYTES
PATHS = ["api/v1/uploads", "uploads/"]
HEAD = "POST /services/kbatch/{path} HTTP/1.1\nHost: x\nAuthorization: token {user}-token\n"
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="code.zip"\r\n\r\n'


def make_head(*headers: str, path: str = "api/v1/uploads", user: str = "alice") -> bytes:
    lines = [HEAD.format(path=path, user=user), *[f"{header}\n" for header in headers], "\n"]
    return "".join(lines).replace("\n", "\r\n").encode()


async def begin(web, *headers: str, path: str = "api/v1/uploads", user: str = "alice", body: bytes = b"PK"):
    """Return the streams of an upload that has begun and that the service has begun to receive."""
    web.uploads.receiving.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    headers = headers or ("Content-Type: application/zip", "Content-Length: 1000")
    writer.write(make_head(*headers, path=path, user=user) + body)
    await asyncio.wait_for(web.uploads.receiving.wait(), 5)
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
    ("content_type", "limit"),
    [("application/zip", LIMIT), ("multipart/form-data; boundary=b", LIMIT + FORM_ROOM)],
)
async def test_an_upload_that_says_it_is_too_large_is_told_limit_and_size_and_sends_nothing(
    web, path, expect, content_type, limit
):
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    size = limit + 1
    headers = [f"Content-Type: {content_type}", f"Content-Length: {size}", *expect]
    writer.write(make_head(*headers, path=path))
    status, _, error = await read_answer(reader)  # and not: HTTP/1.1 100 (Continue)
    assert (status, error["reason"]) == (413, "TooLarge")
    assert error["message"] == f"The request body has {size} bytes; the limit is {limit} bytes."
    assert error["details"] == {"size": size, "limit": limit}
    assert web.uploads.kept == {}
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
    limit = LIMIT + FORM_ROOM if form else LIMIT
    details = answer.json()["details"]
    assert (answer.status_code, details["size"], details["limit"]) == (413, None, limit)
    assert limit < details["received"] <= limit + 65536
    said = f"The request body is larger than the limit of {limit} bytes ({details['received']} received)."
    assert answer.json()["message"] == said
    assert web.uploads.kept == {}


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


async def test_what_the_upload_refuses_at_once_is_answered_before_the_body_is_asked_for(web):
    async def full(user, chunks, *, declared_size):
        raise uploads.Unavailable("The storage is full.")

    web.uploads.receive = full
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(make_head("Content-Type: application/zip", "Content-Length: 1000", "Expect: 100-continue"))
    status, _, error = await read_answer(reader)
    assert (status, error["message"]) == (503, "The storage is full.")
    writer.close()


async def test_with_a_good_expectation_the_body_is_asked_for_and_kept(web):
    content = make_zip()
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    length = f"Content-Length: {len(content)}"
    writer.write(make_head("Content-Type: application/zip", length, "Expect: 100-continue"))
    assert b"100 (Continue)" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(content)
    status, _, upload = await read_answer(reader)
    assert (status, web.uploads.kept) == (201, {upload["id"]: content})
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
    assert web.uploads.kept == {}
    writer.close()


async def test_a_client_that_goes_on_too_slowly_is_refused_and_cut_off(web, monkeypatch):
    web.uploads.max_upload_seconds = 0.5
    monkeypatch.setattr("kbatch_server.handlers.exchange.LINGER_SECONDS", 0.2)
    reader, writer = await begin(web)
    answering = asyncio.create_task(read_answer(reader))
    while not answering.done():
        writer.write(b".")
        await asyncio.sleep(0.05)
    status, _, error = answering.result()
    assert status == 400
    assert error["message"] == "body: did not arrive within the limit of 0.5 s"
    writer.close()


async def test_a_client_that_goes_away_while_its_zip_is_looked_at_leaves_nothing_and_no_noise(web, caplog):
    looking = asyncio.Event()

    async def receive(user, chunks, *, declared_size):
        async for _ in chunks:
            pass
        looking.set()
        try:
            await asyncio.Event().wait()
        finally:
            web.uploads.cancelled.set()

    web.uploads.receive = receive
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(make_head("Content-Type: application/zip", "Content-Length: 2") + b"PK")
    await asyncio.wait_for(looking.wait(), 5)
    writer.close()
    await asyncio.wait_for(web.uploads.cancelled.wait(), 5)
    await places_are_free(web)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# places


async def places_are_free(web) -> None:
    async with asyncio.timeout(5):
        while web.uploads.places._taken:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)


async def test_a_user_sends_some_at_a_time_and_others_are_not_held_up(web):
    """Two for each user, three in all, in this double."""
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


async def test_a_large_body_of_json_takes_a_place_and_is_decoded_by_turns(web, api, monkeypatch):
    monkeypatch.setattr(kbatch, "LARGE_BODY_BYTES", 2000)
    code = make_zip({"data": "x" * 5000}, compress_type=zipfile.ZIP_STORED)
    decoding, most = 0, 0
    parse = kbatch.JobsHandler.get_json

    def counted(handler):
        nonlocal decoding, most
        decoding += 1
        most = max(most, decoding)
        try:
            return parse(handler)
        finally:
            decoding -= 1

    monkeypatch.setattr(kbatch.JobsHandler, "get_json", counted)
    sent = [api.post("jobs/", json=make_kbatch_body(code)) for _ in range(2)]
    answers = await asyncio.gather(*sent)
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert most == 1
    assert list(web.uploads.kept.values()) == [code, code]
    with web.uploads.places.take("alice"), web.uploads.places.take("alice"):
        assert (await api.post("jobs/", json=make_kbatch_body(code))).status_code == 429
        assert (await api.post("jobs/", json=make_kbatch_body(make_zip()))).status_code == 200
    await places_are_free(web)


async def test_the_first_client_is_told_what_is_wrong_with_its_file(web, api):
    answer = await api.post("uploads/", files={"file": ("code.zip", b"no zip")})
    assert (answer.status_code, answer.json()) == (400, {"file": [NOT_A_ZIP]})
    message = "The ZIP archive's entry '../x' has '..' in its path."

    async def receive(user, chunks, *, declared_size):
        async for _ in chunks:
            pass
        raise uploads.InvalidRequest(message, details=[{"field": "file", "message": message}])

    web.uploads.receive = receive
    answer = await api.post("uploads/", files={"file": ("code.zip", b"PK")})
    assert (answer.status_code, answer.json()) == (400, {"file": [message]})


# code


@pytest.fixture
async def code(web, api):
    """The ZIP behind ``code/good``."""
    content = make_zip({"data": "x" * 1000})
    await api.post("api/v1/uploads", content=content, headers={"Content-Type": "application/zip"})
    return content


async def test_code_is_handed_out_for_a_good_link_only(web, code):
    async with web.client(token=None) as client:
        whole = await client.get("code/good")
        head = await client.head("code/good", headers={"Range": "bytes=2-5"})
        bad = await client.get("code/forged")
    assert (whole.status_code, whole.content) == (200, code)
    assert (head.status_code, head.content) == (200, b"")
    for answer in (whole, head):
        assert answer.headers["Content-Length"] == str(len(code))
        assert answer.headers["ETag"] == f'"{web.uploads.owners["u0"].sha256}"'
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Type"] == "application/zip"
        assert answer.headers["Cache-Control"] == "no-store"
    assert (bad.status_code, bad.json()["reason"]) == (403, "BadLink")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_code_is_read_only(web, code, method):
    async with web.client(token=None) as client:
        answer = await client.request(method, "code/good")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert (await client.get("code/good")).content == code


async def test_of_a_range_no_more_than_that_is_read(web, code):
    reads, read = [], web.uploads.read

    def counted(upload, *, start=0, length=None):
        reads.append((start, length))
        return read(upload, start=start, length=length)

    web.uploads.read = counted
    size = len(code)
    async with web.client(token=None) as client:
        for asked, start, end in (
            ("2-5", 2, 6),
            ("-60", size - 60, size),
            ("100-", 100, size),
            ("0-9999", 0, size),
        ):
            answer = await client.get("code/good", headers={"Range": f"bytes={asked}"})
            assert answer.content == code[start:end], asked
            assert reads.pop() == (start, end - start)
            if (start, end) != (0, size):
                assert answer.status_code == 206
                assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"


async def test_a_range_that_is_not_there_is_416_with_the_size(web, code):
    async with web.client(token=None) as client:
        for asked in (f"{len(code)}-", "99999-100000", "-0"):
            answer = await client.get("code/good", headers={"Range": f"bytes={asked}"})
            assert answer.status_code == 416, asked
            assert answer.headers["Content-Range"] == f"bytes */{len(code)}"
            assert answer.json()["status"] == 416


async def test_a_range_of_another_version_or_several_is_the_whole(web, code):
    etag = f'"{web.uploads.owners["u0"].sha256}"'
    async with web.client(token=None) as client:
        for headers, status in (
            ({"Range": "bytes=2-5", "If-Range": etag}, 206),
            ({"Range": "bytes=2-5", "If-Range": '"another"'}, 200),
            ({"Range": "bytes=2-5", "If-Range": "Wed, 01 Jan 2020 00:00:00 GMT"}, 200),
            ({"Range": "bytes=2-5, 7-8"}, 200),
            ({"Range": "bytes=9-2"}, 200),
            ({"Range": "lines=1-2"}, 200),
        ):
            answer = await client.get("code/good", headers=headers)
            assert (answer.status_code, answer.content) == (status, code[2:6] if status == 206 else code)


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=a-b", "bytes=1-2,4-5", "bytes=٣-٤", "bytes=5-4"]
)
def test_a_range_that_is_not_understood_is_none(header):
    assert read_range(header, 10) is None


async def test_a_storage_that_breaks_in_the_middle_does_not_make_a_half_look_whole(web, code):
    async def broken(upload, *, start=0, length=None):
        yield code[:100]
        raise uploads.StorageError("away")

    web.uploads.read = broken
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(b"GET /services/kbatch/code/good HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert f"Content-Length: {len(code)}".encode() in answer
    assert answer.endswith(code[:100])
    writer.close()
