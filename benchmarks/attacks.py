"""What strangers and users could send to do harm, each kind again and again: for ``bench_hostile``.

Each attacker is one request, or what looks like the beginning of one.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import io
import itertools
import json
import os
import random
import re
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator
from typing import Any

from kbatch_server.keyring import Keyring

ONLY = os.environ.get("SOAK_ONLY", "").split()
"""The names of some attackers, to see what one of them does; else all."""

PREFIX = "/services/kbatch/"
MALLORY = "Authorization: token mallory"
EVE = "Authorization: token eve"
"""Another one, so that the places of one user are not all that is tried."""
MIB = 2**20

LONG_LOG = "yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -c 8000000; sleep 100000"
"""What the one job runs that stays: it has a log to be searched, and results to be sent."""

DRAWN_LOG = r"""
lines=$(printf 'a\b\n%.0s' $(seq 1000); printf 'a\rb\n%.0s' $(seq 1000); printf '\033[K\n%.0s' $(seq 1000))
for i in $(seq 1000); do printf '%s\n' "$lines"; done; sleep 100000
"""
"""The same of the job whose log is 11 MB of lines that must be drawn."""


def make_head(method: str, path: str, *headers: str) -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {PREFIX}{path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def make_folders_zip() -> bytes:
    """Return a ZIP of 2,000 files in 100 folders each, none of which has an entry; its end is a comment."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(2000):
            archive.writestr(f"{number}/{'a/' * 99}f", b"")
        archive.comment = b"x" * 8
    return buffer.getvalue()


def make_pax_tars() -> list[bytes]:
    """Return tars with 100,000 records of no length in a header, and with 10,000 headers that are empty."""
    records = b"0 a=\n" * 100_000
    return [
        make_pax_header(len(records)) + records + bytes(-len(records) % 512) + bytes(1024),
        make_pax_header(0) * 10_000 + bytes(1024),
    ]


def make_pax_header(size: int) -> bytes:
    """Return the head of an extended header."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.USTAR_FORMAT)


class Attackers:
    """Everything that is sent to do harm, each again and again until the end."""

    def __init__(self, port: int, key: str) -> None:
        """Take the service's port, and its key: links are signed with it, as the service does for jobs."""
        self._port = port
        self._keyring = Keyring([key])
        self._job_id = self._drawn_job_id = "none"
        self.sent: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        """What each was answered, and how often: ``none`` where it read no answer, or none came."""
        self._numbers = itertools.count()
        self._folders = make_folders_zip()
        self._tars = make_pax_tars()

    def all(self) -> list[tuple[Any, int, float]]:
        """Return each with how many do it at a time, and how many seconds one waits between."""
        return [
            (self.send_half_heads, 300, 1.0),
            (self.send_half_bodies, 100, 1.0),
            (self.send_slow_bodies, 40, 1.0),
            (self.send_hidden_bodies, 2, 0.1),
            (self.send_unknown_methods, 4, 0.1),
            (self.send_words, 4, 0.1),
            (self.send_made_up_tokens, 4, 0.1),
            (self.begin_logins, 2, 0.1),
            (self.read_pages_slowly, 50, 1.0),
            (self.leave_answers_unread, 30, 1.0),
            (self.send_large_json, 2, 0.5),
            (self.send_deep_json, 2, 0.5),
            (self.send_half_json, 20, 1.0),
            (self.send_many_parts, 2, 0.5),
            (self.send_many_folders, 2, 0.5),
            (self.send_bad_results, 2, 0.5),
            (self.search_logs, 8, 0.1),
            (self.ask_for_sums, 8, 0.1),
            (self.ask_for_lists, 4, 0.2),
            (self.follow_logs, 20, 1.0),
            (self.read_drawn_logs, 8, 0.1),
            (self.submit_and_cancel, 1, 0.5),
        ]

    async def run(self, seconds: float) -> None:
        """Do all of it for so long, while two jobs of Mallory's run."""
        end = time.monotonic() + seconds
        self._job_id = await self._submit(["sh", "-c", LONG_LOG])
        self._drawn_job_id = await self._submit(["sh", "-c", DRAWN_LOG])
        tasks = [
            asyncio.create_task(self._repeat(attack, pause, end))
            for attack, count, pause in self.all()
            if not ONLY or attack.__name__ in ONLY
            for _ in range(count)
        ]
        await asyncio.gather(*tasks)

    async def _repeat(self, attack: Any, pause: float, end: float) -> None:
        await asyncio.sleep(random.random() * pause)
        while time.monotonic() < end:
            status = None
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(max(end - time.monotonic(), 0.1)):
                    status = await attack()
            self.sent[attack.__name__][status or "none"] += 1
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=65536)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _send(self, *pieces: bytes, wait: float = 5.0) -> str | None:
        """Send some bytes, and return the status of the answer, if one comes."""
        async with self._connect() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                found = re.match(rb"HTTP/1.1 (\d+)", await asyncio.wait_for(reader.read(65536), wait))
                return found[1].decode() if found else None
        return None

    async def _submit(self, command: list[str], **fields: Any) -> str:
        """Have Mallory submit a job, and return its id."""
        body = json.dumps({"name": "x", "command": command, **fields}).encode()
        kind = "Content-Type: application/json"
        head = make_head("POST", "api/v1/jobs", MALLORY, kind, f"Content-Length: {len(body)}")
        async with self._connect() as (reader, writer):
            writer.write(head + body)
            job_id = re.search(rb'"id": "([^"]+)"', await reader.read(1000))
        return job_id[1].decode() if job_id else "none"

    async def send_half_heads(self) -> str | None:
        """Begin a request."""
        return await self._send(b"GET /services/kbatch/api/v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ", wait=30)

    async def send_half_bodies(self) -> str | None:
        """Begin a body, of nobody."""
        return await self._send(make_head("POST", "api/v1/jobs", "Content-Length: 1000000"), b"{", wait=30)

    async def send_slow_bodies(self) -> None:
        """Send the body of a job, or a ZIP, a few bytes a second."""
        path, kind = random.choice([("jobs", "json"), ("uploads", "zip")])
        kind = f"Content-Type: application/{kind}"
        async with self._connect() as (_, writer):
            writer.write(make_head("POST", f"api/v1/{path}", EVE, kind, "Content-Length: 1000000"))
            for _ in range(60):
                writer.write(b"PK\3\4")
                await writer.drain()
                await asyncio.sleep(0.5)

    async def send_hidden_bodies(self) -> str | None:
        """Send what looks like another request after one that is said to have no body."""
        hidden = make_head("POST", "api/v1/jobs", MALLORY, "Content-Length: 1000") + b"{"
        return await self._send(make_head("DELETE", "api/v1/jobs/none", MALLORY, "Content-Length: 0"), hidden)

    async def send_unknown_methods(self) -> str | None:
        """Send a method that nobody knows, with a body."""
        method = random.choice(["PROPFIND", "QUERY", "FINISH", "MKCOL"])
        return await self._send(make_head(method, "api/v1/health", "Content-Length: 5"), b"hello")

    async def send_words(self) -> str | None:
        """Send what expressions are slow with, in a URL and in headers."""
        word = random.choice(["token", "code=", "a=", "/code/", "//@", "%74", "&", "a.", "-"]) * 3000
        await self._send(make_head("GET", f"api/v1/health?{word[:14_000]}"))
        return await self._send(
            make_head("GET", "api/v1/health", f"Cookie: a={word[:14_000]}", f"Range: {word[:900]}")
        )

    async def send_made_up_tokens(self) -> str | None:
        """Have the hub asked for a token that there is not."""
        return await self._send(
            make_head("GET", "api/v1/jobs", f"Authorization: token {next(self._numbers)}")
        )

    async def begin_logins(self) -> str | None:
        """Begin a login, and never end it."""
        return await self._send(make_head("GET", "submit", "Accept: text/html", "Sec-Fetch-Mode: navigate"))

    async def read_pages_slowly(self) -> None:
        """Ask for a script, and do not read it."""
        async with self._connect() as (reader, writer):
            writer.write(make_head("GET", "", MALLORY, "Accept: text/html"))
            page = (await reader.read(65536)).decode("latin-1")
            script = re.search(r'static/[\w.-]+\.js"', page.replace("theme", ""))
            writer.write(make_head("GET", script[0].rstrip('"') if script else "static/none"))
            await asyncio.sleep(20)

    async def leave_answers_unread(self) -> None:
        """Ask for much, many times on one connection, and read none of it."""
        path = random.choice(
            ["api/v1/openapi.json", "api/v1/jobs?limit=500", f"api/v1/jobs/{self._job_id}/logs"]
        )
        async with self._connect() as (_, writer):
            writer.write(make_head("GET", path, MALLORY) * 100)
            await asyncio.sleep(20)

    async def send_large_json(self) -> str | None:
        """Send as much JSON as may be, with little in it."""
        path, size = random.choice([("api/v1/jobs", 2 * MIB - 100), ("jobs/", 40 * MIB)])
        body = b'{"name": "x", "description": "' + b"x" * size + b'"}'
        return await self._send(make_head("POST", path, MALLORY, f"Content-Length: {len(body)}"), body)

    async def send_deep_json(self) -> str | None:
        """Send a body of a megabyte with very many elements, or very deep ones."""
        many = b'{"name": "x", "args": [' + b"1," * 500_000 + b"1]}"
        deep = b"[" * 100_000
        closed = b'{"name": "x", "tags": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
        body = random.choice([many, deep, closed])
        return await self._send(
            make_head("POST", "api/v1/jobs", MALLORY, f"Content-Length: {len(body)}"), body
        )

    async def send_half_json(self) -> str | None:
        """Send a megabyte of a body, and no more."""
        head = make_head("POST", "api/v1/jobs", MALLORY, "Content-Length: 2000000")
        return await self._send(head, b" " * MIB, wait=40)

    async def send_many_parts(self) -> str | None:
        """Send a form with very many tiny parts, with or without a name."""
        named = b'--a\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 60_000
        body = random.choice([b"--a\r\n\r\n\r\n" * 300_000, named])
        kind = "Content-Type: multipart/form-data; boundary=a"
        return await self._send(
            make_head("POST", "api/v1/uploads", MALLORY, kind, f"Content-Length: {len(body)}"), body
        )

    async def send_many_folders(self) -> str | None:
        """Send a ZIP whose names imply very many folders; each is another, so that none is known already."""
        body = self._folders[:-8] + random.randbytes(8)
        kind = "Content-Type: application/zip"
        return await self._send(
            make_head("POST", "api/v1/uploads", MALLORY, kind, f"Content-Length: {len(body)}"), body, wait=30
        )

    async def send_bad_results(self) -> str | None:
        """Send a tar with very many empty extended headers, by the signed link of a job."""
        signed = self._keyring.sign({"job": self._job_id}, purpose="outputs")
        body = random.choice(self._tars)
        folders = "X-Kbatch-Folders: outputs=/kbatch-outputs"
        return await self._send(
            make_head("POST", f"outputs/{signed}", folders, f"Content-Length: {len(body)}"), body, wait=30
        )

    async def search_logs(self) -> str | None:
        """Search a log of some megabytes for what is almost everywhere in it, or read its end."""
        query = random.choice(["search=" + "a" * 900 + "b", "search=a&limit=10000", "tail=1000000", "line=1"])
        job_id = random.choice([self._job_id, self._drawn_job_id])
        return await self._send(make_head("GET", f"api/v1/jobs/{job_id}/logs?{query}", MALLORY), wait=30)

    async def ask_for_sums(self) -> str | None:
        """Have all jobs counted, and searched."""
        path = random.choice(["api/v1/jobs/summary", "api/v1/jobs?search=a&limit=500", "api/v1/jobs?tag=a:b"])
        return await self._send(make_head("GET", path, MALLORY))

    async def ask_for_lists(self) -> str | None:
        """Have everything listed."""
        path = random.choice(["api/v1/jobs?limit=500", "jobs/", "pods/", "api/v1/openapi.json", "metrics"])
        return await self._send(make_head("GET", path, MALLORY))

    async def follow_logs(self) -> str | None:
        """Watch, and follow a log that there is not, without reading."""
        return await self._send(make_head("GET", "api/v1/jobs/watch", MALLORY), wait=30)

    async def read_drawn_logs(self) -> str | None:
        """Follow and read a log whose lines must be drawn, as events or with the kbatch command."""
        job_id = self._drawn_job_id
        head = random.choice(
            [
                make_head("GET", f"api/v1/jobs/{job_id}/logs?follow=1", MALLORY, "Accept: text/event-stream"),
                make_head("GET", f"jobs/logs/{job_id}?stream=true", MALLORY, "User-Agent: python-httpx/0.27"),
            ]
        )
        async with self._connect() as (reader, writer):
            writer.write(head)
            begin = await reader.read(65536)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    while await reader.read(65536):
                        pass
        found = re.match(rb"HTTP/1.1 (\d+)", begin)
        return found[1].decode() if found else None

    async def submit_and_cancel(self) -> str | None:
        """Submit a job with an environment as large as may be, and cancel it."""
        job_id = await self._submit(["true"], env={"X": "x" * 100_000})
        return await self._send(make_head("DELETE", f"api/v1/jobs/{job_id}", MALLORY))
