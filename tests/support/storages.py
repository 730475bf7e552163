"""What tests of storages share: bytes in chunks, tokens for Azure, servers that are full or do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from kbatch_server.models.times import utcnow
from kbatch_server.storage.base import Storage
from tests.support.azurite import ACCOUNT, KEY

CONTAINER = "code"


async def chunked(*chunks: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


async def read(storage: Storage, key: str, **kwargs) -> bytes:
    return b"".join([piece async for piece in storage.read(key, **kwargs)])


async def list_keys(storage: Storage, prefix: str) -> list[str]:
    return sorted([each.key async for each in storage.list(prefix)])


def make_sas_token(permission: str = "rcwdl") -> str:
    """Return a token for Azurite's container, good for an hour."""
    from azure.storage.blob import generate_container_sas

    return generate_container_sas(
        ACCOUNT,
        CONTAINER,
        account_key=KEY,
        permission=permission,
        expiry=utcnow() + timedelta(hours=1),
    )


def make_container(endpoint: str, **kwargs: object) -> None:
    """Make the container in an Azurite that has just been started."""
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": ACCOUNT, "account_key": KEY}
    with BlobServiceClient(endpoint, credential, **kwargs) as client:
        client.create_container(CONTAINER)


def fetch(url: str, method: str = "GET", ca_file: Path | None = None) -> bytes:
    """Send the request that a job, or who has got its URL, may send; returns the body of the answer."""
    data = b"changed" if method == "PUT" else None
    request = urllib.request.Request(url, data=data, method=method, headers={"x-ms-blob-type": "BlockBlob"})
    context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
    with urllib.request.urlopen(request, timeout=10, context=context) as reply:
        return reply.read()


def make_certificate(folder: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """Make a certificate for an address of this machine that signs itself; returns its file and its key's."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = utcnow()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def make_service_account() -> str:
    """Return a key for Google Cloud Storage that nobody knows, as JSON; what it signs needs no network."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    said = {"private_key": key.decode(), "client_email": "kbatch@example.org", "private_key_id": "1"}
    return json.dumps(said | {"type": "service_account", "client_id": "2"})


class StaticCredential:
    """What azure-identity would find: it gives tokens that Azurite takes, which looks at no signature."""

    def __init__(self, **kwargs: object) -> None:
        self.count = 0

    async def get_token(self, *scopes: str, **kwargs: object):
        import jwt
        from azure.core.credentials import AccessToken

        self.count += 1
        now = int(utcnow().timestamp())
        said = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000001/",
            "tid": "00000000-0000-0000-0000-000000000001",
            "oid": "00000000-0000-0000-0000-000000000002",
            "nbf": now - 60,
            "iat": now - 60,
            "exp": now + 3600,
            "ver": "1.0",
        }
        return AccessToken(jwt.encode(said, "x" * 32), now + 3600)

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """Run a server that gives each request the same answer, or none at all, and yield its URL."""
    asked: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if answer is None:
                await asyncio.Event().wait()
            length = head.partition(b"content-length:")[2].partition(b"\r")[0]
            await reader.readexactly(int(length or 0))
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def is_recent(time: datetime) -> bool:
    return abs(utcnow() - time) < timedelta(minutes=5)
