"""Unpack a user's ZIP and remove a job's files, trusting neither. All of it blocks: use a thread."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from ..zipdirectory import MAX_DEPTH, MAX_ENTRIES
from .jobfolder import JobFolder

PIECE_BYTES = 256 * 1024

# What zipfile raises for a ZIP that is broken, encrypted, or packed in a way that it does not know.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError)
_IS_UTF8 = 0x800  # flag_bits
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRONG_NAMES = {
    errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT, errno.EILSEQ,
}  # fmt: skip


class BadCode(Exception):
    """The ZIP cannot or may not be unpacked; its text is a sentence for the user."""


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack ``archive`` into the new folder ``target``, which nobody else can write to.

    Files keep whether they are executable; all are for their owner only. Raises BadCode for what leads
    outside, for links, and for more than ``max_bytes`` (counted as they come, whatever the ZIP claims).
    """
    target.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            if len(entries) > MAX_ENTRIES:
                raise BadCode(f"The ZIP of code has {len(entries)} entries, the limit is {MAX_ENTRIES}.")
            room = max_bytes
            for entry in entries:
                room -= _unpack_entry(file, entry, target, room)
    except _UNREADABLE as error:
        raise BadCode(f"The ZIP of code cannot be unpacked: {error}.") from error
    except OSError as error:
        if error.errno in _WRONG_NAMES:
            raise BadCode(f"The ZIP of code cannot be unpacked: {error.strerror}.") from error
        raise


def _unpack_entry(file: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, room: int) -> int:
    """Unpack one file or folder and return its size."""
    name = _get_name(entry)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    mode = entry.external_attr >> 16
    if name.startswith("/") or ".." in parts:
        raise BadCode(f"The ZIP of code has a path that leads outside: {name[:100]!r}.")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadCode(f"The ZIP of code has a link or a device: {name[:100]!r}.")
    if len(parts) - (not entry.is_dir()) > MAX_DEPTH:
        raise BadCode(f"The ZIP of code has folders more than {MAX_DEPTH} deep.")
    path = target.joinpath(*parts)
    if entry.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return 0
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    size = 0
    with (
        file.open(entry) as source,
        open(os.open(path, flags, 0o700 if mode & stat.S_IXUSR else 0o600), "wb") as copy,
    ):
        while piece := source.read(PIECE_BYTES):
            size += len(piece)
            if size > room:
                raise BadCode("The ZIP of code is too large when unpacked.")
            copy.write(piece)
    return size


def _get_name(entry: zipfile.ZipInfo) -> str:
    """Return the name as it is in the ZIP: zipfile takes one that is not marked as UTF-8 for cp437."""
    if entry.flag_bits & _IS_UTF8:
        return entry.filename
    return entry.filename.encode("cp437").decode("utf-8", "surrogateescape")


def give_tree(path: Path, uid: int, gid: int) -> None:
    """Give a tree that only the service could write to so far to an account; the top folder comes last."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)
    os.chown(path, uid, gid, follow_symlinks=False)


def clean_folder(folder: JobFolder, names: Collection[str]) -> None:
    """Remove what a job that is over needs no more: these of its folders, and what is left of unpacking."""
    if not folder.has(""):
        return
    folder.mark("started")  # for a job that was refused: no supervisor is to begin with it any more
    if folder.find_supervisor() is not None and not folder.read_status().get("end"):
        return
    for name in os.listdir(folder.path):
        if name.startswith(("log.", "times.", "manifest")):
            os.unlink(folder.get_path(name))
        elif name in names or name.startswith("unpack-"):
            remove_tree(Path(folder.get_path(name)))


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, if it is there; follows no link and takes any depth.

    A job may have left a million folders inside each other, which breaks what is recursive. So each
    folder's folders are moved up to the top before it is removed, and two descriptors do.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    prefix = secrets.token_hex(8)  # no job could have made a file of such a name
    new_names = (f".{prefix}-{number}" for number in itertools.count())
    try:
        while names := os.listdir(top):
            for name in names:
                if not _is_unlinked(top, name):
                    _move_folders(top, name, new_names)
                    os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _is_unlinked(folder: int, name: str) -> bool:
    """Remove what is not a folder; return False for a folder."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    return True


def _move_folders(top: int, name: str, new_names: Iterator[str]) -> None:
    """Empty a folder of ``top``: its files are removed and its folders moved to ``top``."""
    folder = _open_folder(top, name)
    try:
        for each in os.listdir(folder):
            if not _is_unlinked(folder, each):
                os.close(_open_folder(folder, each))  # a folder without rights could not be moved
                os.rename(each, next(new_names), src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)


def _open_folder(parent: int, name: str) -> int:
    """Open a folder, and see to it that its owner may change it, which the job may have taken away."""
    try:
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:  # then we are not root, and the job was no other account than we are
        os.chmod(name, 0o700, dir_fd=parent)
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
    with contextlib.suppress(PermissionError):
        os.fchmod(folder, 0o700)
    return folder
