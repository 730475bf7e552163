"""Fetches and unpacks a user's ZIP, and removes a job's files, trusting neither. It blocks: use a thread."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
import stat
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import InvalidRequest
from ...uploads.zipcheck import TAIL_BYTES
from ...uploads.zipcontent import ContentCheck, OnData
from ...uploads.zipdirectory import Directory, NeedsMore, ZipEntry, read_directory
from ...uploads.zipnames import split_path
from .folder import JobFolder

PIECE_BYTES = 256 * 1024

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRONG_NAMES = {
    errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT, errno.EILSEQ,
}  # fmt: skip


class BadCode(Exception):
    """The ZIP cannot or must not be unpacked; the text is a sentence for the user."""


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpack ``archive`` into the new folder ``target``, which nobody else can write to.

    It uses the code that checked the ZIP at the upload, so that both interpret it in the same way, and checks
    it again. Executable files stay executable; only the owner has access to any file. Raises BadCode for
    paths that lead outside, and for more than ``max_bytes``.
    """
    target.mkdir(mode=0o700)
    try:
        with open(archive, "rb") as file:
            directory = _read_directory(file)
            if sum(entry.size for entry in directory.entries if not entry.is_left_out) > max_bytes:
                raise BadCode("The ZIP of code is too large when unpacked.")
            with contextlib.closing(_Unpacker(target)) as unpacker:
                targets = _follow(file, directory, unpacker.write)
            for name, path in targets.items():
                unpacker.make_link(name, path)
    except InvalidRequest as error:
        raise BadCode(f"The ZIP of code cannot be unpacked: {error.message}") from error
    except zipfile.BadZipFile as error:
        raise BadCode("The ZIP of code cannot be unpacked: it is damaged.") from error
    except OSError as error:
        if error.errno in _WRONG_NAMES:
            raise BadCode(f"The ZIP of code cannot be unpacked: {error.strerror}.") from error
        raise


def check_folder(code: Path, name: str | None) -> None:
    """Raise BadCode unless the unpacked code has a folder with this name; None is the code itself."""
    if name is not None and not (code / name).is_dir():
        raise BadCode(f"The ZIP of code has no folder {name[:100]!r} (working_dir).")


def _read_directory(file: BinaryIO) -> Directory:
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - TAIL_BYTES)
    while True:
        file.seek(start)
        try:
            return read_directory(file.read(), start)
        except NeedsMore as more:
            start = more.start


def _follow(file: BinaryIO, directory: Directory, on_data: OnData) -> Mapping[str, str]:
    """Call ``on_data`` with the unpacked content of all entries; return the targets of the links."""
    content = ContentCheck(directory, on_data)
    file.seek(0)
    left = directory.start
    while left and (piece := file.read(min(left, PIECE_BYTES))):
        content.feed(piece)
        left -= len(piece)
    content.finish()
    return content.targets


class _Unpacker:
    """Writes the entries of a ZIP, one after the other, into a folder."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._entry: ZipEntry | None = None
        self._file: BinaryIO | None = None

    def write(self, entry: ZipEntry, data: bytes) -> None:
        """Take the next bytes of an entry; an entry without any becomes an empty file, or a folder."""
        if entry.is_left_out or entry.is_link:
            return
        if entry is not self._entry:
            self.close()
            self._entry = entry
            self._begin(entry)
        if self._file is not None:
            self._file.write(data)

    def _begin(self, entry: ZipEntry) -> None:
        path = self._target.joinpath(*split_path(entry.name))
        if entry.is_folder:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        rights = 0o700 if entry.mode & stat.S_IXUSR else 0o600
        self._file = open(os.open(path, flags, rights), "wb")  # noqa: SIM115  # closed by ``close``

    def make_link(self, name: str, path: str) -> None:
        """Create a link, after all files."""
        link = self._target.joinpath(*split_path(name))
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.symlink_to(path)

    def close(self) -> None:
        """Close the current file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def give_tree(path: Path, uid: int, gid: int) -> None:
    """Give a tree that only the service could write to so far to an account; the top folder last."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)
    os.chown(path, uid, gid, follow_symlinks=False)


def clean_folder(folder: JobFolder, names: Collection[str]) -> None:
    """Remove what an ended job does not need any more: these folders, and the rest of unpacking."""
    if not folder.has(""):
        return
    folder.mark("started")  # for a rejected job: no supervisor may start it any more
    if folder.find_supervisor() is not None and not folder.read_status().get("end"):
        return
    for name in os.listdir(folder.path):
        if name.startswith(("log.", "times.", "manifest")):
            os.unlink(folder.get_path(name))
        elif name in names or name.startswith("unpack-"):
            remove_tree(Path(folder.get_path(name)))


def remove_tree(path: Path) -> None:
    """Remove a folder with its contents, if it exists; follows no links and supports any depth.

    A job may leave a million folders inside each other, which is too deep for recursion. So this moves each
    folder's folders up to the top before it removes the folder, and needs only two descriptors.
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
    """Remove an entry that is not a folder; return False for a folder."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    return True


def _move_folders(top: int, name: str, new_names: Iterator[str]) -> None:
    """Empty a folder of ``top``: remove its files and move its folders to ``top``."""
    folder = _open_folder(top, name)
    try:
        for each in os.listdir(folder):
            if not _is_unlinked(folder, each):
                os.close(_open_folder(folder, each))  # a folder without rights could not be moved
                os.rename(each, next(new_names), src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)


def _open_folder(parent: int, name: str) -> int:
    """Open a folder, and make it writable for its owner, which the job may have changed."""
    try:
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:  # then this process is not root, and the job ran under its account
        os.chmod(name, 0o700, dir_fd=parent)
        folder = os.open(name, _DIRECTORY, dir_fd=parent)
    with contextlib.suppress(PermissionError):
        os.fchmod(folder, 0o700)
    return folder


async def fetch_code(
    pieces: AsyncIterator[bytes], sha256: str | None, path: Path, *, in_thread: Callable[..., Awaitable[Any]]
) -> None:
    """Write pieces to a file; raises BadCode for a wrong SHA-256, and errors of reading the pieces."""
    digest = hashlib.sha256()
    with await in_thread(open, path, "wb") as file:
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                await in_thread(_keep, piece, file, digest)
    if sha256 and digest.hexdigest() != sha256:
        raise BadCode("The SHA-256 of the ZIP of code differs from that of the upload.")


def _keep(piece: bytes, file: BinaryIO, digest: hashlib._Hash) -> None:
    file.write(piece)
    digest.update(piece)
