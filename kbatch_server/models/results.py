"""What a job may leave as its results, and what became of them, in short."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import BaseModel


class JobOutputs(BaseModel):
    """What became of the files that a job wrote under ``$KBATCH_OUTPUT_DIR``, in short."""

    state: Literal["kept", "failed", "removed"]
    """``failed``: there may have been some, and they could not be kept; ``removed``: they were, as long as
    the admin says. ``message`` says why."""
    files: int = 0
    size: int = 0
    """Bytes of all files."""
    omitted_files: int = 0
    """How many more there were, which were not kept for the limits of files and bytes."""
    omitted_size: int = 0
    message: str = ""
    pod: str = ""
    """The run of the job that wrote them: a later one replaces what an earlier one left."""


class OutputLimits(NamedTuple):
    """How much a job may keep; of more than that the first that fit by path are kept."""

    max_bytes: int = 2**30
    max_files: int = 10_000


class OmittedFile(NamedTuple):
    """A file that was not kept, as there was no room for it."""

    path: str
    size: int


class OutputFile(NamedTuple):
    """A file in a tar: ``offset`` says where its content begins, ``modified_at`` is in seconds since 1970."""

    path: str
    offset: int
    size: int
    modified_at: int


@dataclass(slots=True)
class OutputTar:
    """What a job wrote, as a tar that is made or received while it is read."""

    chunks: AsyncIterator[bytes]
    left_out: int = 0
    """Entries that could not be packed; whoever packs counts on while ``chunks`` are read."""
    pod: str = ""
    """The name of the run that wrote it."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Of a tar of several folders, as ``outputs.selection`` has them: the absolute paths that they had."""
