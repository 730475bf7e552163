"""ZIPs for tests, as tools make them that zipfile cannot imitate."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib

NAME = "données.txt"


def make_mixed_zip() -> bytes:
    """Return a ZIP with a name in the OEM code page, a link, and what macOS adds for itself."""
    buffer = io.BytesIO()
    link = zipfile.ZipInfo("sub/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("donnXes.txt", "hello")
        archive.writestr(link, "../data", zipfile.ZIP_DEFLATED)
        archive.writestr("data", "linked")
        archive.writestr("sub/.DS_Store", "x")
    return buffer.getvalue().replace(b"donnXes.txt", NAME.encode("cp437"))


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
