"""A proxy between the service and the API server, which breaks what passes in the ways that real ones do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

GONE = {"code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}
GATEWAY_TIMEOUT = {"code": 504, "reason": "Timeout", "message": "request did not complete within 60s"}
WRITES = {"POST", "PUT", "PATCH", "DELETE"}


class ApiProxy:
    """Passes everything on, until it is told not to; in a thread of its own."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self._server_url = config["clusters"][0]["cluster"]["server"]
        self.delay_seconds = 0.0
        """How much longer each request takes."""
        self.answers_504 = False
        """Whether every request is answered with 504 and a page, as a load balancer does."""
        self.loses_answers = False
        """Whether the answer to each write is lost, when it has been done."""
        self._watches: dict[asyncio.Task[Any], web.StreamResponse] = {}
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        self._loop, self._stopped, port = started.result(30)
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        self._config = config

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        path.write_text(json.dumps(self._config))
        return path

    def drop_watches(self) -> int:
        """Break the connection of every watch that is open; return how many those were."""
        return self._call(self._end_watches(b""))

    def end_watches(self, status: dict[str, Any]) -> int:
        """End every watch with a Status in the stream, as the API server does; return how many."""
        said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"} | status
        return self._call(self._end_watches(json.dumps({"type": "ERROR", "object": said}).encode() + b"\n"))

    def end_watches_in_the_middle(self, status: dict[str, Any]) -> int:
        """Put the body of an error into every watch, as it is, and end it there; return how many."""
        return self._call(self._end_watches(json.dumps({"kind": "Status"} | status).encode()))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]]) -> None:
        """Serve until ``_stopped``; who runs this ends every request that is still under way after it."""
        stopped = asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=False, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, skip_auto_headers={"Accept-Encoding"}
        ) as self._client:
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            started.set_result((asyncio.get_running_loop(), stopped, int(runner.addresses[0][1])))
            await stopped.wait()
            await self._end_watches(b"")
            await runner.cleanup()

    async def _end_watches(self, last: bytes) -> int:
        watches, self._watches = self._watches, {}
        for task, response in watches.items():
            with suppress(ConnectionError):
                if last:
                    await response.write(last)
            task.cancel()
        return len(watches)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.delay_seconds)
        if self.answers_504:
            return web.Response(
                status=504, text="<html>504 Gateway Time-out</html>", content_type="text/html"
            )
        body = await request.read()
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in ("accept", "authorization", "content-type")
        }
        try:
            async with self._client.request(
                request.method, f"{self._server_url}{request.raw_path}", headers=headers, data=body
            ) as answer:
                if self.loses_answers and request.method in WRITES:
                    await answer.read()
                    return _break_off(request)
                return await self._pass_on(request, answer)
        except aiohttp.ClientError:
            return _break_off(request)

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status, headers={"Content-Type": answer.headers.get("Content-Type", "")}
        )
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        if "watch=" in request.query_string:
            self._watches[task] = response
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            _break_off(request)
        finally:
            self._watches.pop(task, None)
        return response


def _break_off(request: web.Request) -> web.StreamResponse:
    """End the connection without (the rest of) an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
