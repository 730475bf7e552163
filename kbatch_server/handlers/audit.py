"""``api/v1/audit``: the audit record, for admins, page by page or as a stream."""

from __future__ import annotations

import json
from dataclasses import replace

from tornado.web import RequestHandler
from typing_extensions import TypedDict

from ..audit import Action, AuditEntryJson, AuditQuery
from ..errors import InvalidRequest
from ..web.access import needs_scope
from ..web.answers import answers
from ..web.query import Parameter, limit, moment, read_int, text
from .base import BaseHandler

MAX_PAGE = 500

MAX_NAME = 255


def _read_action(handler: RequestHandler) -> Action | None:
    name = handler.get_query_argument("action", None)
    try:
        return None if name is None else Action(name)
    except ValueError:
        raise InvalidRequest.of_field("action", f"must be one of {', '.join(Action)}") from None


WHO = text("who", "Only actions of this hub user, service/NAME, or kbatch-server.", maximum=MAX_NAME)
USER = text("user", "Only actions on the data of this user.", maximum=MAX_NAME)
NAME = text("name", "Only actions on the job or upload with this id.", maximum=MAX_NAME)
ACTION = Parameter("action", _read_action, {"enum": [*Action], "description": "Only actions of this kind."})
SINCE = moment("since", "Only actions since this time.")
UNTIL = moment("until", "Only actions before this time.")
CURSOR = Parameter(
    "cursor",
    lambda handler: read_int(handler, "cursor", minimum=1, maximum=2**62),
    {"type": "string", "description": "The next_cursor of the previous page."},
)
LIMIT = limit(maximum=MAX_PAGE, default=50)


class AuditPageJson(TypedDict):
    """A page of entries."""

    items: list[AuditEntryJson]
    next_cursor: str | None


class AuditHandler(BaseHandler):
    """The audit record."""

    @needs_scope(
        "admin", whose="everybody", parameters=(WHO, USER, NAME, ACTION, SINCE, UNTIL, CURSOR, LIMIT)
    )
    @answers(AuditPageJson, media=("application/x-ndjson",))
    async def get(self) -> None:
        """List entries, newest first: one page, or with application/x-ndjson all, one per line."""
        query = AuditQuery(
            who=WHO.read(self),
            user=USER.read(self),
            name=NAME.read(self),
            action=ACTION.read(self),
            since=SINCE.read(self),
            until=UNTIL.read(self),
            before=CURSOR.read(self),
            limit=LIMIT.read(self),
        )
        if "application/x-ndjson" in self.request.headers.get("Accept", ""):
            self.hold_costly_read()
            await self.run_while_connected(self._send_all(replace(query, limit=MAX_PAGE)))
            return
        page = await self.services.jobs.audit(query)
        cursor = None if page.next_before is None else str(page.next_before)
        shown: AuditPageJson = {"items": [entry.to_dict() for entry in page.entries], "next_cursor": cursor}
        self.send_json(shown)

    async def _send_all(self, query: AuditQuery) -> None:
        self.set_header("Content-Type", "application/x-ndjson")
        while True:
            page = await self.services.jobs.audit(query)
            await self.send_piece(
                "".join(json.dumps(entry.to_dict()) + "\n" for entry in page.entries).encode()
            )
            if page.next_before is None:
                return
            query = replace(query, before=page.next_before)


default_handlers = [(r"api/v1/audit/?", AuditHandler)]
