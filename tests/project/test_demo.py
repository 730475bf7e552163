"""The demo: a job whose command is ``python main.py``, as anyone types it, finds a Python that it may run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.__main__ import make_path
from demo.hub import DemoFailed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's jobs run as another account")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others can pass through, as the demo makes it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def roots_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python in a folder that is root's alone, linked to from the folder that is first on PATH."""
    (folder / "home").mkdir(mode=0o700)
    (folder / "home/python").symlink_to("/usr/bin/python3")
    (folder / "venv").mkdir()
    (folder / "venv/python").symlink_to(folder / "home/python")
    monkeypatch.setenv("PATH", f"{folder}/venv:/usr/bin:/bin")
    return folder / "venv/python"


@as_root
def test_the_python_of_jobs_is_one_that_their_account_may_run(folder: Path, roots_python: Path) -> None:
    path = make_path(folder)
    for name in ("python", "python3"):
        program = shutil.which(name, path=path)
        assert program not in (None, str(roots_python))
        done = subprocess.run([program, "-c", "print('runs')"], user="nobody", capture_output=True, text=True)
        assert done.stdout == "runs\n"


@as_root
def test_a_machine_without_such_a_python_is_told_what_to_do(
    folder: Path, roots_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.__main__.SYSTEM_PATH", "/nothing")
    with pytest.raises(DemoFailed, match="apt-get install python3"):
        make_path(folder)


def test_a_python_that_jobs_may_run_stays_theirs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own").mkdir()
    (folder / "own/python").symlink_to("/usr/bin/python3")
    monkeypatch.setenv("PATH", f"{folder}/own:/usr/bin:/bin")
    assert make_path(folder) == f"{folder}/own:/usr/bin:/bin"
