"""``api/v1/profiles`` and ``api/v1/user``: the user's profiles, and the user."""

from __future__ import annotations

from typing_extensions import TypedDict

from ..models.job import Profile
from ..scheduling.report import Amounts, QueueJson, UsageJson
from ..web.access import needs_scope, needs_user
from ..web.answers import answers
from .base import BaseHandler


class ProfileListJson(TypedDict):
    """The profiles that a user may choose."""

    items: list[Profile]


class UserLimitsJson(TypedDict):
    """The limits of a user: for the size of requests, and for jobs by resource."""

    max_upload_bytes: int
    max_job_bytes: int
    max_body_bytes: int
    jobs: Amounts | None


class UserJson(TypedDict):
    """The user of a token. Limits for jobs, usage and queue are null if the token may not read."""

    name: str
    kind: str
    groups: list[str]
    admin: bool
    actions: list[str]
    scopes: list[str]
    like: bool
    """Whether a job can be like a server of this user."""
    home: bool
    """Whether a job may have the home of a server, with some profile or without one."""
    limits: UserLimitsJson
    group_totals: dict[str, Amounts] | None
    usage: Amounts | None
    queue: QueueJson | None


class ProfilesHandler(BaseHandler):
    """The profiles that a user may choose from."""

    @needs_scope("read", whose="anybody")
    @answers(ProfileListJson)
    async def get(self) -> None:
        """List the profiles to choose from."""
        profiles = await self.services.profiles.list(self.user)
        self.send_json({"items": [profile.model_dump(mode="json") for profile in profiles]})


class SelfHandler(BaseHandler):
    """The user of the request."""

    @needs_user(whose="self")
    @answers(UserJson)
    async def get(self) -> None:
        """Show the token's user and actions; with the scope for reading also limits, usage and queue."""
        user = self.user
        used: UsageJson | None = None
        if "read" in user.actions:
            used = await self.services.jobs.describe(user)
        shown: UserJson = {
            "name": user.name,
            "kind": user.kind,
            "groups": list(user.groups),
            "admin": user.admin,
            "actions": list(user.actions),
            "scopes": sorted(user.scopes),
            "like": user.kind == "user" and self.services.jobs.servers.is_available,
            "home": await self.services.profiles.may_have_home(user),
            "limits": {
                "max_upload_bytes": self.services.uploads.max_upload_bytes,
                "max_job_bytes": self.services.max_job_bytes,
                "max_body_bytes": self.services.max_body_bytes,
                "jobs": used and used["limits"],
            },
            "group_totals": used and used["group_totals"],
            "usage": used and used["usage"],
            "queue": used and used["queue"],
        }
        self.send_json(shown)


default_handlers = [(r"api/v1/profiles/?", ProfilesHandler), (r"api/v1/user/?", SelfHandler)]
