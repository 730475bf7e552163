"""A server of a user on the hub, as the hub and its pod describe it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

PREFIX = "server"
"""How a request names the default server; ``server:NAME`` is that with a name."""


def parse_reference(reference: str) -> str:
    """Return the server's name that ``server`` (empty: the default one) or ``server:NAME`` stands for."""
    return reference.partition(":")[2]


def make_reference(name: str) -> str:
    """Return how a request names a server."""
    return f"{PREFIX}:{name}" if name else PREFIX


def describe_server(name: str) -> str:
    """Return the words for one of the user's servers."""
    return f"your server {name!r}" if name else "your server"


@dataclass(frozen=True, slots=True)
class HubServer:
    """One of a user's servers according to the hub."""

    name: str
    """Empty for the default server."""
    display_name: str = ""
    is_running: bool = False
    user_options: dict[str, Any] = field(default_factory=dict)
    """What the user chose on the spawn page. The hub does not check what comes through its API."""
    pod_name: str | None = None
    """None if the hub does not show the spawner's state, or has none; so are the next two."""
    namespace: str | None = None
    pvc_name: str | None = None


@dataclass(frozen=True, slots=True)
class ServerPod:
    """What a job can take from the pod of a running server."""

    image: str
    """Its name and tag, as the hub's configuration has it."""
    digest: str | None = None
    """The digest that the tag had when the node pulled it, ``sha256:…``; None for an image of no registry."""
    env: dict[str, str] = field(default_factory=dict, repr=False)
    """Its environment, without what is the server's own and what may be secret."""

    @property
    def pinned_image(self) -> str | None:
        """The image by its digest, which no later push to the registry changes."""
        if self.digest is None:
            return None
        name, _, last = self.image.partition("@")[0].rpartition("/")
        last = last.partition(":")[0]
        return f"{name}/{last}@{self.digest}" if name else f"{last}@{self.digest}"


class ServerJson(BaseModel):
    """One of the user's servers, and how a request names it."""

    name: str
    display_name: str
    is_running: bool
    like: str
