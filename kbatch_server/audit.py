"""An entry of the audit record: who did what, when and from where; and for whom the current code runs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from typing_extensions import TypedDict

from .models.times import Moment, show_time, utcnow

SYSTEM = "kbatch-server"
"""The name for actions without a request, such as the removal of expired data."""


class Action(StrEnum):
    """The actions in the audit record."""

    SUBMIT = "submit"
    RERUN = "rerun"
    CANCEL = "cancel"
    DELETE = "delete"
    READ = "read"
    """An admin read data of another user's job."""
    LIST = "list"
    """An admin listed the jobs of another user, or of all."""
    AUDIT = "audit"
    """An admin read the audit record."""
    SET_SECRET = "set-secret"  # noqa: S105 - not a password
    """A user set one of their secrets, or replaced it."""
    DELETE_SECRET = "delete-secret"  # noqa: S105 - not a password
    FORGET_USER = "forget-user"
    """All data of a user is to be removed: the hub no longer has this user."""
    REMOVE_JOB = "remove-job"
    REMOVE_LOG = "remove-log"
    REMOVE_RESULTS = "remove-results"
    REMOVE_UPLOAD = "remove-upload"
    REMOVE_OBJECT = "remove-object"


class AuditEntryJson(TypedDict):
    """An entry of the audit record."""

    at: Moment
    who: str
    kind: str
    action: Action
    name: str
    user: str
    rights: list[str]
    address: str
    request_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit record."""

    at: datetime
    who: str
    """The hub user, or ``service/NAME``, or SYSTEM."""
    action: Action
    name: str
    """The object of the action: the id of a job or an upload, the name of a secret, the key of an object."""
    user: str
    """The owner of that: a user, ``*`` for all users, or empty."""
    kind: str
    """The kind of ``who``: ``user``, ``service``, or ``system`` for the service itself."""
    rights: str
    """The actions that the token allowed, like ``submit,read``."""
    address: str
    """The IP address of the client, according to the trusted proxies."""
    request_id: str
    detail: str
    seq: int = 0
    """The entry's number in the record, ascending."""

    def to_dict(self) -> AuditEntryJson:
        """Return the JSON of the entry."""
        return {
            "at": show_time(self.at),
            "who": self.who,
            "kind": self.kind,
            "action": self.action,
            "name": self.name,
            "user": self.user,
            "rights": self.rights.split(",") if self.rights else [],
            "address": self.address,
            "request_id": self.request_id,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of the current action: a user's request, or the service itself."""

    who: str = SYSTEM
    kind: str = "system"
    address: str = ""
    request_id: str = ""
    make_detail: Callable[[], str] = str
    """Returns method and path of the request, without secrets."""
    rights: str = ""
    noted: set[tuple[Action, str]] = field(default_factory=set)
    """The actions already audited for this request: reading a job may take several looks at it."""


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""Set by the handlers, and inherited by whatever they start. None means the service itself."""


def make_entry(action: Action, name: str, user: str, *, detail: str = "") -> AuditEntry:
    """Return an entry for a current action; ``detail`` is by default the request."""
    origin = ORIGIN.get() or Origin()
    return AuditEntry(
        at=utcnow(),
        who=origin.who,
        action=action,
        name=name,
        user=user,
        kind=origin.kind,
        rights=origin.rights,
        address=origin.address,
        request_id=origin.request_id,
        detail=detail or origin.make_detail(),
    )


def is_first(action: Action, name: str) -> bool:
    """Return whether the current request does this for the first time; from then on it returns False."""
    origin = ORIGIN.get() or Origin()
    if (action, name) in origin.noted:
        return False
    origin.noted.add((action, name))
    return True


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Selects entries: all conditions that are not None must hold; newest first."""

    who: str | None = None
    user: str | None = None
    name: str | None = None
    action: Action | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    """Only entries with a lower number: for the next page."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some entries, newest first, and the number to continue from, if there are more."""

    entries: list[AuditEntry]
    next_before: int | None
