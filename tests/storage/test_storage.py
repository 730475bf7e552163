"""The contract of a Storage, held against each one that there is."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from traitlets.config import Config

from kbatch_server.storage.azure import AzureBlobStorage
from kbatch_server.storage.base import ObjectNotFound, Storage, StorageError, StoredObject
from kbatch_server.storage.file import FileStorage
from kbatch_server.storage.objectstore import S3Storage
from tests.support.azurite import ACCOUNT, KEY
from tests.support.doubles import MemoryStorage
from tests.support.storages import (
    CONTAINER,
    StaticCredential,
    chunked,
    is_recent,
    list_keys,
    make_sas_token,
    read,
)

MIB = 2**20


def make_memory(request, folder: Path) -> Storage:
    return MemoryStorage()


def make_files(request, folder: Path) -> Storage:
    return FileStorage(root=str(folder / "storage"), max_bytes=2**30)


def make_documented(request, folder: Path) -> Storage:
    """Return the storage that docs/storage.md has as its example, made of that very text."""
    page = (Path(__file__).parents[2] / "docs/storage.md").read_text()
    [example] = [block for block in page.split("```python\n")[1:] if "(Storage):" in block]
    namespace = {"__name__": "example", "c": Config()}
    exec(example.partition("```")[0], namespace)
    return namespace["SQLiteStorage"](path=str(folder / "objects.sqlite"))


def make_azure(request, **credential: str) -> Storage:
    endpoint = request.getfixturevalue("azurite")
    return AzureBlobStorage(account_name=ACCOUNT, container=CONTAINER, endpoint=endpoint, **credential)


def make_azure_with_identity(request, folder: Path) -> Storage:
    endpoint, ca_file = request.getfixturevalue("azurite_tls")
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", StaticCredential)
    return AzureBlobStorage(
        account_name=ACCOUNT, container=CONTAINER, endpoint=endpoint, ca_file=str(ca_file), use_identity=True
    )


def make_s3(request, folder: Path, **settings: str) -> Storage:
    return S3Storage(**request.getfixturevalue("s3server").settings(), **settings)


STORAGES = {
    "memory": make_memory,
    "file": make_files,
    "docs": make_documented,
    "azure-key": lambda request, _: make_azure(request, account_key=KEY),
    "azure-sas": lambda request, _: make_azure(request, sas_token=make_sas_token()),
    "azure-identity": make_azure_with_identity,
    "s3": make_s3,
    "s3-prefix": lambda request, folder: make_s3(request, folder, prefix="a/folder"),
}


@pytest.fixture(params=STORAGES)
async def storage(request, tmp_path) -> AsyncIterator[Storage]:
    storage = STORAGES[request.param](request, tmp_path)
    await storage.open()
    yield storage
    await storage.close()


async def test_what_was_written_is_read(storage):
    content = os.urandom(5 * MIB + 3)
    pieces = [content[at : at + 700_001] for at in range(0, len(content), 700_001)]
    assert await storage.write("uploads/a-1.zip", chunked(*pieces)) == len(content)
    assert await storage.get_size("uploads/a-1.zip") == len(content)
    assert await read(storage, "uploads/a-1.zip") == content
    assert await read(storage, "uploads/a-1.zip", start=len(content) - 5) == content[-5:]
    assert await read(storage, "uploads/a-1.zip", start=3, length=2) == content[3:5]
    assert await read(storage, "uploads/a-1.zip", start=10, length=3 * MIB) == content[10 : 10 + 3 * MIB]


async def test_an_empty_object_and_the_edges_of_a_range(storage):
    assert await storage.write("empty", chunked()) == 0
    assert await storage.get_size("empty") == 0
    assert await read(storage, "empty") == b""
    await storage.write("small", chunked(b"abc"))
    assert await read(storage, "small", start=3) == b""
    assert await read(storage, "small", start=9, length=1) == b""
    assert await read(storage, "small", length=0) == b""
    assert await read(storage, "small", start=1, length=99) == b"bc"


async def test_an_older_object_is_replaced(storage):
    await storage.write("twice", chunked(b"a longer one"))
    await storage.write("twice", chunked(b"new"))
    assert await read(storage, "twice") == b"new"


async def test_what_is_not_there_is_said_before_the_first_piece(storage):
    with pytest.raises(ObjectNotFound):
        await storage.get_size("nothing")
    with pytest.raises(ObjectNotFound):
        await anext(storage.read("nothing"))
    with pytest.raises(ObjectNotFound):
        await anext(storage.read("nothing", start=5, length=5))


async def test_deleting_is_harmless_to_repeat(storage):
    await storage.write("deleted", chunked(b"x"))
    await storage.delete("deleted")
    await storage.delete("deleted")
    with pytest.raises(ObjectNotFound):
        await storage.get_size("deleted")


async def test_nothing_appears_when_the_chunks_fail_and_the_error_is_passed_on(storage):
    for error in (ConnectionResetError("the client went away"), ValueError("too large")):
        with pytest.raises(type(error), match=str(error)):
            await storage.write("failed", chunked(b"x" * 5 * MIB, then=error))
        with pytest.raises(ObjectNotFound):
            await storage.get_size("failed")


async def test_nothing_appears_when_the_task_is_cancelled(storage):
    half = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 5 * MIB
        half.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(storage.write("cancelled", endless()))
    await asyncio.wait_for(half.wait(), 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    with pytest.raises(ObjectNotFound):
        await storage.get_size("cancelled")


async def test_an_object_that_is_being_replaced_stays_whole_until_then(storage):
    await storage.write("replaced", chunked(b"old"))
    with pytest.raises(ValueError, match="stop"):
        await storage.write("replaced", chunked(b"x" * 5 * MIB, then=ValueError("stop")))
    assert await read(storage, "replaced") == b"old"


async def test_a_reader_that_stops_early_leaves_nothing_open(storage):
    await storage.write("long", chunked(b"x" * 5 * MIB))
    pieces = storage.read("long")
    assert await anext(pieces)
    await pieces.aclose()


async def test_a_reader_meanwhile_gets_the_old_object_or_the_new_one(storage):
    """As when a log is written again, with more at its end."""
    old = os.urandom(6 * MIB)
    new = old + os.urandom(MIB)
    await storage.write("grows", chunked(old))
    pieces = storage.read("grows")
    found = await anext(pieces)
    await storage.write("grows", chunked(new))
    async for piece in pieces:
        found += piece
    assert found in (old, new)
    assert await read(storage, "grows") == new


async def test_readers_while_an_object_grows_get_no_mixture(storage):
    content = os.urandom(2 * MIB)
    ends = range(64 * 1024, len(content), 256 * 1024)
    await storage.write("grows-often", chunked(content[: ends[0]]))
    is_over = asyncio.Event()

    async def keep_reading() -> int:
        count = 0
        while not is_over.is_set():
            found = await read(storage, "grows-often")
            assert len(found) in ends
            assert found == content[: len(found)]
            count += 1
            await asyncio.sleep(0)
        return count

    reading = asyncio.gather(keep_reading(), keep_reading())
    for end in ends:
        await storage.write("grows-often", chunked(content[:end]))
        await asyncio.sleep(0)
    is_over.set()
    assert min(await reading) > 0


async def test_two_that_write_one_key_leave_one_of_both_whole(storage):
    one, other = os.urandom(6 * MIB), os.urandom(6 * MIB)
    written = await asyncio.gather(
        storage.write("contested", chunked(one)),
        storage.write("contested", chunked(other)),
        return_exceptions=True,
    )
    # the first to finish takes the other's unfinished blocks away, in Azure
    assert len(one) in written
    assert all(isinstance(each, (int, StorageError)) for each in written)
    assert await read(storage, "contested") in (one, other)


@pytest.mark.parametrize("size", [3, 6 * MIB])
async def test_an_older_object_outlives_a_writer_that_is_cancelled(storage, size):
    await storage.write("kept", chunked(b"old"))
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * size
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(storage.write("kept", endless()))
    await asyncio.wait_for(begun.wait(), 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await read(storage, "kept") == b"old"


@pytest.mark.parametrize("size", [3, 6 * MIB])
async def test_a_writer_that_is_cancelled_at_the_very_end_leaves_the_old_object_or_the_new(storage, size):
    new = os.urandom(size)
    await storage.write("last", chunked(b"old"))

    async def cancel_at_the_end() -> AsyncIterator[bytes]:
        yield new
        writing.cancel()

    writing = asyncio.create_task(storage.write("last", cancel_at_the_end()))
    with pytest.raises(asyncio.CancelledError):
        await writing
    found = await read(storage, "last")
    assert found in (b"old", new)
    await storage.delete("last")
    with pytest.raises(ObjectNotFound):  # nothing comes after it was said to have ended
        await storage.get_size("last")


async def test_a_folder_lists_what_is_in_it(storage):
    folder = f"list-{secrets.token_hex(4)}"
    assert await list_keys(storage, f"{folder}/") == []
    for key in ("a", "b/c/d", "b/c.txt"):
        await storage.write(f"{folder}/{key}", chunked(key.encode()))
    await storage.write(f"{folder}-2/e", chunked(b"in another folder"))
    found = {each.key: each async for each in storage.list(f"{folder}/")}
    assert set(found) == {f"{folder}/a", f"{folder}/b/c/d", f"{folder}/b/c.txt"}
    each = found[f"{folder}/b/c/d"]
    assert each == StoredObject(each.key, 5, each.modified_at)
    assert all(is_recent(each.modified_at) for each in found.values())
    assert {*found, f"{folder}-2/e"} <= set(await list_keys(storage, ""))

    await storage.delete(f"{folder}/b/c/d")
    assert await list_keys(storage, f"{folder}/b/") == [f"{folder}/b/c.txt"]


async def test_a_list_of_many_pages_has_each_object_once(storage, monkeypatch):
    for module in ("file", "bucket", "azure"):
        monkeypatch.setattr(f"kbatch_server.storage.{module}.PAGE_OBJECTS", 3)
    folder = f"many-{secrets.token_hex(4)}"
    count = 8 if hasattr(storage, "root") or hasattr(storage, "endpoint") else 101
    keys = [f"{folder}/{number:03}" for number in range(count)]
    for key in keys:
        await storage.write(key, chunked(b"x"))
    assert await list_keys(storage, f"{folder}/") == keys


async def test_what_is_written_while_it_is_listed_is_not_held_up(storage):
    folder = f"busy-{secrets.token_hex(4)}"
    for number in range(4):
        await storage.write(f"{folder}/{number}", chunked(b"x"))
    async for each in storage.list(f"{folder}/"):
        await storage.delete(each.key)
    assert await list_keys(storage, f"{folder}/") == []
