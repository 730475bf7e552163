"""What AzureBlobStorage promises besides the contract: identities, no secrets, plain words."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from kbatch_server.models.times import utcnow
from kbatch_server.storage.azure import AzureBlobStorage
from kbatch_server.storage.base import ObjectNotFound, StorageError
from tests.support.azurite import ACCOUNT, KEY
from tests.support.storages import StaticCredential, chunked, list_keys, make_sas_token, read


@pytest.fixture
async def azure(azurite):
    storage = AzureBlobStorage(account_name=ACCOUNT, container="code", endpoint=azurite, account_key=KEY)
    await storage.open()
    yield storage
    await storage.close()


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


async def test_a_token_that_may_not_list_says_so_when_it_has_to(azurite):
    storage = AzureBlobStorage(
        account_name=ACCOUNT, container="code", endpoint=azurite, sas_token=make_sas_token("rcwd")
    )
    await storage.open()
    await storage.write("x", chunked(b"x"))
    assert await read(storage, "x") == b"x"
    with pytest.raises(StorageError, match=r"403 .*AzureBlobStorage.sas_token .* permission to list \(l\)"):
        await list_keys(storage, "")
    await storage.close()


# --- identities


@pytest.fixture
async def identified(azurite_tls, monkeypatch):
    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", StaticCredential)
    monkeypatch.setenv("AZURE_CLIENT_ID", "00000000-0000-0000-0000-000000000003")
    endpoint, ca_file = azurite_tls
    storage = AzureBlobStorage(
        account_name=ACCOUNT, container="code", endpoint=endpoint, ca_file=str(ca_file)
    )
    await storage.open()
    yield storage
    await storage.close()


async def test_one_key_signs_the_urls_of_an_identity_until_it_ends_before_them(identified, monkeypatch):
    asked = []
    ask = type(identified._service).get_user_delegation_key

    async def count(service, start, end, **kwargs):
        asked.append(end)
        return await ask(service, start, end, **kwargs)

    monkeypatch.setattr(type(identified._service), "get_user_delegation_key", count)
    for _ in range(3):
        assert "&sig=" in await identified.make_url("x", expires_in_seconds=3600)
    assert len(asked) == 1
    identified._delegation_ends_at = utcnow() + timedelta(minutes=59)
    await identified.make_url("x", expires_in_seconds=3600)
    assert len(asked) == 2
    # a week is what Azure allows
    url = await identified.make_url("x", expires_in_seconds=30 * 86400)
    assert len(asked) == 2
    assert f"se={(utcnow() + timedelta(days=7) - timedelta(minutes=5)):%Y-%m-%dT}" in url


async def test_an_identity_that_gets_no_token_says_what_to_set(azurite_tls, monkeypatch):
    from azure.core.exceptions import ClientAuthenticationError

    class NoCredential(StaticCredential):
        async def get_token(self, *scopes, **kwargs):
            raise ClientAuthenticationError(message="tried everything: secret-detail")

    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", NoCredential)
    endpoint, ca_file = azurite_tls
    storage = AzureBlobStorage(
        account_name=ACCOUNT, container="code", endpoint=endpoint, ca_file=str(ca_file), use_identity=True
    )
    await storage.open()
    for call in (storage.get_size("x"), storage.make_url("x", expires_in_seconds=60)):
        with pytest.raises(
            StorageError, match=r"^Azure issued no token: AzureBlobStorage.account_key"
        ) as failed:
            await call
        assert "secret-detail" not in str(failed.value)
    await storage.close()


@pytest.mark.parametrize("setting", [{"use_identity": True}, {"account_key": KEY}])
async def test_a_certificate_file_that_is_not_there_is_named(setting):
    storage = AzureBlobStorage(account_name=ACCOUNT, container="code", ca_file="/nothere.pem", **setting)
    with pytest.raises(StorageError, match=r"AzureBlobStorage.ca_file: file not found: '/nothere.pem'"):
        await storage.open()


@pytest.mark.slow
async def test_a_missing_package_for_identities_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
    storage = AzureBlobStorage(account_name=ACCOUNT, container="code", use_identity=True)
    with pytest.raises(StorageError, match=r"pip install kbatch-server\[azure\]"):
        await storage.open()
