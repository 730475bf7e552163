"""Who did what, when and from where: an entry of the audit record, and whom the running code works for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from typing_extensions import TypedDict

from .models.times import Moment, show_time, utcnow

SYSTEM = "kbatch-server"
"""Who does what no request asked for: what was kept long enough is removed."""


class Action(StrEnum):
    """What is put on record."""

    SUBMIT = "submit"
    RERUN = "rerun"
    CANCEL = "cancel"
    DELETE = "delete"
    READ = "read"
    """An admin read something of another's job."""
    LIST = "list"
    """An admin listed the jobs of another, or of everybody."""
    AUDIT = "audit"
    """An admin read this record."""
    FORGET_USER = "forget-user"
    """All that was kept of a user is to go: the user is not at the hub any more."""
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
    """One line of the record."""

    at: datetime
    who: str
    """The hub user, or ``service/NAME``, or SYSTEM."""
    action: Action
    name: str
    """What it was done to: the id of a job or an upload, the key of an object."""
    user: str
    """Whose that is: a user, ``*`` for everybody, or nobody."""
    kind: str
    """What kind of somebody it was: ``user``, ``service``, or ``system`` for the service itself."""
    rights: str
    """What the token was good for, like ``submit,read``."""
    address: str
    """The IP address that the request came from, as far as the proxies say so."""
    request_id: str
    detail: str
    seq: int = 0
    """Its number in the record, which grows."""

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
    """Where what is done now comes from: a request of somebody's, or the service itself."""

    who: str = SYSTEM
    kind: str = "system"
    address: str = ""
    request_id: str = ""
    make_detail: Callable[[], str] = str
    """Returns method and path of the request, without secrets."""
    rights: str = ""
    noted: set[tuple[Action, str]] = field(default_factory=set)
    """What was put on record for this request already: reading a job may take several looks at it."""


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""Set by the handlers; whatever they start inherits it. None is the service itself."""


def make_entry(action: Action, name: str, user: str, *, detail: str = "") -> AuditEntry:
    """Return the entry of what is done now; ``detail`` is what was asked for unless it is given."""
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
    """Return whether this is the first time that the request of now does that; from then on it is not."""
    origin = ORIGIN.get() or Origin()
    if (action, name) in origin.noted:
        return False
    origin.noted.add((action, name))
    return True


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries are asked for: those for which all hold that is not None; newest first."""

    who: str | None = None
    user: str | None = None
    name: str | None = None
    action: Action | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    """Only entries with a lower number: the page after."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some entries, newest first, and the number to go on from, if there are more."""

    entries: list[AuditEntry]
    next_before: int | None
