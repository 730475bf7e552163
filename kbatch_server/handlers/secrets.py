"""``api/v1/secrets``: the secrets that a user keeps for jobs. No answer ever contains the content of one."""

from __future__ import annotations

from typing_extensions import TypedDict

from ..models.secret import SecretJson, SecretRequest, check_secret_name
from ..web.access import needs_scope
from ..web.answers import answers
from .base import BaseHandler

MAX_BODY_BYTES = 512 * 1024
"""Maximum size of a body with a secret of 64 KiB, which may take six times as much in JSON."""


class SecretListJson(TypedDict):
    """The secrets of a user, by name."""

    items: list[SecretJson]


class SecretsHandler(BaseHandler):
    """All secrets of the user."""

    @needs_scope("read", whose="self")
    @answers(SecretListJson)
    async def get(self) -> None:
        """List your secrets, without their content."""
        found = await self.services.jobs.secrets.list(self.user)
        self.send_json({"items": [secret.to_dict() for secret in found]})


class SecretHandler(BaseHandler):
    """One secret of the user."""

    @property
    def body_limit(self) -> int:
        """The maximum size of the body in bytes."""
        return MAX_BODY_BYTES

    @needs_scope("submit", whose="self", body=SecretRequest)
    @answers(SecretJson, also={201: "The secret is new."})
    async def put(self, name: str) -> None:
        """Set a secret, or replace it: 201 if it is new, otherwise 200."""
        name = check_secret_name(name)
        request = SecretRequest.from_json(self.get_json())
        secret, is_new = await self.services.jobs.secrets.set(self.user, name, request)
        self.send_json(secret.to_dict(), status=201 if is_new else 200)

    @needs_scope("submit", whose="self")
    @answers(status=204, errors=(404,))
    async def delete(self, name: str) -> None:
        """Delete a secret. Jobs that were launched with it keep it until they end."""
        await self.services.jobs.secrets.delete(self.user, check_secret_name(name))
        self.set_status(204)


default_handlers = [(r"api/v1/secrets/?", SecretsHandler), (r"api/v1/secrets/([^/]+)/?", SecretHandler)]
