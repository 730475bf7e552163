"""``api/v1/profiles`` and ``api/v1/user``: the user's profiles, and the user."""

from __future__ import annotations

from ..web.access import needs_scope, needs_user
from .base import BaseHandler


class ProfilesHandler(BaseHandler):
    """The profiles that a user may choose from."""

    @needs_scope("read", whose="anybody")
    async def get(self) -> None:
        """List the profiles."""
        profiles = await self.services.profiles.list(self.user)
        self.send_json({"items": [profile.model_dump(mode="json") for profile in profiles]})


class UserHandler(BaseHandler):
    """The user of the request."""

    @needs_user(whose="self")
    async def get(self) -> None:
        """Show the token's user and actions; with the scope for reading also limits, usage and queue."""
        user = self.user
        usage_report = dict.fromkeys(("limits", "group_totals", "usage", "queue"))
        if "read" in user.actions:
            usage_report = await self.services.jobs.describe(user)
        own = usage_report.pop("limits")
        self.send_json(
            {
                "name": user.name,
                "kind": user.kind,
                "groups": list(user.groups),
                "admin": user.admin,
                "actions": list(user.actions),
                "scopes": sorted(user.scopes),
                "limits": {
                    "max_upload_bytes": self.services.uploads.max_upload_bytes,
                    "max_job_bytes": self.services.max_job_bytes,
                    "max_body_bytes": self.services.max_body_bytes,
                    "jobs": own,
                },
                **usage_report,
            }
        )


default_handlers = [(r"api/v1/profiles/?", ProfilesHandler), (r"api/v1/user/?", UserHandler)]
