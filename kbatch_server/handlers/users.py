"""``api/v1/users``: for an admin, or a hook of the hub, to tell that a user is gone."""

from __future__ import annotations

from dataclasses import asdict

from ..web.access import needs_scope
from .base import BaseHandler


class UserHandler(BaseHandler):
    """A user, by name."""

    @needs_scope("admin", whose="everybody")
    async def delete(self, name: str) -> None:
        """Forget the user's jobs, uploads and usage; a name that is not known is fine."""
        self.send_json(asdict(await self.services.jobs.forget_user(name)))


default_handlers = [(r"api/v1/users/([^/]+)/?", UserHandler)]
