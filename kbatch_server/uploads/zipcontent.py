"""Checks while a ZIP streams through that each entry is what the directory says.

It inflates every entry, in small pieces, and so finds entries that are damaged or larger than they say,
before a job unpacks them. It takes about a second for 250 MB of text. (``zipfile`` would need the whole ZIP
as a file, and does not compare an entry's own header with the directory.)
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator

from .zipdirectory import ENCRYPTED, IN_ZIP64, LOCAL_HEADER_BYTES, Directory, ZipEntry, refused_entry
from .zipnames import IS_UTF8
from .ziptree import BadTree

_INPUT_BYTES, _OUTPUT_BYTES = 64 * 2**10, 256 * 2**10  # for one step of inflating

_LOCAL_HEADER = struct.Struct("<4s2xHH4xLLLHH")
assert _LOCAL_HEADER.size == LOCAL_HEADER_BYTES  # noqa: S101
_LOCAL_SIGNATURE = b"PK\x03\x04"
_SIZES_FOLLOW = 0x8

_DAMAGED = "is damaged"
_CONTRADICTED = "has a header that differs from the ZIP's directory"

OnData = Callable[[ZipEntry, bytes], None]


class ContentCheck:
    """Checks the bytes of a ZIP from its beginning to its directory; raises InvalidRequest.

    It blocks while it inflates: use a thread. It calls ``on_data`` with each entry and its unpacked content,
    piece by piece, and at least once.
    """

    def __init__(self, directory: Directory, on_data: OnData = lambda entry, data: None) -> None:
        self._directory = directory
        self._on_data = on_data
        self._held = memoryview(b"")  # a view, so that a piece with many entries is not copied for each
        self._position = 0  # of the first byte in memory
        self._is_done = False
        self.targets: dict[str, str] = {}
        """The targets of the links, by name; complete after ``finish``."""
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
        """Raise BadZipFile if bytes are missing, InvalidRequest for a link that leads outside."""
        if not self._is_done:
            raise zipfile.BadZipFile
        try:
            self._directory.tree.check_links(self.targets)
        except BadTree as error:
            raise refused_entry(error.path, str(error)) from None

    def _follow(self) -> Generator[None, bytes, None]:
        self._held = memoryview((yield))
        for entry in self._directory.entries:
            if entry.offset < self._position:
                raise refused_entry(entry.name, "overlaps another")
            while self._position < entry.offset:
                yield from self._take_some(entry.offset - self._position)
            yield from self._check_header(entry)
            if self._position + entry.compress_size > self._directory.start:
                raise refused_entry(entry.name, _DAMAGED)
            yield from self._check_data(entry)

    def _take_some(self, most: int) -> Generator[None, bytes, memoryview]:
        """Return up to ``most`` of the next bytes, at least one."""
        while not self._held:
            self._held = memoryview((yield))
        taken, self._held = self._held[:most], self._held[most:]
        self._position += len(taken)
        return taken

    def _take(self, count: int) -> Generator[None, bytes, bytes]:
        """Return the next ``count`` bytes, which must be few."""
        taken = bytearray()
        while len(taken) < count:
            taken += yield from self._take_some(count - len(taken))
        return bytes(taken)

    def _check_header(self, entry: ZipEntry) -> Generator[None, bytes, None]:
        """Check that an entry's own header agrees with the directory: unpackers differ in which they use."""
        header = yield from self._take(_LOCAL_HEADER.size)
        signature, flags, method, crc, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack(
            header
        )
        if signature != _LOCAL_SIGNATURE:
            raise refused_entry(entry.name, f"{_DAMAGED}: it is not at the offset that the directory gives")
        raw_name = yield from self._take(name_length)
        yield from self._take(extra_length)
        pairs = [(method, entry.method), (raw_name, entry.raw_name), (flags & ENCRYPTED, 0)]
        if not raw_name.isascii():
            pairs += [(flags & IS_UTF8, entry.flags & IS_UTF8)]
        if not flags & _SIZES_FOLLOW:
            pairs += [(crc, entry.crc)]
            pairs += [
                (said, known)
                for said, known in ((compressed, entry.compress_size), (size, entry.size))
                if said != IN_ZIP64
            ]
        if any(here != there for here, there in pairs):
            raise refused_entry(entry.name, _CONTRADICTED)
        entry.data_offset = self._position

    def _check_data(self, entry: ZipEntry) -> Generator[None, bytes, None]:
        is_stored = entry.method == zipfile.ZIP_STORED or (entry.is_folder and not entry.compress_size)
        inflater = None if is_stored else _Inflater()
        left, size, crc = entry.compress_size, 0, 0
        target = bytearray()
        self._on_data(entry, b"")
        while left:
            piece = yield from self._take_some(min(left, _INPUT_BYTES))
            left -= len(piece)
            try:
                for unpacked in inflater.inflate(piece) if inflater else (bytes(piece),):
                    size += len(unpacked)
                    if size > entry.size:
                        raise refused_entry(entry.name, f"has more than its declared {entry.size} bytes")
                    crc = zlib.crc32(unpacked, crc)
                    self._on_data(entry, unpacked)
                    if entry.is_link:
                        target += unpacked
            except zlib.error:
                raise refused_entry(entry.name, f"{_DAMAGED}: it cannot be inflated") from None
            if inflater and inflater.is_at_end and left:  # zlib would keep all the rest
                break
        is_whole = not left and (inflater is None or (inflater.is_at_end and not inflater.has_more))
        if size != entry.size or crc != entry.crc or not is_whole:
            raise refused_entry(entry.name, f"{_DAMAGED}: its size or checksum is wrong")
        if entry.is_link and not entry.is_left_out:
            self.targets[entry.name] = _read_target(entry, bytes(target))


def _read_target(entry: ZipEntry, content: bytes) -> str:
    """Return the target of a link; raises InvalidRequest for an invalid path."""
    try:
        target = content.decode()
    except UnicodeDecodeError:
        target = ""
    if not target or "\0" in target:
        raise refused_entry(entry.name, "is a link without a target, or with one that is not UTF-8")
    return target


class _Inflater:
    """Inflates the compressed data of one entry."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(-zlib.MAX_WBITS)

    def inflate(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """Yield the inflated data of the next bytes, in small pieces; raises zlib.error."""
        while True:
            unpacked = self._object.decompress(piece, _OUTPUT_BYTES)
            yield unpacked
            piece = self._object.unconsumed_tail
            if not piece and len(unpacked) < _OUTPUT_BYTES:
                return

    @property
    def is_at_end(self) -> bool:
        """Whether the data is complete."""
        return self._object.eof

    @property
    def has_more(self) -> bool:
        """Whether bytes followed the end of the data."""
        return bool(self._object.unused_data)
