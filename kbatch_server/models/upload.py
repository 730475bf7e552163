"""A ZIP of code that a user has sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from typing_extensions import TypedDict

from .times import Moment, show_time


def make_upload_key(upload_id: str) -> str:
    """Return where the storage keeps an upload."""
    return f"uploads/{upload_id}"


class UploadJson(TypedDict):
    """An upload."""

    id: str
    size: int
    sha256: str
    created_at: Moment
    expires_at: Moment
    top_folder: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """A ZIP of code that a user sent, kept in the storage under ``key``.

    ``size`` and ``sha256`` are those of what was sent. What is kept may be another ZIP of the same files, of
    which every unpacker makes the same: ``code_size`` and ``code_sha256`` are of that.
    """

    id: str
    user: str
    size: int
    sha256: str
    created_at: datetime
    expires_at: datetime
    code_size: int
    code_sha256: str
    top_folder: str | None = None
    """The folder that all of it is in, where there is nothing beside that."""

    @property
    def key(self) -> str:
        """Where the storage keeps it."""
        return make_upload_key(self.id)

    def to_dict(self) -> UploadJson:
        """Return the JSON form of ``api/v1/uploads``."""
        return {
            "id": self.id,
            "size": self.size,
            "sha256": self.sha256,
            "created_at": show_time(self.created_at),
            "expires_at": show_time(self.expires_at),
            "top_folder": self.top_folder,
        }
