"""Uploads: kept when they are good, gone without a trace when they are not; and what a good ZIP is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import stat
import struct
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from doubles import MemoryStorage

from kbatch_server import archive
from kbatch_server.errors import InvalidRequest, KBatchError, NotFound, TooLarge, Unavailable
from kbatch_server.keyring import Keyring
from kbatch_server.models import Job, JobSpec, User, utcnow
from kbatch_server.storage.base import StorageError, StorageFull
from kbatch_server.store import JobStore
from kbatch_server.uploads import Uploads

ALICE, BOB = User("alice"), User("bob")


@pytest.fixture
async def store(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.sqlite", Keyring(["k" * 32]), log=logging.getLogger("test"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def uploads(store):
    return Uploads(storage=MemoryStorage(), store=store)


def make_zip(*entries: tuple[str | zipfile.ZipInfo, bytes], **kwargs) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries:
            made.writestr(name, content, **kwargs)
    return file.getvalue()


GOOD = make_zip(("main.py", b"print('hello')\n"), ("data/x.csv", b"1,2\n"))


async def chunked(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def nothing_is_left(uploads: Uploads) -> bool:
    forever = utcnow() + timedelta(days=9999)
    return not uploads.storage.objects and not await uploads.store.list_expired_uploads(forever)


# --- receiving


async def test_a_good_zip_is_kept_with_its_size_and_hash(uploads):
    upload = await uploads.receive(ALICE, chunked(GOOD), declared_size=len(GOOD))
    assert (upload.size, upload.sha256) == (len(GOOD), hashlib.sha256(GOOD).hexdigest())
    assert upload.expires_at - upload.created_at == timedelta(days=7)
    assert await uploads.get(ALICE, upload.id) == upload
    assert b"".join([piece async for piece in uploads.read(upload)]) == GOOD
    assert b"".join([piece async for piece in uploads.read(upload, start=2, length=5)]) == GOOD[2:7]
    with pytest.raises(NotFound):
        await uploads.get(BOB, upload.id)


async def test_the_same_content_of_the_same_user_is_kept_once_and_longer(uploads):
    first = await uploads.receive(ALICE, chunked(GOOD))
    again = await uploads.receive(ALICE, chunked(GOOD))
    assert again.id == first.id
    assert again.expires_at > first.expires_at
    other = await uploads.receive(BOB, chunked(GOOD))
    assert other.id != first.id
    assert sorted(uploads.storage.objects) == sorted([first.key, other.key])


async def test_the_same_content_is_kept_anew_when_the_storage_lost_it(uploads):
    first = await uploads.receive(ALICE, chunked(GOOD))
    uploads.storage.objects.clear()
    again = await uploads.receive(ALICE, chunked(GOOD))
    assert again.id != first.id
    assert list(uploads.storage.objects) == [again.key]


async def test_too_large_is_said_with_the_limit_before_or_while_it_comes(uploads):
    uploads.max_upload_bytes = 2500
    with pytest.raises(TooLarge) as refused:
        await uploads.receive(ALICE, chunked(b""), declared_size=2501)
    assert refused.value.details == {"limit": 2500, "size": 2501}
    came = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal came
        while True:
            came += 1000
            yield b"x" * 1000

    with pytest.raises(TooLarge) as refused:
        await uploads.receive(ALICE, endless())
    assert refused.value.details == {"limit": 2500, "size": 3000}
    assert came == 3000
    assert await nothing_is_left(uploads)


async def test_what_is_no_zip_leaves_nothing(uploads):
    with pytest.raises(InvalidRequest) as refused:
        await uploads.receive(ALICE, chunked(b"print('no zip')"))
    assert refused.value.details == [
        {"field": "file", "message": "The submitted file must be a ZIP archive."}
    ]
    assert await nothing_is_left(uploads)


async def test_a_client_that_goes_away_leaves_nothing(uploads):
    async def broken() -> AsyncIterator[bytes]:
        yield GOOD[:100]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await uploads.receive(ALICE, broken())
    assert await nothing_is_left(uploads)


@pytest.mark.parametrize("method", ["get_size", "add_upload"])
async def test_a_cancelled_request_leaves_nothing(uploads, monkeypatch, method):
    """Cancelled after the object was written, and after the row was."""
    reached = asyncio.Event()
    part = uploads.store if method == "add_upload" else uploads.storage
    done = getattr(part, method)

    async def hanging(*args):
        await done(*args)
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(part, method, hanging)
    if method == "get_size":
        first = await uploads.receive(ALICE, chunked(GOOD))
    receiving = asyncio.create_task(uploads.receive(ALICE, chunked(GOOD)))
    await asyncio.wait_for(reached.wait(), 5)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    if method == "get_size":
        assert list(uploads.storage.objects) == [first.key]
    else:
        assert await nothing_is_left(uploads)


@pytest.mark.parametrize(
    ("error", "said"), [(StorageFull("full"), "storage is full"), (StorageError("away"), "does not answer")]
)
async def test_a_storage_that_fails_is_said_plainly(uploads, monkeypatch, error, said):
    async def failing(key, chunks):
        raise error

    monkeypatch.setattr(uploads.storage, "write", failing)
    with pytest.raises(Unavailable, match=said):
        await uploads.receive(ALICE, chunked(GOOD))
    assert await nothing_is_left(uploads)


# --- collecting


async def test_what_has_expired_is_deleted_unless_a_job_names_it(uploads, store):
    named = await uploads.receive(ALICE, chunked(make_zip(("a", b"1"))))
    gone = await uploads.receive(ALICE, chunked(make_zip(("b", b"2"))))
    spec = JobSpec(image="i", upload=named.id)
    await store.add_job(Job(id="j", user="alice", name="j", spec=spec, created_at=utcnow()))
    assert await uploads.collect() == 0
    uploads.upload_ttl_seconds = 60
    await expire(store, named.id, gone.id)
    fresh = await uploads.receive(ALICE, chunked(GOOD))
    assert await uploads.collect() == 1
    assert sorted(uploads.storage.objects) == sorted([named.key, fresh.key])
    with pytest.raises(NotFound):
        await uploads.get(ALICE, gone.id)
    await store.remove_job("j")
    assert await uploads.collect() == 1


async def test_a_deletion_that_failed_is_done_the_next_time(uploads, store, monkeypatch):
    upload = await uploads.receive(ALICE, chunked(GOOD))
    await expire(store, upload.id)
    with monkeypatch.context() as patched:

        async def failing(key):
            raise StorageError("away")

        patched.setattr(uploads.storage, "delete", failing)
        assert await uploads.collect() == 0
    with pytest.raises(NotFound):
        await uploads.get(ALICE, upload.id)
    assert await uploads.collect() == 1
    assert await nothing_is_left(uploads)


async def expire(store: JobStore, *upload_ids: str) -> None:
    from sqlalchemy import update

    from kbatch_server.store.orm import uploads

    statement = update(uploads).where(uploads.c.id.in_(upload_ids))
    statement = statement.values(expires_at=utcnow() - timedelta(seconds=1))
    await store._database.write(lambda connection: connection.execute(statement))


# --- what a good ZIP is


async def check(content: bytes) -> None:
    async def read(start: int, length: int) -> AsyncIterator[bytes]:
        yield content[start : start + length]

    await archive.check_archive(len(content), read)


async def refusal(content: bytes) -> str:
    with pytest.raises(KBatchError) as refused:
        await check(content)
    assert refused.value.status == 400
    assert refused.value.details == [{"field": "file", "message": refused.value.message}]
    return refused.value.message


def entry(name: str, *, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def patched(content: bytes, **fields: int) -> bytes:
    """Return a ZIP whose first entry says something else about itself in the directory."""
    offsets = {
        "flag_bits": (8, "<H"),
        "compress_size": (20, "<L"),
        "file_size": (24, "<L"),
        "place": (42, "<L"),
    }
    changed = bytearray(content)
    at = changed.index(b"PK\x01\x02")
    for field, value in fields.items():
        offset, form = offsets[field]
        struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)


async def test_zips_as_people_make_them_are_good():
    folder = entry("data/", mode=stat.S_IFDIR | 0o755)
    await check(make_zip((folder, b""), (entry("data/ü x.csv", mode=stat.S_IFREG | 0o644), b"1")))
    await check(make_zip(("main..py", b""), ("a/..b/c", b""), (".hidden", b"")))
    await check(make_zip(("zeros", bytes(5 * 2**20))))  # compresses well, and is small
    with_comment = io.BytesIO(GOOD)
    with zipfile.ZipFile(with_comment, "a") as made:
        made.comment = b"c" * 65535
    await check(with_comment.getvalue())


async def test_a_directory_longer_than_the_first_read_is_read_in_bounds(monkeypatch):
    content = make_zip(*[(f"{i:05}" + "n" * 100, b"") for i in range(3000)])
    reads = []

    async def read(start: int, length: int) -> AsyncIterator[bytes]:
        reads.append(length)
        yield content[start : start + length]

    await archive.check_archive(len(content), read)
    assert len(reads) == 2
    assert max(reads) < len(content)
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 200_000)
    assert "too many entries" in await refusal(content)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2999)
    assert "more than 2,999 entries" in await refusal(content)


async def test_what_is_no_zip_is_refused():
    for content in (b"", b"PK", b"x" * 100, b"PK\x05\x06", GOOD[1000:]):
        assert await refusal(content) == "The submitted file must be a ZIP archive."


async def test_a_zip_that_was_cut_off_is_refused():
    for cut in (5, 40, len(GOOD) // 2, len(GOOD) - 30, len(GOOD) - 1):
        assert await refusal(GOOD[:cut]) == "The ZIP archive is damaged: was it cut off?"
    middle_missing = GOOD[:10] + GOOD[20:]
    assert await refusal(middle_missing) == "The ZIP archive is damaged: was it cut off?"


async def test_a_zip_without_files_is_refused():
    for content in (make_zip(), make_zip(("folder/", b""))):
        assert await refusal(content) == "The ZIP archive has no files."


@pytest.mark.parametrize("name", ["/etc/passwd", "\\\\host\\x", "C:\\x", "c:x"])
async def test_an_absolute_path_is_refused(name):
    message = await refusal(make_zip(("good", b""), (name, b"")))
    assert message == f"The ZIP archive's entry {name!r} has an absolute path."


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a\\..\\x", ".."])
async def test_a_path_that_leads_out_is_refused(name):
    assert "has '..' in its path" in await refusal(make_zip((name, b"")))


async def test_a_link_and_a_device_are_refused():
    link = make_zip((entry("evil", mode=stat.S_IFLNK | 0o777), b"/etc/passwd"))
    assert "'evil' is a link" in await refusal(link)
    device = make_zip((entry("evil", mode=stat.S_IFCHR | 0o666), b""))
    assert "'evil' is neither a file nor a folder" in await refusal(device)


async def test_an_encrypted_entry_is_refused():
    assert "'main.py' is encrypted" in await refusal(patched(GOOD, flag_bits=0x1))


async def test_a_compression_that_busybox_does_not_know_is_refused():
    assert "use the usual one" in await refusal(make_zip(("x", b"x"), compress_type=zipfile.ZIP_LZMA))


async def test_a_bomb_is_refused():
    one = patched(GOOD, file_size=200 * 2**20)
    assert "'main.py' is more than 200 times larger" in await refusal(one)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as made:
        for i in range(110):
            made.writestr(f"f{i}", b"x")
    content = bytearray(many.getvalue())
    at = -1
    for _ in range(110):  # each says just less than the size from which on the ratio holds
        at = content.index(b"PK\x01\x02", at + 1)
        struct.pack_into("<L", content, at + 24, 100 * 2**20 - 1)
    assert "bytes when unpacked; its largest entry, 'f" in await refusal(bytes(content))


async def test_entries_that_share_their_bytes_are_refused():
    content = make_zip(("a", b"x" * 500), ("b", b"y" * 500))
    first = content.index(b"PK\x01\x02")
    at = content.index(b"PK\x01\x02", first + 1)
    overlapping = content[: at + 42] + struct.pack("<L", 3) + content[at + 46 :]
    assert "overlaps another" in await refusal(overlapping)
    assert "overlaps another" in await refusal(patched(GOOD, compress_size=5000))
    assert "damaged" in await refusal(patched(make_zip(("a", b"x")), compress_size=5000))


async def test_any_change_of_a_byte_is_good_or_refused_and_never_a_crash():
    for at in range(len(GOOD)):
        for value in (0x00, 0xFF):
            changed = GOOD[:at] + bytes([value]) + GOOD[at + 1 :]
            with contextlib.suppress(InvalidRequest):
                await check(changed)
