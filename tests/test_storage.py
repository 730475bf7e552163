"""The contract of a Storage, held against each one that there is; and what each promises besides."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azurite import ACCOUNT, KEY, find_azurite, running_azurite
from doubles import MemoryStorage
from s3server import S3Server, find_s3server, running_s3server
from traitlets.config import Config

from kbatch_server.storage.azure import AzureBlobStorage
from kbatch_server.storage.base import ObjectNotFound, Storage, StorageError, StorageFull
from kbatch_server.storage.local import FileStorage
from kbatch_server.storage.objectstore import S3Storage

MIB = 2**20


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    """The URL of an Azurite's account, which has a container ``code``."""
    program = find_azurite()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("npm is needed, to install Azurite")
        pytest.skip("npm is needed, to install Azurite")
    with running_azurite(program, tmp_path_factory.mktemp("azurite")) as endpoint:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient(endpoint, {"account_name": ACCOUNT, "account_key": KEY}) as client:
            client.create_container("code")
        yield endpoint


@pytest.fixture(scope="module")
def s3server(tmp_path_factory) -> S3Server:
    """An S3 server with an empty bucket."""
    program = find_s3server()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Go is needed, to build the S3 server")
        pytest.skip("Go is needed, to build the S3 server")
    with running_s3server(program, tmp_path_factory.mktemp("s3server")) as server:
        yield server


def make_sas_token(permission: str = "rcwdl") -> str:
    from datetime import timedelta

    from azure.storage.blob import generate_container_sas

    from kbatch_server.models import utcnow

    return generate_container_sas(
        ACCOUNT,
        "code",
        account_key=KEY,
        permission=permission,
        expiry=utcnow() + timedelta(hours=1),
    )


@pytest.fixture(params=["memory", "file", "docs", "azure-key", "azure-sas", "s3"])
async def storage(request, tmp_path):
    if request.param == "memory":
        storage = MemoryStorage()
    elif request.param == "file":
        storage = FileStorage(root=str(tmp_path / "storage"))
    elif request.param == "docs":
        storage = load_documented_class()(path=str(tmp_path / "objects.sqlite"))
    elif request.param == "s3":
        storage = S3Storage(**request.getfixturevalue("s3server").settings())
    else:
        credential = {"account_key": KEY} if request.param == "azure-key" else {"sas_token": make_sas_token()}
        endpoint = request.getfixturevalue("azurite")
        storage = AzureBlobStorage(account_name=ACCOUNT, container="code", endpoint=endpoint, **credential)
    await storage.open()
    yield storage
    await storage.close()


def load_documented_class() -> type[Storage]:
    """Return the storage that docs/storage.md has as its example, made of that very text."""
    page = (Path(__file__).parent.parent / "docs/storage.md").read_text()
    [example] = [block for block in page.split("```python\n")[1:] if "(Storage):" in block]
    namespace = {"__name__": "example", "c": Config()}
    exec(example.partition("```")[0], namespace)
    return namespace["SQLiteStorage"]


async def chunked(*chunks: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


async def read(storage, key: str, **kwargs) -> bytes:
    return b"".join([piece async for piece in storage.read(key, **kwargs)])


# --- the contract


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


# --- files


@pytest.fixture
async def files(tmp_path):
    storage = FileStorage(root=str(tmp_path / "a/storage"))
    await storage.open()
    return storage


def find_files(storage: FileStorage) -> list[str]:
    return sorted(name for _, _, names in os.walk(storage.root) for name in names)


async def test_a_write_that_fails_leaves_no_file(files):
    with pytest.raises(ValueError, match="stop"):
        await files.write("uploads/x", chunked(b"x" * 3 * MIB, then=ValueError("stop")))
    assert find_files(files) == []


async def test_a_write_that_is_cancelled_while_a_thread_is_at_it_leaves_no_file(files, monkeypatch):
    begun, go_on = asyncio.Event(), threading.Event()
    loop, write = asyncio.get_running_loop(), os.write

    def slow_write(descriptor: int, data: bytes) -> int:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return write(descriptor, data)

    monkeypatch.setattr("kbatch_server.storage.local.os.write", slow_write)
    writing = asyncio.create_task(files.write("uploads/x", chunked(b"x")))
    await asyncio.wait_for(begun.wait(), 10)
    writing.cancel()
    loop.call_later(0.01, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert find_files(files) == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".incoming/x", "A", "a b", "ü"]
)
async def test_a_key_that_is_no_key_reaches_no_file(files, key):
    for call in (
        files.write(key, chunked(b"x")),
        files.get_size(key),
        files.delete(key),
        anext(files.read(key)),
    ):
        with pytest.raises(StorageError, match="cannot be the key"):
            await call
    assert find_files(files) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_said_plainly_and_nothing_stays(files, monkeypatch, code):
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("kbatch_server.storage.local.os.write", full)
    with pytest.raises(StorageFull, match="the storage is full"):
        await files.write("uploads/x", chunked(b"x"))
    assert find_files(files) == []


async def test_another_failure_of_the_disk_is_a_storage_error(files, monkeypatch):
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("kbatch_server.storage.local.os.fsync", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        await files.write("uploads/x", chunked(b"x"))
    assert find_files(files) == []


async def test_what_a_killed_process_left_is_cleared_away_and_what_is_being_written_is_not(files):
    incoming = Path(files.root, ".incoming")
    for name in ("old", "new"):
        (incoming / name).touch()
    os.utime(incoming / "old", (0, 0))
    await FileStorage(root=files.root).open()
    assert find_files(files) == ["new"]


async def test_the_folder_is_private(files):
    await files.write("uploads/x", chunked(b"x"))
    for path in (files.root, f"{files.root}/uploads", f"{files.root}/uploads/x"):
        assert os.stat(path).st_mode & 0o077 == 0


# --- Azure


def fetch(url: str, method: str = "GET") -> bytes:
    data = b"changed" if method == "PUT" else None
    request = urllib.request.Request(url, data=data, method=method, headers={"x-ms-blob-type": "BlockBlob"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.read()


@pytest.fixture
async def azure(azurite):
    storage = AzureBlobStorage(account_name=ACCOUNT, container="code", endpoint=azurite, account_key=KEY)
    await storage.open()
    yield storage
    await storage.close()


async def test_a_url_reads_one_object_and_no_other_and_changes_nothing_and_expires(azure):
    await azure.write("uploads/mine", chunked(b"code"))
    await azure.write("uploads/other", chunked(b"other"))
    url = await azure.make_url("uploads/mine", expires_in_seconds=60)
    assert await asyncio.to_thread(fetch, url) == b"code"
    expired = await azure.make_url("uploads/mine", expires_in_seconds=-60)
    for wrong, method in (
        (url.replace("uploads/mine", "uploads/other"), "GET"),
        (url, "PUT"),
        (url, "DELETE"),
        (expired, "GET"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(fetch, wrong, method)
        assert refused.value.code == 403
        refused.value.close()
    assert await read(azure, "uploads/mine") == b"code"


async def test_the_sas_token_of_the_account_is_never_handed_out(azurite):
    storage = AzureBlobStorage(
        account_name=ACCOUNT, container="code", endpoint=azurite, sas_token=make_sas_token()
    )
    await storage.open()
    await storage.write("x", chunked(b"x"))
    assert await storage.make_url("x", expires_in_seconds=60) is None
    await storage.close()


async def test_an_error_says_what_is_wrong_and_no_secret(azurite):
    wrong = make_sas_token().replace("sig=", "sig=AAAA")
    wrong_key = "A" * 84 + "bb=="
    for setting, secret in ({"sas_token": wrong}, wrong), ({"account_key": wrong_key}, wrong_key):
        storage = AzureBlobStorage(account_name=ACCOUNT, container="code", endpoint=azurite, **setting)
        await storage.open()
        for call in (storage.write("x", chunked(b"x")), anext(storage.read("x")), storage.delete("x")):
            with pytest.raises(StorageError, match="Azure Blob Storage answered 403") as refused:
                await call
            assert not isinstance(refused.value, ObjectNotFound)
            assert secret not in str(refused.value)
            assert refused.value.__cause__ is None
        await storage.close()


async def test_a_container_that_is_not_there_is_not_an_object_that_is_not_there(azurite):
    storage = AzureBlobStorage(account_name=ACCOUNT, container="none", endpoint=azurite, account_key=KEY)
    await storage.open()
    with pytest.raises(StorageError, match="ContainerNotFound") as refused:
        await anext(storage.read("x"))
    assert not isinstance(refused.value, ObjectNotFound)
    await storage.close()


async def test_an_azure_that_does_not_answer_is_a_storage_error(unused_tcp_port):
    endpoint = f"http://127.0.0.1:{unused_tcp_port}/{ACCOUNT}"
    storage = AzureBlobStorage(account_name=ACCOUNT, container="code", endpoint=endpoint, account_key=KEY)
    await storage.open()
    storage._client._config.retry_policy.total_retries = 0
    with pytest.raises(StorageError, match="does not answer"):
        await storage.get_size("x")
    await storage.close()


async def test_the_settings_come_from_the_environment_and_a_missing_one_is_named(monkeypatch):
    for name, value in (("ACCOUNT_NAME", "acc"), ("CONTAINER", "cont"), ("SAS_TOKEN", "?sv=1&sig=x")):
        monkeypatch.setenv(f"AZURE_{name}", value)
    storage = AzureBlobStorage()
    assert storage.endpoint == "https://acc.blob.core.windows.net"
    await storage.open()
    await storage.close()
    monkeypatch.delenv("AZURE_SAS_TOKEN")
    with pytest.raises(StorageError, match="AZURE_SAS_TOKEN"):
        await AzureBlobStorage().open()
    monkeypatch.delenv("AZURE_CONTAINER")
    with pytest.raises(StorageError, match=r"AzureBlobStorage.container \(or AZURE_CONTAINER"):
        await AzureBlobStorage().open()


async def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.storage.blob.aio", None)
    with pytest.raises(StorageError, match=r"pip install kbatch-server\[azure\]"):
        await AzureBlobStorage().open()
