"""The results of a job: their limits, their state, and the tar in which they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import BaseModel


class JobOutputs(BaseModel):
    """The state of a job's results, without the list of files."""

    state: Literal["kept", "failed", "removed"]
    """``failed``: the service could not save them, and ``message`` says why; ``removed``: they have
    expired."""
    files: int = 0
    size: int = 0
    """Bytes of all files."""
    omitted_files: int = 0
    """Number of files beyond the limits, which were not saved."""
    omitted_size: int = 0
    message: str = ""
    pod: str = ""
    """The attempt that wrote them; the results of a later attempt replace those of an earlier one."""


class OutputLimits(NamedTuple):
    """The limits on the results of a job. Beyond them, the first files by path that fit are saved."""

    max_bytes: int = 2**30
    max_files: int = 10_000


class OmittedFile(NamedTuple):
    """A file beyond the limits, which was not saved."""

    path: str
    size: int


class OutputFile(NamedTuple):
    """A file in a tar: its content begins at ``offset``; ``modified_at`` is in seconds since 1970."""

    path: str
    offset: int
    size: int
    modified_at: int


@dataclass(slots=True)
class OutputTar:
    """A tar of a job's files, which is made or received while it is read."""

    chunks: AsyncIterator[bytes]
    left_out: int = 0
    """Number of entries that could not be packed; it may grow while ``chunks`` are read."""
    pod: str = ""
    """The name of the attempt that wrote the files."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """For a tar with several folders (``outputs.selection``): the absolute path of each in the job."""
