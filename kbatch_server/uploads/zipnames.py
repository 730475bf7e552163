"""Decodes the names of entries in a ZIP, the same for the check and for every unpacker. Pure.

A name is bytes, and three things define its encoding (appendix D of PKWARE's APPNOTE.TXT 6.3.10): bit 11 of
the flags (UTF-8), Info-ZIP's Unicode path field (0x7075), or else the code page of MS-DOS, cp437. Many tools
on macOS and Linux write UTF-8 without declaring it. Non-ASCII text in cp437 is hardly ever valid UTF-8, so
UTF-8 is tried first. The names in zipfile differ between Python 3.11 and 3.13.
"""

from __future__ import annotations

import struct
import zlib

IS_UTF8 = 0x800
"""A flag of an entry: its name is UTF-8."""

OEM_CODE_PAGE = "cp437"

_UNICODE_PATH = 0x7075
_UNICODE_PATH_BYTES = struct.pack("<H", _UNICODE_PATH)
_FIELD = struct.Struct("<HH")
_PATH_HEAD = struct.Struct("<BL")
_WINDOWS = frozenset({0, 6, 10, 11, 14})
"""Systems (FAT, HPFS, NTFS) whose tools may separate folders by backslashes."""

_MAC_FOLDER, _MAC_FILE = "__MACOSX", ".DS_Store"


def decode_name(raw: bytes, *, flags: int, extra: bytes) -> str:
    """Return the name of an entry as its creator meant it; raises UnicodeDecodeError for invalid UTF-8."""
    if flags & IS_UTF8:
        return raw.decode()
    if (path := _find_unicode_path(raw, extra)) is not None:
        return path
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(OEM_CODE_PAGE)


def use_slashes(name: str, *, system: int) -> str:
    """Return a name with ``/`` between folders; ``system`` is the one that created the entry.

    Older Windows tools write backslashes. On other systems a backslash is a character like any other.
    """
    return name.replace("\\", "/") if system in _WINDOWS else name


def split_path(name: str) -> list[str]:
    """Return the parts of a name: the folders from the outermost on, and last the file or folder itself."""
    return [part for part in name.split("/") if part not in {"", "."}]


def is_litter(name: str) -> bool:
    """Whether this is an entry that macOS adds to each ZIP for itself; no job needs it."""
    parts = split_path(name)
    return bool(parts) and (parts[0] == _MAC_FOLDER or parts[-1] == _MAC_FILE)


def has_unicode_path(extra: bytes) -> bool:
    """Whether an extra field may contain Info-ZIP's Unicode path."""
    return _UNICODE_PATH_BYTES in extra


def _find_unicode_path(raw: bytes, extra: bytes) -> str | None:
    """Return the name in the Unicode path field, if it exists and belongs to the name beside it."""
    if not has_unicode_path(extra):
        return None
    for kind, content in iterate_extra(extra):
        if kind == _UNICODE_PATH and len(content) > _PATH_HEAD.size:
            version, crc = _PATH_HEAD.unpack_from(content)
            if version == 1 and crc == zlib.crc32(raw):
                try:
                    return content[_PATH_HEAD.size :].decode()
                except UnicodeDecodeError:
                    return None
    return None


def iterate_extra(extra: bytes) -> list[tuple[int, bytes]]:
    """Return the fields in an entry's extra field, up to the first invalid one."""
    fields = []
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, size = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if at + size > len(extra):
            break
        fields.append((kind, extra[at : at + size]))
        at += size
    return fields
