"""Follows the bytes of a ZIP as they stream by, and sees that each entry is what the directory says of it.

Every entry is inflated, a small piece at a time, and nothing of it is kept: an entry that is damaged, or has
more in it than it says, is found before a job unpacks it. It costs about a second for 250 MB of text.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator

from .zipdirectory import Directory, refused_entry

_INPUT_BYTES, _OUTPUT_BYTES = 64 * 2**10, 256 * 2**10  # of one step of inflating

_LOCAL_HEADER = struct.Struct("<4s2xHH4xLLLHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED, _SIZES_FOLLOW, _IS_UTF8 = 0x1 | 0x40, 0x8, 0x800
_IS_IN_ZIP64 = 0xFFFFFFFF

_DAMAGED = "is damaged"
_CONTRADICTED = "is said to be another at its own place than in the ZIP's directory"


class ContentCheck:
    """Feed it the ZIP from its beginning up to its directory; it raises InvalidRequest for a wrong entry.

    It blocks for as long as inflating takes: use a thread.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._held = memoryview(b"")  # a view, so that a piece with many entries is not copied for each
        self._position = 0  # of the first byte that is held
        self._is_done = False
        self._steps = self._follow()
        next(self._steps)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the ZIP; raises InvalidRequest."""
        if self._is_done:
            return
        try:
            self._steps.send(piece)
        except StopIteration:
            self._is_done = True

    def finish(self) -> None:
        """Raise BadZipFile when there were not enough bytes."""
        if not self._is_done:
            raise zipfile.BadZipFile

    def _follow(self) -> Generator[None, bytes, None]:
        self._held = memoryview((yield))
        for entry in self._directory.entries:
            if entry.header_offset < self._position:
                raise refused_entry(entry.orig_filename, "overlaps another")
            while self._position < entry.header_offset:
                yield from self._take_some(entry.header_offset - self._position)
            yield from self._check_header(entry)
            if self._position + entry.compress_size > self._directory.start:
                raise refused_entry(entry.orig_filename, _DAMAGED)
            yield from self._check_data(entry)

    def _take_some(self, most: int) -> Generator[None, bytes, memoryview]:
        """Return the next bytes, one at least."""
        while not self._held:
            self._held = memoryview((yield))
        taken, self._held = self._held[:most], self._held[most:]
        self._position += len(taken)
        return taken

    def _take(self, count: int) -> Generator[None, bytes, bytes]:
        """Return the next ``count`` bytes: for what is short."""
        taken = b""
        while len(taken) < count:
            taken += bytes((yield from self._take_some(count - len(taken))))
        return taken

    def _check_header(self, entry: zipfile.ZipInfo) -> Generator[None, bytes, None]:
        """See that an entry says the same of itself as the directory: unpackers differ in whom they ask."""
        header = yield from self._take(_LOCAL_HEADER.size)
        signature, flags, method, crc, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack(
            header
        )
        if signature != _LOCAL_SIGNATURE:
            raise refused_entry(entry.orig_filename, f"{_DAMAGED}: it is not where it should be")
        raw_name = yield from self._take(name_length)
        yield from self._take(extra_length)
        name = raw_name.decode("utf-8" if flags & _IS_UTF8 else "cp437", errors="replace")
        pairs = [(method, entry.compress_type), (name, entry.orig_filename), (flags & _ENCRYPTED, 0)]
        if not flags & _SIZES_FOLLOW:
            pairs += [(crc, entry.CRC)]
            pairs += [
                (said, known)
                for said, known in ((compressed, entry.compress_size), (size, entry.file_size))
                if said != _IS_IN_ZIP64
            ]
        if any(here != there for here, there in pairs):
            raise refused_entry(entry.orig_filename, _CONTRADICTED)

    def _check_data(self, entry: zipfile.ZipInfo) -> Generator[None, bytes, None]:
        is_stored = entry.compress_type == zipfile.ZIP_STORED or (entry.is_dir() and not entry.compress_size)
        inflater = None if is_stored else _Inflater()
        left, size, crc = entry.compress_size, 0, 0
        while left:
            piece = yield from self._take_some(min(left, _INPUT_BYTES))
            left -= len(piece)
            try:
                for unpacked in inflater.inflate(piece) if inflater else (piece,):
                    size += len(unpacked)
                    if size > entry.file_size:
                        raise refused_entry(
                            entry.orig_filename, f"has more than the {entry.file_size} bytes that it says"
                        )
                    crc = zlib.crc32(unpacked, crc)
            except zlib.error:
                raise refused_entry(entry.orig_filename, f"{_DAMAGED}: it cannot be inflated") from None
        if size != entry.file_size or crc != entry.CRC or (inflater and not inflater.is_at_end):
            raise refused_entry(entry.orig_filename, f"{_DAMAGED}: its size or checksum is wrong")


class _Inflater:
    """The data of one entry that is compressed."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(-zlib.MAX_WBITS)

    def inflate(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """Yield all that the next bytes inflate to, a little at a time; raises zlib.error."""
        while True:
            unpacked = self._object.decompress(piece, _OUTPUT_BYTES)
            yield unpacked
            piece = self._object.unconsumed_tail
            if not piece and len(unpacked) < _OUTPUT_BYTES:
                return

    @property
    def is_at_end(self) -> bool:
        """Whether the data ended there, and nothing came after it."""
        return self._object.eof and not self._object.unused_data
