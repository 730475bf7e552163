"""What holds for each storage that is a service: it is away, slow or full; its URLs read one object."""

from __future__ import annotations

import asyncio
import time
import urllib.error
from contextlib import asynccontextmanager

import pytest

from kbatch_server.storage.azure import AzureBlobStorage
from kbatch_server.storage.base import ObjectNotFound, StorageError, StorageFull
from kbatch_server.storage.objectstore import GCSStorage, S3Storage
from tests.support.azurite import ACCOUNT, KEY, find_azurite, running_azurite
from tests.support.s3server import find_s3server, running_s3server
from tests.support.storages import (
    CONTAINER,
    StaticCredential,
    answering,
    chunked,
    fetch,
    list_keys,
    make_container,
    make_service_account,
    read,
)

MIB = 2**20


def make_azure(endpoint: str, **settings: object) -> AzureBlobStorage:
    if not endpoint.endswith(ACCOUNT):
        endpoint = f"{endpoint}/{ACCOUNT}"
    return AzureBlobStorage(
        account_name=ACCOUNT, container=CONTAINER, endpoint=endpoint, **{"account_key": KEY} | settings
    )


def make_s3(endpoint: str, **settings: object) -> S3Storage:
    given = {"bucket": "code", "access_key_id": "id", "secret_access_key": "secret", "allow_http": True}
    return S3Storage(endpoint=endpoint, **given | settings)


def make_gcs(endpoint: str, **settings: object) -> GCSStorage:
    given = {"bucket": "code", "service_account_key": make_service_account(), "allow_http": True}
    return GCSStorage(endpoint=endpoint, **given | settings)


STORAGES = {"azure": make_azure, "s3": make_s3, "gcs": make_gcs}


@asynccontextmanager
async def opened(storage):
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


def make_calls(storage):
    """Return a call of each method that asks the service something."""
    return {
        "write": storage.write("x", chunked(b"x")),
        "write much": storage.write("x", chunked(*[b"x" * MIB] * 12)),
        "read": anext(storage.read("x")),
        "get_size": storage.get_size("x"),
        "delete": storage.delete("x"),
        "list": list_keys(storage, ""),
    }


async def fail(storage) -> dict[str, BaseException]:
    """Return how each method fails, all of them at the same time."""
    calls = make_calls(storage)
    results = await asyncio.gather(*calls.values(), return_exceptions=True)
    return dict(zip(calls, results, strict=True))


@pytest.mark.parametrize("kind", ["azure", "s3"])
async def test_a_service_that_is_stopped_is_a_storage_error(kind, tmp_path):
    """A real one, that went away while it was used."""
    if kind == "azure":
        with running_azurite(find_azurite(), tmp_path) as endpoint:
            make_container(endpoint)
            storage = make_azure(endpoint, timeout_seconds=10)
            await storage.open()
            await storage.write("x", chunked(b"x"))
    else:
        with running_s3server(find_s3server(), tmp_path) as server:
            storage = S3Storage(**server.settings(), timeout_seconds=10)
            await storage.open()
            await storage.write("x", chunked(b"x"))
    started = time.monotonic()
    for name, error in (await fail(storage)).items():
        assert isinstance(error, StorageError), name
        assert not isinstance(error, ObjectNotFound), name
        assert "does not respond" in str(error), name
    assert time.monotonic() - started < 30
    await storage.close()


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_service_that_is_silent_is_given_up_in_time(kind):
    async with answering(None) as endpoint, opened(STORAGES[kind](endpoint, timeout_seconds=1)) as storage:
        started = time.monotonic()
        for name, error in (await fail(storage)).items():
            assert isinstance(error, StorageError), name
            assert "not respond" in str(error), name
        assert time.monotonic() - started < 10


FULL = b"<Error><Code>InsufficientStorage</Code><Message>No space left on device.</Message></Error>"


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_service_that_is_full_says_so(kind):
    answer = b"HTTP/1.1 507 Insufficient Storage\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        FULL
    )
    async with answering(answer + FULL) as endpoint, opened(STORAGES[kind](endpoint)) as storage:
        failed = await fail(storage)
        for name in ("write", "write much"):
            assert isinstance(failed[name], StorageFull), name
            assert "the storage is full" in str(failed[name])


@pytest.mark.parametrize("kind", STORAGES)
async def test_the_chunks_error_is_passed_on_also_when_the_service_fails_too(kind):
    async with answering(None) as endpoint, opened(STORAGES[kind](endpoint, timeout_seconds=1)) as storage:
        with pytest.raises(ValueError, match="stop"):
            await storage.write("x", chunked(b"x" * MIB, then=ValueError("stop")))


# --- signed URLs


@pytest.fixture(params=["azure-key", "azure-identity", "s3"])
async def signing(request, monkeypatch):
    """A storage that signs URLs, and the file with its server's certificate or None."""
    ca_file = None
    if request.param == "s3":
        storage = S3Storage(**request.getfixturevalue("s3server").settings())
    elif request.param == "azure-key":
        storage = make_azure(request.getfixturevalue("azurite"))
    else:
        endpoint, ca_file = request.getfixturevalue("azurite_tls")
        monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", StaticCredential)
        storage = make_azure(endpoint, account_key="", use_identity=True, ca_file=str(ca_file))
    async with opened(storage):
        yield storage, ca_file


async def test_a_url_reads_one_object_and_no_other_and_changes_nothing_and_expires(signing):
    storage, ca_file = signing
    await storage.write("uploads/mine", chunked(b"code"))
    await storage.write("uploads/other", chunked(b"other"))
    url = await storage.make_url("uploads/mine", expires_in_seconds=60)
    assert await asyncio.to_thread(fetch, url, "GET", ca_file) == b"code"
    short = await storage.make_url("uploads/mine", expires_in_seconds=1)
    for wrong, method in (
        (url.replace("uploads/mine", "uploads/other"), "GET"),
        (url, "PUT"),
        (url, "DELETE"),
        (url.partition("?")[0], "GET"),
    ):
        assert await refusal(wrong, method, ca_file) in {403, 404, 409}
    for _ in range(100):
        if await refusal(short, "GET", ca_file) == 403:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the URL does not expire")
    assert await read(storage, "uploads/mine") == b"code"


async def refusal(url: str, method: str, ca_file) -> int:
    """Return the status of the answer, 200 when it is not refused."""
    try:
        await asyncio.to_thread(fetch, url, method, ca_file)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code
    return 200


async def test_a_url_names_the_host_that_jobs_reach(s3server, azurite):
    for endpoint, storage in (
        (s3server.endpoint, lambda **kw: S3Storage(**s3server.settings(), **kw)),
        (azurite, lambda **kw: make_azure(azurite, **kw)),
    ):
        public = endpoint.replace("127.0.0.1", "localhost")
        async with opened(storage(endpoint_for_jobs=public)) as opened_storage:
            await opened_storage.write("x", chunked(b"code"))
            url = await opened_storage.make_url("x", expires_in_seconds=60)
            assert url.startswith(public)
            assert await asyncio.to_thread(fetch, url) == b"code"
        async with opened(storage(sign_urls=False)) as opened_storage:
            assert await opened_storage.make_url("x", expires_in_seconds=60) is None
