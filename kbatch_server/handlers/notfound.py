"""The answer to every URL that is not there."""

from __future__ import annotations

from ..errors import NotFound
from .base import BaseHandler

NOTHING_HERE = "There is nothing at this URL."


class NotFoundHandler(BaseHandler):
    """Answers for every URL that is not there."""

    async def _admit(self) -> None:
        """Refuse, whatever the method."""
        raise NotFound(NOTHING_HERE)
