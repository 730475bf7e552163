"""An upload: a ZIP of code from a user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from typing_extensions import TypedDict

from .times import Moment, show_time


def make_upload_key(upload_id: str) -> str:
    """Return the key of an upload in the storage."""
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
    """A ZIP of code from a user, stored under ``key``.

    ``size`` and ``sha256`` are those of the ZIP that the user sent. The stored one may be another ZIP with
    the same files, which all unpackers unpack in the same way: ``code_size`` and ``code_sha256`` are its own.
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
    """The folder that contains all files, if there is one."""

    @property
    def key(self) -> str:
        """The key in the storage."""
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
