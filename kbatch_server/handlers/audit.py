"""``api/v1/audit``: the audit record, for admins, page by page or as a stream."""

from __future__ import annotations

import json
from dataclasses import replace

from ..audit import Action, AuditQuery
from ..errors import InvalidRequest
from ..web.access import needs_scope
from ..web.query import read_int, read_text, read_time
from .base import BaseHandler

MAX_PAGE = 500

MAX_NAME = 255

QUERY = ("who", "user", "name", "action", "since", "until", "cursor", "limit")


class AuditHandler(BaseHandler):
    """The audit record."""

    @needs_scope("admin", whose="everybody", query=QUERY)
    async def get(self) -> None:
        """List entries, newest first: one page, or with ``application/x-ndjson`` all, one per line."""
        query = AuditQuery(
            who=read_text(self, "who", maximum=MAX_NAME),
            user=read_text(self, "user", maximum=MAX_NAME),
            name=read_text(self, "name", maximum=MAX_NAME),
            action=self._read_action(),
            since=read_time(self, "since"),
            until=read_time(self, "until"),
            before=read_int(self, "cursor", minimum=1, maximum=2**62),
            limit=read_int(self, "limit", minimum=1, maximum=MAX_PAGE) or 50,
        )
        if "application/x-ndjson" in self.request.headers.get("Accept", ""):
            self.hold_costly_read()
            await self.run_while_connected(self._send_all(replace(query, limit=MAX_PAGE)))
            return
        page = await self.services.jobs.audit(query)
        cursor = None if page.next_before is None else str(page.next_before)
        self.send_json({"items": [entry.to_dict() for entry in page.entries], "next_cursor": cursor})

    def _read_action(self) -> Action | None:
        text = self.get_query_argument("action", None)
        try:
            return None if text is None else Action(text)
        except ValueError:
            raise InvalidRequest.of_field("action", f"must be one of {', '.join(Action)}") from None

    async def _send_all(self, query: AuditQuery) -> None:
        self.set_header("Content-Type", "application/x-ndjson")
        while True:
            page = await self.services.jobs.audit(query)
            self.write("".join(json.dumps(entry.to_dict()) + "\n" for entry in page.entries))
            await self.flush()
            if page.next_before is None:
                return
            query = replace(query, before=page.next_before)


default_handlers = [(r"api/v1/audit/?", AuditHandler)]
