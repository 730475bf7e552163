"""``api/v1/users``: lets an admin, or a hook of the hub, report that a user was deleted."""

from __future__ import annotations

from dataclasses import asdict

from ..models.user import ForgottenUser
from ..web.access import needs_scope
from ..web.answers import answers
from .base import BaseHandler


class UserHandler(BaseHandler):
    """A user, by name."""

    @needs_scope("admin", whose="everybody")
    @answers(ForgottenUser)
    async def delete(self, name: str) -> None:
        """Forget a user's jobs, logs, results, uploads, secrets and usage; no error if unknown."""
        self.send_json(asdict(await self.services.jobs.forget_user(name)))


default_handlers = [(r"api/v1/users/([^/]+)/?", UserHandler)]
