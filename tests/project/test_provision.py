"""What the tests need is made before the first of them, by one command, and found by them only."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import provision
from tests.support.parts import PartMissing, find_part, making, run_tool
from tests.support.provision import Part

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("KBATCH_TEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def provide(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], list[str]]]:
    """Make parts that are files, by functions that write them; returns the lines printed, and the errors."""

    def make(path: Path, write: Callable[[Path], None]) -> Callable[[provision.Report], None]:
        def call(report: provision.Report) -> None:
            with making(path) as folder:
                report("piece", 3)
                write(folder)

        return call

    def provide(**parts: Callable[[Path], None]) -> tuple[list[str], list[str]]:
        line = tuple(
            Part(name, lambda name=name: find_part(cache / name / "done", name), make(cache / name, write))
            for name, write in parts.items()
        )
        monkeypatch.setattr(provision, "LINES", (line,))
        monkeypatch.setattr(provision, "NAMES", tuple(parts))
        out = io.StringIO()
        errors = provision.provision(out=out)
        return [" ".join(text.split()) for text in out.getvalue().splitlines()], errors

    return provide


@pytest.mark.parametrize(
    "part", [part for line in provision.LINES for part in line], ids=lambda part: part.name
)
def test_a_test_that_lacks_a_part_names_the_command_that_makes_it(part: Part) -> None:
    with pytest.raises(PartMissing, match=r"is missing\. Run: make test-install"):
        part.find()


def test_each_part_has_a_line_with_its_time_and_is_made_once(provide) -> None:
    made = []

    def write(folder: Path) -> None:
        made.append(folder.name)
        (folder / "done").touch()

    printed, errors = provide(one=write, two=write)
    assert printed == ["one …", "one: piece 3 s", "one 0 s", "two …", "two: piece 3 s", "two 0 s"]
    assert (errors, made) == ([], ["one", "two"])
    assert provide(one=write, two=write) == (["one is there", "two is there"], [])
    assert made == ["one", "two"]


def test_a_part_that_cannot_be_made_says_why_and_the_others_are_made(provide, cache: Path) -> None:
    printed, errors = provide(
        bad=lambda folder: run_tool("sh", "-c", "echo no network >&2; exit 3") and None,
        good=lambda folder: (folder / "done").touch(),
    )
    [error] = errors
    assert error.startswith("bad: sh -c ")
    assert "no network" in error
    assert "bad FAILED after 0 s" in printed
    assert printed[-1] == "good 0 s"


def test_a_part_that_was_cut_short_is_not_there(provide, cache: Path) -> None:
    def stop(folder: Path) -> None:
        (folder / "done").touch()
        raise RuntimeError("interrupted")

    assert provide(cut=stop)[1] == ["cut: interrupted"]
    assert {path.name for path in cache.iterdir()} == {"locks"}
    assert provide(cut=lambda folder: (folder / "done").touch())[1] == []


def test_the_command_runs_without_a_warning() -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.support.provision", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ("Kubernetes", "Azurite", "image-service"))
