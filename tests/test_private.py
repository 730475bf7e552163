"""Files that were there before the service, with modes that let others in."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat

import pytest

from kbatch_server.keyring import Keyring
from kbatch_server.private import make_private
from kbatch_server.storage.file import FileStorage
from kbatch_server.store import Store, StoreError

LOG = logging.getLogger("tests")


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_file_that_others_may_read_is_closed_to_them_and_the_log_says_so(tmp_path, caplog):
    path = tmp_path / "keys"
    path.write_text("k" * 32)
    path.chmod(0o644)
    Keyring.from_file(path)
    assert mode_of(path) == 0o600
    assert "keys had mode 0644, open to other users: changed to 0600" in caplog.text


async def test_so_is_a_database_with_what_sqlite_keeps_beside_it(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = Store(f"sqlite:///{path}", Keyring(["k" * 32]), log=LOG)
    await store.open()
    beside = [path, *tmp_path.glob("jobs.sqlite-*")]
    assert len(beside) > 1
    for each in beside:
        each.chmod(0o666)
    # as a process does that was killed, and is started again: these are still there
    again = Store(f"sqlite:///{path}", Keyring(["k" * 32]), log=LOG)
    await again.open()
    assert {mode_of(each) for each in beside} == {0o600}
    await again.close()
    await store.close()


async def test_so_are_the_folders_of_what_users_send_and_no_other_one(tmp_path):
    for name in ("uploads", "logs", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o2777)
    tmp_path.chmod(0o755)
    storage = FileStorage(root=str(tmp_path))
    await storage.open()
    assert {mode_of(tmp_path / name) for name in ("uploads", "logs")} == {0o2700}
    assert (mode_of(tmp_path), mode_of(tmp_path / "other")) == (0o755, 0o2777)
    await storage.close()


async def test_a_database_that_is_another_programs_is_left_as_it_was(tmp_path):
    path = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE recipes (name)")
    path.chmod(0o644)
    with pytest.raises(StoreError):
        await Store(f"sqlite:///{path}", Keyring(["k" * 32]), log=LOG).open()
    assert mode_of(path) == 0o644


def test_what_is_closed_or_not_there_is_left_alone(tmp_path, caplog):
    path = tmp_path / "keys"
    make_private(path)
    path.touch(0o400)
    make_private(path)
    assert mode_of(path) == 0o400
    assert caplog.text == ""


@pytest.mark.parametrize(("mode", "is_said"), [(0o644, True), (0o640, False)])
def test_of_what_is_somebody_elses_the_log_says_so(tmp_path, caplog, monkeypatch, mode, is_said):
    path = tmp_path / "keys"
    path.touch()
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    make_private(path)
    assert mode_of(path) == mode
    assert ("open to all users: its owner should change that" in caplog.text) == is_said
