"""Tars for tests, made by the standard library."""

from __future__ import annotations

import io
import tarfile

from kbatch_server.models.results import OutputTar

MODIFIED_AT = 1_700_000_000


def make_tar(files, *, format=tarfile.GNU_FORMAT, others=()):
    """Return a tar of ``files`` (content by path) and of other entries (type and link's target by path)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), MODIFIED_AT
            archive.addfile(info, io.BytesIO(content))
        for name, (kind, target) in dict(others).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


async def pieces_of(data, size=1000):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def as_sent(data, size=1000, **fields):
    """Return a tar as it comes from a job."""
    return OutputTar(pieces_of(data, size), **fields)
