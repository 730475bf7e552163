"""The index of a job's results as it is kept: JSON, packed, a file a line.

No string of JSON has a newline in it, so a line that begins with a path is that path's: one file of ten
thousand is found without reading the others as JSON. All of it is read and written piece by piece, as one
call for everything would let no other thread run for as long as it takes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from ..models.results import OmittedFile, OutputFile

PIECE_BYTES = 256 * 1024
"""So much of an index is unpacked at a time."""

PACKED_PIECE_BYTES = 64 * 1024

FILES_AT_ONCE = 500

_HEAD = b'{"files": ['
_END = b"\n]"


def pack_index(files: Sequence[OutputFile], omitted: Sequence[OmittedFile]) -> bytes:
    """Return the index of the files of a tar, and of those that did not fit."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(piece) for piece in _dump(files, omitted)) + packer.flush()


def unpack_index(packed: bytes) -> tuple[list[OutputFile], list[OmittedFile]]:
    """Return the files of an index, and those that did not fit, each by path."""
    if not _has_lines(packed):
        return _unpack_old(packed)
    files: list[OutputFile] = []
    omitted: list[OmittedFile] = []
    for lines in _split(packed):
        if lines.startswith(_END):
            omitted = [OmittedFile(*each) for each in json.loads(_HEAD + lines)["omitted"]]
        else:
            files += [OutputFile(*each) for each in _parse(lines.removeprefix(_HEAD))]
    return files, omitted


def find_in_index(packed: bytes, path: str) -> OutputFile | None:
    """Return one file of an index, or None when it has none of that path."""
    if not _has_lines(packed):
        return next((file for file in _unpack_old(packed)[0] if file.path == path), None)
    wanted = b"\n[" + json.dumps(path).encode() + b", "
    for lines in _split(packed):
        at = lines.find(wanted)
        if at >= 0:
            [found] = _parse(lines[at + 1 :].partition(b"\n")[0])
            return OutputFile(*found)
    return None


def _dump(files: Sequence[OutputFile], omitted: Sequence[OmittedFile]) -> Iterator[bytes]:
    yield _HEAD + b"\n"
    for start in range(0, len(files), FILES_AT_ONCE):
        lines = ",\n".join(map(json.dumps, files[start : start + FILES_AT_ONCE]))
        yield (b",\n" if start else b"") + lines.encode()
    yield _END + b', "omitted": ' + json.dumps(omitted).encode() + b"}"


def _parse(lines: bytes) -> list[Any]:
    """Return the values of some lines."""
    found: list[Any] = json.loads(b"[" + lines.strip(b",\n") + b"]")
    return found


def _split(packed: bytes) -> Iterator[bytes]:
    """Yield an index in pieces of whole lines, each line after its newline; the last begins with ``_END``."""
    pieces = _inflate(packed)
    rest = b""
    for piece in pieces:
        lines, newline, rest = (rest + piece).rpartition(b"\n")
        yield lines
        rest = newline + rest
        if rest.startswith(_END):
            break
    yield rest + b"".join(pieces)


def _inflate(packed: bytes) -> Iterator[bytes]:
    inflater = zlib.decompressobj()
    view = memoryview(packed)
    for start in range(0, len(packed), PACKED_PIECE_BYTES):
        data: bytes | memoryview = view[start : start + PACKED_PIECE_BYTES]
        while data:
            yield inflater.decompress(data, PIECE_BYTES)
            data = inflater.unconsumed_tail
    yield inflater.flush()


def _has_lines(packed: bytes) -> bool:
    head = _HEAD + b"\n"
    return zlib.decompressobj().decompress(packed[:PACKED_PIECE_BYTES], len(head)) == head


def _unpack_old(packed: bytes) -> tuple[list[OutputFile], list[OmittedFile]]:
    """Return what was written as one line."""
    found: Any = json.loads(zlib.decompress(packed))
    if isinstance(found, list):  # before anything could be omitted, in the tar's order
        return sorted(OutputFile(*each) for each in found), []
    return [OutputFile(*each) for each in found["files"]], [OmittedFile(*each) for each in found["omitted"]]
