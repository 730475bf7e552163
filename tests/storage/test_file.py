"""What FileStorage promises besides the contract: nothing is left behind, keys stay inside, a quota."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kbatch_server.storage.base import StorageError, StorageFull
from kbatch_server.storage.file import FileStorage
from tests.support.storages import chunked, list_keys, read

MIB = 2**20


@pytest.fixture
async def files(tmp_path):
    storage = FileStorage(root=str(tmp_path / "a/storage"))
    await storage.open()
    return storage


def find_files(storage: FileStorage) -> list[str]:
    return sorted(name for _, _, names in os.walk(storage.root) for name in names)


async def test_a_write_that_fails_leaves_no_file(files):
    with pytest.raises(ValueError, match="stop"):
        await files.write("uploads/x", chunked(b"x" * 3 * MIB, then=ValueError("stop")))
    assert find_files(files) == []


async def test_a_write_that_is_cancelled_while_a_thread_is_at_it_leaves_no_file(files, monkeypatch):
    begun, go_on = asyncio.Event(), threading.Event()
    loop, write = asyncio.get_running_loop(), os.write

    def slow_write(descriptor: int, data: bytes) -> int:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return write(descriptor, data)

    monkeypatch.setattr("kbatch_server.storage.file.os.write", slow_write)
    writing = asyncio.create_task(files.write("uploads/x", chunked(b"x")))
    await asyncio.wait_for(begun.wait(), 10)
    writing.cancel()
    loop.call_later(0.01, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert find_files(files) == []


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".incoming/x", "A", "a b", "ü"]
)
async def test_a_key_that_is_no_key_reaches_no_file(files, key):
    for call in (
        files.write(key, chunked(b"x")),
        files.get_size(key),
        files.delete(key),
        anext(files.read(key)),
    ):
        with pytest.raises(StorageError, match="cannot be the key"):
            await call
    assert find_files(files) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_said_plainly_and_nothing_stays(files, monkeypatch, code):
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("kbatch_server.storage.file.os.write", full)
    with pytest.raises(StorageFull, match="the storage is full"):
        await files.write("uploads/x", chunked(b"x"))
    assert find_files(files) == []


async def test_another_failure_of_the_disk_is_a_storage_error(files, monkeypatch):
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("kbatch_server.storage.file.os.fsync", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        await files.write("uploads/x", chunked(b"x"))
    assert find_files(files) == []


async def test_what_a_killed_process_left_is_cleared_away_and_what_is_being_written_is_not(files):
    incoming = Path(files.root, ".incoming")
    for name in ("old", "new"):
        (incoming / name).touch()
    os.utime(incoming / "old", (0, 0))
    await FileStorage(root=files.root).open()
    assert find_files(files) == ["new"]


async def test_the_folder_is_private(files):
    await files.write("uploads/x", chunked(b"x"))
    for path in (files.root, f"{files.root}/uploads", f"{files.root}/uploads/x"):
        assert os.stat(path).st_mode & 0o077 == 0


async def test_folders_that_are_empty_go_and_the_root_stays(files):
    await files.write("a/b/c", chunked(b"x"))
    await files.write("a/d", chunked(b"x"))
    await files.delete("a/b/c")
    assert sorted(os.listdir(files.root)) == [".incoming", "a"]
    assert os.listdir(f"{files.root}/a") == ["d"]
    await files.delete("a/d")
    assert os.listdir(files.root) == [".incoming"]


async def test_a_folder_that_another_replica_removes_meanwhile_is_made_again(files, monkeypatch):
    replace = Path.replace

    def replace_at_the_second_time(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        target.parent.rmdir()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_at_the_second_time)
    await files.write("uploads/x", chunked(b"x"))
    assert await read(files, "uploads/x") == b"x"


async def test_what_is_not_an_object_of_ours_is_not_listed(files):
    await files.write("uploads/x", chunked(b"x"))
    folder = Path(files.root, "uploads")
    os.mkdir(folder / "lost+found")
    os.symlink("/", folder / "link")
    for path in (folder / "Notes.txt", folder.parent / ".incoming/0123"):
        os.mknod(path)
    assert await list_keys(files, "") == ["uploads/x"]


@pytest.mark.parametrize("prefix", ["uploads", "/", "../", "uploads//", "UPLOADS/", "uploads/x"])
async def test_what_is_no_folder_is_not_listed(files, prefix):
    with pytest.raises(StorageError, match="cannot be the prefix"):
        await list_keys(files, prefix)


# --- room


async def make_limited(tmp_path, **limits: int) -> FileStorage:
    storage = FileStorage(root=str(tmp_path / "limited"), **limits)
    await storage.open()
    return storage


async def test_a_write_that_goes_over_the_quota_is_stopped_there_and_leaves_nothing(tmp_path):
    storage = await make_limited(tmp_path, max_bytes=5 * MIB)
    await storage.write("first", chunked(b"x" * 2 * MIB))
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += MIB
            yield b"x" * MIB

    with pytest.raises(StorageFull) as full:
        await storage.write("second", long())
    assert str(full.value) == (
        f"the storage is full: {5 * MIB} bytes are used of the {5 * MIB} that FileStorage.max_bytes allows, "
        f"and {MIB} more do not fit"
    )
    assert sent == 4 * MIB
    assert find_files(storage) == ["first"]
    assert await storage.write("third", chunked(b"x" * 3 * MIB)) == 3 * MIB


async def test_what_is_deleted_or_replaced_or_fails_makes_room(tmp_path):
    storage = await make_limited(tmp_path, max_bytes=3 * MIB)
    for _ in range(3):
        await storage.write("one", chunked(b"x" * MIB))  # replaced
        await storage.write("two", chunked(b"x" * 2 * MIB))
        with pytest.raises(StorageFull):
            await storage.write("one", chunked(b"x"))  # both are there until the new one is
        with pytest.raises(StorageFull):
            await storage.write("three", chunked(b"x"))
        await storage.delete("two")
        await storage.delete("two")
        with pytest.raises(ValueError, match="stop"):
            await storage.write("two", chunked(b"x" * MIB, then=ValueError("stop")))
    assert await storage.write("two", chunked(b"x" * 2 * MIB)) == 2 * MIB


async def test_writes_at_the_same_time_share_the_quota(tmp_path):
    storage = await make_limited(tmp_path, max_bytes=5 * MIB)
    written = await asyncio.gather(
        *(storage.write(f"w-{number}", chunked(b"x" * MIB)) for number in range(8)), return_exceptions=True
    )
    assert written.count(MIB) == 5
    assert sum(isinstance(each, StorageFull) for each in written) == 3


async def test_what_is_there_is_counted_at_the_start(tmp_path):
    before = await make_limited(tmp_path)
    await before.write("uploads/x", chunked(b"x" * 2 * MIB))
    storage = await make_limited(tmp_path, max_bytes=3 * MIB)
    with pytest.raises(StorageFull):
        await storage.write("y", chunked(b"x" * 2 * MIB))
    await storage.write("y", chunked(b"x" * MIB))


async def test_what_another_replica_deleted_is_noticed(tmp_path, monkeypatch):
    storage = await make_limited(tmp_path, max_bytes=3 * MIB)
    await storage.write("x", chunked(b"x" * 3 * MIB))
    await (await make_limited(tmp_path)).delete("x")
    with pytest.raises(StorageFull):
        await storage.write("y", chunked(b"x"))
    monkeypatch.setattr("kbatch_server.storage.space.RECOUNT_SECONDS", -1)
    await storage.write("y", chunked(b"x"))


async def test_the_disk_keeps_what_others_need(tmp_path):
    storage = await make_limited(tmp_path, min_free_bytes=2**60)
    with pytest.raises(StorageFull, match=rf"its disk has \d+ bytes free, of which .* keeps {2**60}$"):
        await storage.write("x", chunked(b"x"))
    assert find_files(storage) == []
    assert await storage.write("empty", chunked()) == 0
