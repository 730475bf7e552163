"""ZIPs for tests: of files, and as tools make them that zipfile cannot imitate."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping

NAME = "données.txt"

Name = str | zipfile.ZipInfo
HELLO = {"main.py": "print('hello')\n"}


def make_zip(
    *files: Mapping[str, str | bytes] | tuple[Name, str | bytes],
    compress_type: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """Return a ZIP, the same at any time: of mappings of names to contents, or of single names with theirs.

    A name may be there twice. Without anything it is one of a program; ``make_zip({})`` is empty.
    """
    entries: list[tuple[Name, str | bytes]] = []
    for each in files or (HELLO,):
        entries += [each] if isinstance(each, tuple) else each.items()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            archive.writestr(_make_info(name), content, compress_type)
    return buffer.getvalue()


def _make_info(name: Name) -> zipfile.ZipInfo:
    if isinstance(name, zipfile.ZipInfo):
        return name
    info = zipfile.ZipInfo(name)
    is_folder = name.endswith("/")
    info.external_attr = (stat.S_IFDIR | 0o755) << 16 | 0x10 if is_folder else 0o644 << 16
    return info


def make_mixed_zip() -> bytes:
    """Return a ZIP with a name in the OEM code page, a link, and what macOS adds for itself."""
    link = zipfile.ZipInfo("sub/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    files = [("donnXes.txt", "hello"), (link, "../data"), ("data", "linked"), ("sub/.DS_Store", "x")]
    return make_zip(*files).replace(b"donnXes.txt", NAME.encode("cp437"))


def stored(raw: bytes, data: bytes = b"x", *, flags: int = 0, extra: bytes = b"", system: int = 0) -> bytes:
    """Return a ZIP of one entry with these bytes as its name, made on a system (0: MS-DOS)."""
    common = struct.pack(
        "<HHHLLLLHH", 20, flags, 0, 33 << 16, zlib.crc32(data), len(data), len(data), len(raw), len(extra)
    )
    local = b"PK\x03\x04" + common + raw + extra + data
    central = (
        b"PK\x01\x02" + bytes([20, system]) + common + struct.pack("<HHHLL", 0, 0, 0, 0, 0) + raw + extra
    )
    return local + central + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


def unicode_path(raw: bytes, name: bytes, *, version: int = 1, crc: int | None = None) -> bytes:
    """Return Info-ZIP's Unicode path field."""
    content = struct.pack("<BL", version, zlib.crc32(raw) if crc is None else crc) + name
    return struct.pack("<HH", 0x7075, len(content)) + content
