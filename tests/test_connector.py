"""Connections of our HTTP clients: none of them is left open, whatever becomes of a request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import aiohttp
import pytest
from kubernetes.aio.client import Configuration

from kbatch_server.connector import Connector
from kbatch_server.launchers.kube.client import KubeClient
from kbatch_server.storage.azure import AzureBlobStorage
from tests.support.azurite import ACCOUNT, KEY
from tests.support.storages import make_certificate

HALF = (
    b"HTTP/1.1 200 OK\r\nETag: x\r\nx-ms-blob-type: BlockBlob\r\n"
    b"Content-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\nhalf!"
)


class Server:
    """Answers each request by HTTPS with half of an answer, and after that takes no notice of anything."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = make_certificate(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self.answered = threading.Semaphore(0)
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):  # the client has gone
                connection = self._context.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
                if connection.recv(65536):
                    connection.sendall(HALF)
                    self.answered.release()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in [self._listening, *self._connections]:
            each.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def find_left_open(work: Callable[[], Coroutine[None, None, object]]) -> set[str]:
    """Run the work on an event loop of its own, and return what Python then says is not closed."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(work())
        gc.collect()
    return {str(each.message).partition(" fd=")[0] for each in caught}


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_stream_of_kubernetes_that_is_left_early_is_closed_with_its_client(server: Server) -> None:
    async def work() -> None:
        client = KubeClient(Configuration(host=server.url, ssl_ca_cert=str(server.certificate)))
        async with client.stream("/log", {}, silence_seconds=30) as content:
            assert await content.readexactly(5) == b"half!"
        await client.close()

    assert find_left_open(work) == set()


def test_a_request_to_kubernetes_that_is_cancelled_is_closed_with_its_client(server: Server) -> None:
    async def work() -> None:
        client = KubeClient(Configuration(host=server.url, ssl_ca_cert=str(server.certificate)))
        asking = asyncio.create_task(client.get("/api/v1/namespaces"))
        await asyncio.to_thread(server.answered.acquire)
        await cancel(asking)
        await client.close()

    assert find_left_open(work) == set()


def test_a_blob_that_is_not_read_to_its_end_is_closed_with_the_storage(server: Server) -> None:
    async def work() -> None:
        storage = AzureBlobStorage(
            account_name=ACCOUNT,
            container="code",
            endpoint=server.url,
            account_key=KEY,
            ca_file=str(server.certificate),
        )
        await storage.open()
        reading = asyncio.create_task(anext(storage.read("x")))
        await asyncio.to_thread(server.answered.acquire)
        await asyncio.sleep(0.05)  # until the head has arrived: then the connection is the answer's
        await cancel(reading)
        await storage.close()

    assert find_left_open(work) == set()


def test_a_request_that_is_cancelled_while_its_connection_is_made_leaves_none(server: Server) -> None:
    async def work() -> None:
        context = ssl.create_default_context(cafile=server.certificate)
        async with aiohttp.ClientSession(connector=Connector(ssl=context)) as session:
            made = asyncio.Event()
            loop = asyncio.get_running_loop()
            create_connection = loop.create_connection

            async def create(factory: Callable[[], asyncio.Protocol], **options: object) -> object:
                def notice() -> asyncio.Protocol:
                    protocol = factory()
                    connection_made = protocol.connection_made
                    protocol.connection_made = lambda transport: (connection_made(transport), made.set())
                    return protocol

                return await create_connection(notice, **options)

            loop.create_connection = create  # type: ignore[method-assign]
            asking = asyncio.create_task(session.get(server.url))
            await made.wait()  # the handshake is over, and whoever asked for the connection has not heard
            await cancel(asking)

    assert find_left_open(work) == set()
