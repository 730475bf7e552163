"""``api/v1/jobs/{id}/logs``: read a job's log, or a part of it, follow or search it, as text or as events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing

from typing_extensions import TypedDict

from ..aio import with_ticks
from ..errors import InvalidRequest
from ..logs.lines import Hit
from ..logs.reader import LogPlace, LogSelection, ShownPiece, reading_errors
from ..logs.text import LogText
from ..web.access import needs_scope
from ..web.answers import answers
from ..web.query import Parameter, flag, limit, read_age, read_range, text, whole_number
from .exchange import FLUSH_BYTES
from .outputs import RANGE, make_disposition
from .streams import EventEncoder, StreamHandler, make_last_line

KEEP_ALIVE_SECONDS = 15.0
"""Proxies and load balancers close silent connections, most of them after 60 s."""

RETRY_SECONDS = 2
"""Seconds until a browser that followed a log reconnects after the service was stopped."""

MAX_HITS = 10_000

MAX_WORDS = 1000
"""Maximum length of the words to search for."""

MAX_TAIL = 10_000_000

MAX_LINE = 10**12

FOLLOW = flag("follow", "Continue as the log grows, until the job ends.")
TAIL = whole_number("tail", "The number of last lines to send.", minimum=0, maximum=MAX_TAIL)
SINCE = Parameter(
    "since",
    lambda handler: read_age(handler, "since"),
    {
        "type": "string",
        "description": "Only output written since this time, or within this period: 90, 90s, 10m, 2h, 1d.",
    },
)
ATTEMPT = whole_number(
    "attempt", "The number of the attempt. Default: the newest.", minimum=1, maximum=1_000_000
)
POD = text("pod", "The name of one of the job's pods. Default: the newest.")
SEARCH = text("search", "Only lines that contain this text, in upper or lower case.", maximum=MAX_WORDS)
LINE = whole_number(
    "line", "Send lines as JSON, beginning with the line of this number.", minimum=1, maximum=MAX_LINE
)
LIMIT = limit("The maximum number of lines to find or to send.", maximum=MAX_HITS, default=1000)
DOWNLOAD = flag("download", "Send the log as a file to save.")

QUERY = (FOLLOW, TAIL, SINCE, ATTEMPT, POD, SEARCH, LINE, LIMIT, DOWNLOAD)

CONFLICTS = {
    "search": ("follow", "tail"),
    "line": ("search", "follow", "tail", "since"),
    "download": ("follow",),
    "attempt": ("pod",),
}
"""Parameters that exclude each other."""


class LogLineJson(TypedDict):
    """A line of a log, and its number."""

    line: int
    text: str


class FoundLinesJson(TypedDict):
    """The lines that contain the words of a search."""

    items: list[LogLineJson]
    truncated: bool
    """Whether more lines match."""


class LogHeadJson(TypedDict):
    """The extent of a log at the time of the answer."""

    attempt: int
    last_line: int
    last_line_is_open: bool
    """Whether the last line is incomplete."""
    is_complete: bool
    place: str
    """The event id from which to follow the log."""


class LogLinesJson(LogHeadJson):
    """Some lines of a log by number, and the place from which to follow the rest."""

    items: list[LogLineJson]


class LogHandler(StreamHandler):
    """The log of one job."""

    @needs_scope("read", whose="job", parameters=QUERY)
    @answers(
        FoundLinesJson | LogLinesJson,
        media=("text/plain", "text/event-stream"),
        also=RANGE,
        errors=(416,),
    )
    async def get(self, job_id: str) -> None:
        """Send the log, as text or, by Accept, as server-sent events: all of it, a part, the lines that
        contain some words, or the log as it grows."""
        follow, words = FOLLOW.read(self), SEARCH.read(self)
        selection = self._read_selection()
        self._check_combination()
        self.set_header("X-Accel-Buffering", "no")  # nginx would collect what should be seen at once
        if DOWNLOAD.read(self):
            self.set_header("Content-Disposition", make_disposition("attachment", f"{job_id}.log"))
        line = LINE.read(self)
        most = LIMIT.read(self)
        if line is not None:
            await self.run_while_connected(self._send_lines(job_id, selection, line, most))
        elif words is not None:
            self.hold_costly_read()
            await self.run_while_connected(self._search(job_id, selection, words, most))
        elif "Range" in self.request.headers and not follow:
            await self.run_while_connected(self._send_range(job_id, selection))
        else:
            await self.run_while_connected(self._send(job_id, selection, follow=follow))

    def _read_selection(self) -> LogSelection:
        return LogSelection(
            pod=POD.read(self),
            attempt=ATTEMPT.read(self),
            tail=TAIL.read(self),
            since=SINCE.read(self),
        )

    def _check_combination(self) -> None:
        given = {each.name for each in QUERY if self.get_query_argument(each.name, None) is not None}
        given -= {each.name for each in (FOLLOW, DOWNLOAD) if not each.read(self)}
        for name, others in CONFLICTS.items():
            for other in others:
                if {name, other} <= given:
                    raise InvalidRequest.of_field(name, f"cannot be used together with {other}")
        if "limit" in given and given.isdisjoint({"search", "line"}):
            raise InvalidRequest.of_field("limit", "is only allowed with search or line")

    @property
    def _wants_events(self) -> bool:
        return "text/event-stream" in self.request.headers.get("Accept", "")

    async def _send(self, job_id: str, selection: LogSelection, *, follow: bool) -> None:
        after = self._read_last_event_id() if follow or self._wants_events else None
        throttle = self.services.throttle
        self.counts_unread = is_followed = follow or after is not None
        self._held.enter_context((throttle.stream if is_followed else throttle.download)(self.user))
        pieces = await self.services.jobs.logs(self.user, job_id, selection, follow=follow, after=after)
        if is_followed:
            owner = (await self.services.jobs.get(self.user, job_id)).user
            pieces = self.until_cut_off(pieces, owner=owner)
        async with aclosing(pieces):
            if self._wants_events:
                await self._send_events(job_id, self.in_parts(pieces))
            else:
                await self._send_text(pieces)
                if self.cut_off:
                    self.write(make_last_line(self.cut_off))

    def _read_last_event_id(self) -> LogPlace | None:
        """Return the place that a client had reached before it lost its connection."""
        text = self.request.headers.get("Last-Event-ID")
        if not text:
            return None
        match = re.fullmatch(r"(\d{1,9})-(\d{1,18})", text, re.ASCII)
        if match is None:
            raise InvalidRequest.of_field("Last-Event-ID", "is not an event id of this service")
        return LogPlace(int(match[1]), int(match[2]))

    async def _send_text(self, pieces: AsyncGenerator[ShownPiece]) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Accept-Ranges", "bytes")
        await self.flush()  # the reader of a job that waits sees that the log is being followed
        async for piece in pieces:
            await self.send_piece(piece.data)

    async def _send_events(self, job_id: str, pieces: AsyncGenerator[ShownPiece]) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        encoder = EventEncoder()
        self.write(encoder.KEEP_ALIVE)  # the hub's proxy sends no headers before the first byte
        await self.flush()
        place: LogPlace | None = None
        now = asyncio.get_running_loop().time
        sent_at = now()

        def find_wait() -> float:
            silence = max(sent_at + KEEP_ALIVE_SECONDS - now(), 0)
            bar_wait = encoder.get_bar_wait(now())
            return silence if bar_wait is None else min(silence, bar_wait)

        async with aclosing(with_ticks(pieces, find_wait)) as ticking:
            async for piece in ticking:
                events = b""
                if piece is not None:
                    if place is not None and place.attempt != piece.place.attempt:
                        events = await self.draw(encoder, EventEncoder.finish, place)
                    place = piece.place
                    events += await self.draw(encoder, EventEncoder.encode, piece.data, place)
                if encoder.get_bar_wait(now()) == 0:
                    events += await self.draw(encoder, EventEncoder.show_bar, now(), place)
                if not events and now() - sent_at >= KEEP_ALIVE_SECONDS:
                    events = encoder.KEEP_ALIVE
                if events:
                    await self.send_piece(events)
                    sent_at = now()
        if self.cut_off:
            # do not send the incomplete line: a client that continues after the last id gets all of it
            self.write(encoder.make_retry(RETRY_SECONDS, self.cut_off))
            return
        self.write(await self.draw(encoder, EventEncoder.finish, place))
        job = await self.services.jobs.get(self.user, job_id)
        end = {
            "status": job.status.value,
            "reason": job.reason,
            "message": job.full_message,
            "exit_code": job.exit_code,
        }
        self.write(encoder.make_event(json.dumps(end), event="end"))

    async def _send_range(self, job_id: str, selection: LogSelection) -> None:
        self._held.enter_context(self.services.throttle.download(self.user))
        text, _ = await self.services.jobs.open_log(self.user, job_id, selection)
        size = text.size - text.begin
        start, end = read_range(self.request.headers["Range"], size) or (0, size)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Content-Length", end - start)
        if (start, end) != (0, size):
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        with reading_errors():
            async with aclosing(text.read(text.begin + start, text.begin + end)) as pieces:
                async for data, _ in pieces:
                    await self.send_piece(data)

    async def _send_lines(self, job_id: str, selection: LogSelection, first: int, most: int) -> None:
        """Send some lines by their numbers, and the place from which to follow the rest."""
        self._held.enter_context(self.services.throttle.download(self.user))
        text, attempt = await self.services.jobs.open_log(self.user, job_id, selection)
        self.set_header("Content-Type", "application/json")
        with reading_errors():
            last, is_ended = await text.find_last_line()
            head: LogHeadJson = {
                "attempt": attempt,
                "last_line": last,
                "last_line_is_open": not is_ended,
                "is_complete": text.is_complete,
                "place": f"{attempt}-{text.end}",
            }
            self.write(json.dumps(head)[:-1] + ', "items": [')
            async with aclosing(text.read_lines(first, most)) as lines:
                comma, unsent = "", 0
                async for each in lines:
                    shown = comma + json.dumps(_make_line(each))
                    self.write(shown)
                    comma, unsent = ", ", unsent + len(shown)
                    if unsent >= FLUSH_BYTES:
                        await self.flush()
                        unsent = 0
        self.write("]}\n")

    async def _search(self, job_id: str, selection: LogSelection, words: str, most: int) -> None:
        text, _ = await self.services.jobs.open_log(self.user, job_id, selection)
        if "application/json" in self.request.headers.get("Accept", ""):
            await self._send_hits_as_json(text, words, most)
        else:
            await self._send_hits(text, words, most)

    def _take_turn(self) -> AbstractAsyncContextManager[None]:
        return self.services.throttle.draw(self.user)

    async def _send_hits(self, text: LogText, words: str, most: int) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        count = 0
        with reading_errors():
            async with aclosing(text.search(words, most=most + 1, take_turn=self._take_turn)) as hits:
                async for hit in hits:
                    if count == most:
                        self.write(f"[... more lines match: these are the first {most} ...]\n")
                        return
                    count += 1
                    self.write(f"{hit.line}:{hit.text}\n")
                    await self.flush()
        if text.search_took_too_long:
            words = f"the search took more than {text.search_seconds:g} s: more lines may match"
            self.write(f"[... {words} ...]\n")

    async def _send_hits_as_json(self, text: LogText, words: str, most: int) -> None:
        """Send the hits as they are found, never holding all of them in memory."""
        self.set_header("Content-Type", "application/json")
        self.write('{"items": [')
        count, is_truncated = 0, False
        with reading_errors():
            async with aclosing(text.search(words, most=most + 1, take_turn=self._take_turn)) as hits:
                async for hit in hits:
                    if count == most:
                        is_truncated = True
                        break
                    self.write(", " if count else "")
                    self.write(json.dumps(_make_line(hit)))
                    count += 1
                    await self.flush()
        is_truncated = is_truncated or text.search_took_too_long
        self.write(f'], "truncated": {json.dumps(is_truncated)}}}\n')


def _make_line(line: Hit) -> LogLineJson:
    return {"line": line.line, "text": line.text}


default_handlers = [(r"api/v1/jobs/([^/]+)/logs/?", LogHandler)]
