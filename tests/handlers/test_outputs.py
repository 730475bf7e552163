"""Results as a client gets them: listed, read whole or in part, never shown as a page; and sent by a job."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import zipfile

import pytest

from kbatch_server.errors import RangeNotSatisfiable
from kbatch_server.handlers import exchange
from kbatch_server.handlers.outputs import make_disposition, make_listing
from kbatch_server.models.job import Status
from kbatch_server.models.results import JobOutputs, OmittedFile, OutputFile
from kbatch_server.scrub import scrub_url
from kbatch_server.storage.base import StorageError
from kbatch_server.store.outputs import KeptOutputs
from kbatch_server.web.query import read_range
from tests.support.tars import make_tar
from tests.support.waiting import until
from tests.support.web import PREFIX, make_job, running_web

URL = "api/v1/jobs/train-1/outputs"
FILES = {
    "a.txt": b"0123456789" * 20,
    "sub/page.html": b"<script>alert(1)</script>",
    'sub/ünï "x" 100%.png': b"png",
    "empty.bin": b"",
}


@pytest.fixture
async def job(web):
    web.storage.piece_bytes = 50
    return await web.send_results(await web.add(make_job(status=Status.SUCCEEDED)), FILES)


@pytest.fixture
async def link(web):
    """The signed link of a job that has ended and sends its results."""
    return web.sign_outputs(await web.add(make_job(status=Status.SUCCEEDED)))


async def test_results_are_listed(api, job):
    answer = (await api.get(URL)).raise_for_status().json()
    assert answer["items"][0] == {"path": "a.txt", "size": 200, "modified_at": "2023-11-14T22:13:20Z"}
    assert {name: answer[name] for name in ("files", "size", "state", "message")} == {
        "files": 4,
        "size": 228,
        "state": "kept",
        "message": "",
    }
    assert (await api.get("api/v1/jobs/train-1")).json()["outputs"] == job.outputs.model_dump()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_any_length_is_json(count):
    files = [OutputFile(f'"{number}', 0, number, 0) for number in range(count)]
    summary = JobOutputs(state="kept", files=count)
    listed = json.loads(make_listing(KeptOutputs("key", 1, files, [OmittedFile("ü", 5)]), summary))
    assert [item["path"] for item in listed["items"]] == [file.path for file in files]
    assert listed["omitted"] == [{"path": "ü", "size": 5}]
    assert listed.items() >= summary.model_dump().items()


async def test_what_was_left_out_for_the_limits_is_named_in_the_list(web, api):
    job = await web.add(make_job(status=Status.SUCCEEDED, message="Completed successfully."))
    tar = make_tar({"outputs/a": b"1", "lists/omitted": b"1 10000000000\n10000000000 b\n"})
    folders = {"X-Kbatch-Folders": "outputs=/o workdir=/w"}
    (await api.post(web.sign_outputs(job), content=tar, headers=folders)).raise_for_status()
    message = "1 file (10000000000 bytes) was not saved; the limits are 10000 files and 1073741824 bytes."
    answer = (await api.get(URL)).raise_for_status().json()
    assert answer["omitted"] == [{"path": "b", "size": 10**10}]
    assert (answer["omitted_files"], answer["omitted_size"]) == (1, 10**10)
    job = (await api.get("api/v1/jobs/train-1")).json()
    assert job["message"] == f"Completed successfully. Results incomplete: {message}"


async def test_results_that_are_not_there_are_404_with_the_reason(web, api):
    await web.add()
    for path in (URL, f"{URL}.zip", f"{URL}/a.txt"):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "OutputsNotFound")
        said = "Job 'train-1' has not ended yet. Its results are available after it ends."
        assert answer.json()["message"] == said


async def test_nobody_reads_the_results_of_another(web, job):
    async with web.client("bob-token") as bob:
        for path in (URL, f"{URL}.zip", f"{URL}/a.txt"):
            assert (await bob.get(path)).status_code == 404
    async with web.client("admin-token") as admin:
        assert (await admin.get(f"{URL}/a.txt")).status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type", "way"),
    [
        ("a.txt", "text/plain; charset=utf-8", "inline"),
        ("sub/page.html", "application/octet-stream", "attachment"),
        ("sub/%C3%BCn%C3%AF%20%22x%22%20100%25.png", "image/png", "inline"),
        ("empty.bin", "application/octet-stream", "attachment"),
    ],
)
async def test_a_file_is_shown_only_where_no_script_can_be_in_it(api, job, path, content_type, way):
    answer = (await api.get(f"{URL}/{path}")).raise_for_status()
    assert answer.content in FILES.values()
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Content-Disposition"].startswith(f"{way}; filename=")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a b.txt", 'filename="a b.txt"'),
        ('"\\\r\n%.x', "filename=\"_____.x\"; filename*=UTF-8''%22%5C%0D%0A%25.x"),
        ("ünï.csv", "filename=\"_n_.csv\"; filename*=UTF-8''%C3%BCn%C3%AF.csv"),
    ],
)
def test_a_name_of_any_characters_is_told_safely(name, said):
    assert make_disposition("attachment", name) == f"attachment; {said}"


async def test_a_range_of_a_file_is_read(api, job):
    answer = await api.get(f"{URL}/a.txt", headers={"Range": "bytes=95-104"})
    assert (answer.status_code, answer.content) == (206, b"5678901234")
    assert answer.headers["Content-Range"] == "bytes 95-104/200"
    rest = await api.get(f"{URL}/a.txt", headers={"Range": "bytes=150-", "If-Range": answer.headers["Etag"]})
    assert (rest.status_code, len(rest.content)) == (206, 50)
    other = await api.get(f"{URL}/a.txt", headers={"Range": "bytes=150-", "If-Range": '"another"'})
    assert (other.status_code, len(other.content)) == (200, 200)


async def test_a_range_that_is_not_there_is_416(api, job):
    answer = await api.get(f"{URL}/a.txt", headers={"Range": "bytes=200-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */200")
    assert answer.json()["reason"] == "RangeNotSatisfiable"


async def test_the_head_of_a_file_and_what_a_client_has_already(api, job):
    head = await api.head(f"{URL}/a.txt")
    assert (head.headers["Content-Length"], head.headers["Accept-Ranges"], head.content) == (
        "200",
        "bytes",
        b"",
    )
    same = await api.get(f"{URL}/a.txt", headers={"If-None-Match": head.headers["Etag"]})
    assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["a.txt", "nothing"])
async def test_a_file_is_looked_for_only_when_there_is_a_place_for_it(tmp_path, monkeypatch, method, path):
    settings = {"Throttle": {"concurrent_downloads_per_user": 1}}
    async with running_web(tmp_path, settings) as web, web.client() as alice:
        await web.send_results(await web.add(make_job(status=Status.SUCCEEDED)), FILES)
        looked_for, find_file = [], web.store.outputs.find_file

        def note(job_id, path):
            looked_for.append(path)
            return find_file(job_id, path)

        monkeypatch.setattr(web.store.outputs, "find_file", note)
        with web.throttle.download(web.auth.make_user({"name": "alice", "scopes": []})):
            refused = await alice.request(method, f"{URL}/{path}")
        assert (refused.status_code, looked_for) == (429, [])
        found = await alice.request(method, f"{URL}/{path}")
        assert found.status_code == (200 if path in FILES else 404)
        assert looked_for == [path]
        assert not web.throttle._downloads._taken


async def test_all_results_come_as_a_zip_to_be_saved(api, job):
    answer = (await api.get(f"{URL}.zip")).raise_for_status()
    assert answer.headers["Content-Disposition"] == 'attachment; filename="train-1.zip"'
    assert zipfile.ZipFile(io.BytesIO(answer.content)).read("a.txt") == FILES["a.txt"]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=5-", (5, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
    ],
)
def test_ranges_are_read_as_the_rfc_says(header, found):
    assert read_range(header, 100) == found


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0)])
def test_what_lies_outside_is_no_range(header, size):
    with pytest.raises(RangeNotSatisfiable):
        read_range(header, size)


async def test_results_that_could_not_be_kept_are_told_in_the_message_of_every_wire(web, api):
    failed = JobOutputs(state="failed", message="They are 5 bytes, the limit is 4.")
    await web.add(make_job(status=Status.SUCCEEDED, message="Completed successfully.", outputs=failed))
    said = "Completed successfully. Results not saved: They are 5 bytes, the limit is 4."
    assert (await api.get("api/v1/jobs/train-1")).json()["message"] == said
    assert said in (await api.get("jobs/train-1")).text


# What a job sends


async def test_what_a_job_sends_is_taken_for_a_good_link_only(web, api, link):
    content = b"t" * 100_000
    async with web.client(token=None) as client:
        headers = {
            "X-Kbatch-Unreadable": "2",
            "X-Kbatch-Pod": "train-1-abcde",
            "X-Kbatch-Folders": "outputs=/o workdir=/w",
        }
        files = {"outputs/a": content, "workdir/a": b"hidden", "workdir/b": b"new"}
        tar = make_tar(files, others={"outputs/linked": (tarfile.SYMTYPE, "/w/b")})
        answer = await client.post(link, content=tar, headers=headers)
        assert answer.status_code == 200
        kept = (await web.store.jobs.get("train-1", user="alice")).outputs
        assert answer.json() == kept.model_dump()
        assert (kept.state, kept.files, kept.pod) == ("kept", 3, "train-1-abcde")
        assert kept.message.startswith("2 entries were skipped: ")
        assert list(web.storage.objects.values()) == [tar]
        assert (await api.get(f"{URL}/a")).content == content
        for name in ("b", "linked"):
            assert (await api.get(f"{URL}/{name}")).content == b"new"
        refused = await client.post("outputs/forged", content=b"x")
        assert (refused.status_code, refused.json()["reason"]) == (403, "BadLink")
        for odd in ({"X-Kbatch-Unreadable": "many"}, {"X-Kbatch-Folders": "home=/"}):
            assert (await client.post(link, content=b"x", headers=odd)).status_code == 400
        assert (await client.get(link)).status_code == 405
    assert list(web.storage.objects.values()) == [tar]


async def test_what_is_too_large_is_refused_before_it_is_sent(web, api, link, monkeypatch):
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    size = web.outputs.max_tar_bytes + 1
    writer.write(
        f"POST {PREFIX}{link} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    outputs = (await api.get("api/v1/jobs/train-1")).json()["outputs"]
    assert (outputs["state"], outputs["message"][:16]) == ("failed", "The results have")


async def test_a_storage_that_fails_is_503_so_that_it_is_sent_again(web, api, link):
    web.storage.errors.append(StorageError("nobody is there"))
    async with web.client(token=None) as client:
        answer = await client.post(link, content=make_tar(FILES))
        assert answer.status_code == 503
        assert answer.json()["message"] == "The storage does not respond: nobody is there"
        assert "Retry-After" in answer.headers
        assert web.storage.objects == {}
        assert (await client.post(link, content=make_tar(FILES))).status_code == 200
    assert (await api.get(f"{URL}/a.txt")).content == FILES["a.txt"]


async def test_a_job_whose_connection_hangs_is_told_to_try_again(web, link, monkeypatch):
    monkeypatch.setattr("kbatch_server.web.body.IDLE_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(begin_to_send(link))
    await until(lambda: web.storage.written)
    await asyncio.sleep(0.2)  # what is tested is that nothing comes for longer than it may
    writer.write(b"y" * 9)
    answer = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert web.storage.objects == {}


async def test_a_job_that_goes_away_while_it_sends_leaves_nothing(web, api, link):
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(begin_to_send(link))
    await until(lambda: web.storage.written)
    assert _find_receiving()
    writer.close()
    await until(lambda: not _find_receiving())
    assert web.storage.objects == {}
    assert (await api.get(URL)).status_code == 404


def begin_to_send(link):
    """Return a request and so much of its body that it goes to the storage, but not the end."""
    tar = make_tar({"a": b"a" * 100_000})
    head = f"POST {PREFIX}{link} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(tar)}\r\n\r\n"
    return head.encode() + tar[:70_000]


def _find_receiving():
    return [task for task in asyncio.all_tasks() if task.get_name() == "outputs train-1"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/services/kbatch/outputs/signed.part", "/services/kbatch/outputs/[secret]"),
        ("/outputs/signed", "/outputs/[secret]"),
        ("/services/kbatch/code/signed?x=1", "/services/kbatch/code/[secret]?x=1"),
        ("/services/kbatch/api/v1/jobs/x/outputs/a.txt", "/services/kbatch/api/v1/jobs/x/outputs/a.txt"),
        ("/services/kbatch/api/v1/jobs/x/outputs/code/a", "/services/kbatch/api/v1/jobs/x/outputs/code/a"),
    ],
)
def test_the_signed_part_of_a_url_is_in_no_log_and_the_name_of_a_file_is(url, shown):
    assert scrub_url(url) == shown
