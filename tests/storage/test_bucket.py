"""What S3Storage and GCSStorage promise besides the contract: nothing left, no secrets, plain words."""

from __future__ import annotations

import asyncio
import sys
import urllib.parse
from collections.abc import AsyncIterator

import pytest

from kbatch_server.storage.base import ObjectNotFound, StorageError
from kbatch_server.storage.objectstore import GCSStorage, S3Storage
from tests.support.storages import chunked, list_keys, make_service_account

MIB = 2**20


@pytest.fixture
async def s3(s3server):
    storage = S3Storage(**s3server.settings())
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)


async def test_an_upload_that_fails_leaves_no_part_in_the_bucket(s3, s3server):
    before = s3server.find_files()
    with pytest.raises(ValueError, match="stop"):
        await s3.write("failed", chunked(*[b"x" * MIB] * 17, then=ValueError("stop")))
    assert s3server.find_files() == before


@pytest.mark.parametrize("sent", [6, 17])
async def test_an_upload_that_is_cancelled_leaves_no_part_in_the_bucket(s3, s3server, sent):
    before = s3server.find_files()
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(sent):
            yield b"x" * MIB
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(s3.write("cancelled", endless()))
    await asyncio.wait_for(begun.wait(), 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert s3server.find_files() == before


async def test_everything_is_in_the_folder_of_the_bucket(s3server):
    storage = S3Storage(**s3server.settings(), prefix="/some/folder/")
    await storage.open()
    await storage.write("uploads/x", chunked(b"x"))
    assert (s3server.folder / s3server.bucket / "some/folder/uploads/x").read_bytes() == b"x"
    assert await list_keys(storage, "uploads/") == ["uploads/x"]
    await storage.close()


async def test_what_is_not_an_object_of_ours_is_not_listed(s3, s3server):
    folder = s3server.folder / s3server.bucket / "foreign"
    folder.mkdir()
    for name in ("Notes.txt", "b", "ü"):
        (folder / name).touch()
    assert await list_keys(s3, "foreign/") == ["foreign/b"]


async def test_an_error_says_what_is_wrong_and_no_secret(s3server):
    settings = s3server.settings() | {"secret_access_key": "a-wrong-secret"}
    storage = S3Storage(**settings)
    await storage.open()
    host = s3server.endpoint.removeprefix("http://")
    for call in (
        storage.write("x", chunked(b"x")),
        storage.write("x", chunked(b"x" * 6 * MIB)),
        anext(storage.read("x")),
        storage.get_size("x"),
        storage.delete("x"),
        list_keys(storage, ""),
    ):
        with pytest.raises(
            StorageError, match=rf"^S3 at {host} answered 403( SignatureDoesNotMatch)?$"
        ) as refused:
            await call
        assert not isinstance(refused.value, ObjectNotFound)
        assert refused.value.__cause__ is None
    await storage.close()


async def test_a_bucket_that_is_not_there_is_not_an_object_that_is_not_there(s3server):
    storage = S3Storage(**s3server.settings() | {"bucket": "none"})
    await storage.open()
    for call in (
        storage.write("x", chunked(b"x")),
        anext(storage.read("x")),
        storage.get_size("x"),
        storage.delete("x"),
        list_keys(storage, ""),
    ):
        with pytest.raises(StorageError, match="answered 404 NoSuchBucket") as refused:
            await call
        assert not isinstance(refused.value, ObjectNotFound)
    await storage.close()


async def test_the_settings_come_from_the_environment(s3server, monkeypatch):
    settings = s3server.settings()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings.pop("access_key_id"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings.pop("secret_access_key"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage = S3Storage(**settings)
    await storage.open()
    await storage.write("from-environment", chunked(b"x"))
    assert await storage.get_size("from-environment") == 1
    assert storage.sign_urls
    await storage.close()


@pytest.mark.parametrize(
    ("storage_class", "settings", "said"),
    [
        (S3Storage, {"bucket": ""}, "S3Storage.bucket must be set"),
        (S3Storage, {"secret_access_key": ""}, "S3Storage.secret_access_key must be set if"),
        (S3Storage, {"access_key_id": ""}, "S3Storage.access_key_id must be set if"),
        (S3Storage, {"endpoint": "http://x"}, "S3Storage.endpoint must begin with https://"),
        (S3Storage, {"endpoint_for_jobs": "x"}, "S3Storage.endpoint_for_jobs must begin with https://"),
        (S3Storage, {"ca_file": "/nothere.pem"}, "S3Storage.ca_file: No such file or directory"),
        (GCSStorage, {"bucket": ""}, "GCSStorage.bucket must be set"),
        (GCSStorage, {"service_account_key": "k-secret"}, "GCSStorage.service_account_key is not the JSON"),
        (GCSStorage, {"service_account_key": '"k-secret"'}, "GCSStorage.service_account_key is not the JSON"),
        (GCSStorage, {"service_account_file": "/nothere"}, "GCSStorage.service_account_file: No such file"),
    ],
)
async def test_a_wrong_setting_is_named(storage_class, settings, said):
    right = {"bucket": "b"}
    if storage_class is S3Storage:
        right |= {"access_key_id": "k", "secret_access_key": "k-secret"}
    with pytest.raises(StorageError, match=said) as refused:
        await storage_class(**right | settings).open()
    assert "k-secret" not in str(refused.value)


async def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    for storage in (S3Storage(bucket="b"), GCSStorage(bucket="b")):
        with pytest.raises(StorageError, match=r"pip install kbatch-server\[s3,gcs\]"):
            await storage.open()


# --- URLs, as they are signed


async def sign(storage, seconds: int = 60) -> tuple[str, str, dict[str, str]]:
    """Return host, path and query of a URL for ``uploads/x``."""
    await storage.open()
    url = urllib.parse.urlsplit(await storage.make_url("uploads/x", expires_in_seconds=seconds))
    await storage.close()
    assert url.scheme == "https"
    return url.netloc, url.path, dict(urllib.parse.parse_qsl(url.query))


@pytest.mark.parametrize(
    ("settings", "host", "path"),
    [
        ({}, "b.s3.eu-central-1.amazonaws.com", "/uploads/x"),
        ({"path_style": True}, "s3.eu-central-1.amazonaws.com", "/b/uploads/x"),
        ({"prefix": "p/q"}, "b.s3.eu-central-1.amazonaws.com", "/p/q/uploads/x"),
        ({"endpoint": "https://s3.example.org:9000/"}, "s3.example.org:9000", "/b/uploads/x"),
        ({"endpoint": "https://s3.example.org", "path_style": False}, "b.s3.example.org", "/uploads/x"),
        ({"endpoint": "https://in", "endpoint_for_jobs": "https://out"}, "out", "/b/uploads/x"),
    ],
)
async def test_the_url_of_an_object_in_s3(settings, host, path):
    storage = S3Storage(
        bucket="b", region="eu-central-1", access_key_id="id", secret_access_key="a-secret", **settings
    )
    found_host, found_path, query = await sign(storage)
    assert (found_host, found_path) == (host, path)
    assert query["X-Amz-Expires"] == "60"
    assert query["X-Amz-Credential"].startswith("id/")
    assert "a-secret" not in str(query)


async def test_a_url_is_good_for_a_week_at_most():
    storage = S3Storage(bucket="b", access_key_id="id", secret_access_key="secret")
    assert (await sign(storage, 30 * 86400))[2]["X-Amz-Expires"] == str(7 * 86400)


async def test_urls_are_not_signed_with_what_ends_before_them_or_where_jobs_cannot_go(monkeypatch):
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
    key = {"access_key_id": "id", "secret_access_key": "secret"}
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    temporary = S3Storage(bucket="b", **key)
    assert not temporary.sign_urls
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    for storage in (
        temporary,
        S3Storage(bucket="b"),
        S3Storage(bucket="b", **key, sign_urls=False),
        GCSStorage(bucket="b"),
    ):
        assert await storage.make_url("x", expires_in_seconds=60) is None


async def test_the_url_of_an_object_in_google_cloud_storage(tmp_path):
    account = make_service_account()
    file = tmp_path / "account.json"
    file.write_text(account)
    for setting in ({"service_account_key": account}, {"service_account_file": str(file)}):
        host, path, query = await sign(GCSStorage(bucket="b", prefix="p", **setting))
        assert (host, path) == ("storage.googleapis.com", "/b/p/uploads/x")
        assert query["X-Goog-Expires"] == "60"
        assert query["X-Goog-Credential"].startswith("kbatch@example.org/")
