"""A release: one command sets the version, cuts the changelog, commits and tags, or changes nothing."""

from __future__ import annotations

import datetime
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAY = datetime.date(2026, 12, 24)


def load_release():
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load_release()


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Run git in the checkout, as somebody; nothing of this machine's configuration counts."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # of a commit whose hook runs the tests
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Maintainer")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "maintainer@example.org")

    def run(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=tmp_path / "checkout", capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture
def checkout(tmp_path, git):
    """A repository with the files that a release reads and changes, at 0.1.0.dev0."""
    root = tmp_path / "checkout"
    for name in (release.PACKAGE, release.CHART, "scripts/release.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    text = "# Changelog\n\n## Unreleased\n\n### New\n\n- Jobs.\n"
    (root / release.CHANGELOG).write_text(text)
    release.set_version(root, "0.1.0.dev0")
    git("init", "--quiet", "--initial-branch", "main")
    git("add", ".")
    git("commit", "--quiet", "--message", "Begin")
    return root


def note(root: Path, git, line: str) -> None:
    """Commit a change that the changelog tells of."""
    path = root / release.CHANGELOG
    path.write_text(path.read_text().replace("## Unreleased\n", f"## Unreleased\n\n- {line}\n", 1))
    git("commit", "--quiet", "--all", "--message", line)


def test_a_release_is_a_tagged_commit_of_one_version_and_the_next_version_begins(checkout, git):
    release.cut(checkout, "0.1.0", DAY)
    assert git("log", "--format=%s") == "Begin 0.2.0.dev0\nRelease 0.1.0\nBegin"
    assert release.read_version(checkout) == "0.2.0.dev0"
    assert release.read_chart_versions(checkout) == ("0.2.0-dev.0", "0.2.0.dev0")
    assert git("cat-file", "-t", "v0.1.0") == "tag"
    git("checkout", "--quiet", "v0.1.0")
    assert git("log", "--format=%s", "-1") == "Release 0.1.0"
    release.check(checkout, "v0.1.0")
    assert release.read_chart_versions(checkout) == ("0.1.0", "0.1.0")
    changelog = (checkout / release.CHANGELOG).read_text()
    assert changelog == "# Changelog\n\n## Unreleased\n\n## 0.1.0 - 2026-12-24\n\n### New\n\n- Jobs.\n"
    assert release.read_notes(checkout, "0.1.0") == "### New\n\n- Jobs."
    assert not git("status", "--porcelain")


def test_the_command_says_how_to_publish_what_it_tagged(checkout, git):
    command = [sys.executable, "scripts/release.py", "cut", "0.1.0"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "git push --atomic origin HEAD v0.1.0" in done.stdout
    assert git("tag") == "v0.1.0"


def test_a_patch_is_cut_from_the_tag_of_what_it_mends(checkout, git):
    release.cut(checkout, "0.1.0", DAY)
    note(checkout, git, "Queues.")
    release.cut(checkout, "0.2.0", DAY)
    git("checkout", "--quiet", "-b", "0.1.x", "v0.1.0")
    note(checkout, git, "A fix.")
    release.cut(checkout, "0.1.1", DAY)
    assert release.read_version(checkout) == "0.1.2.dev0"
    assert release.read_notes(checkout, "0.1.1") == "- A fix."


def test_a_version_to_try_comes_before_the_version(checkout, git):
    release.cut(checkout, "0.1.0b1", DAY)
    assert release.read_version(checkout) == "0.1.0b2.dev0"
    note(checkout, git, "A fix.")
    release.cut(checkout, "0.1.0", DAY)
    assert git("tag").split() == ["v0.1.0", "v0.1.0b1"]


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("next", "cannot be called next"),
        ("v0.2.0", "cannot be called v0.2.0"),
        ("0.2", "cannot be called 0.2:"),
        ("0.2.0.dev1", "cannot be called"),
        ("0.2.0-b1", "cannot be called"),
        ("0.2.0+local", "cannot be called"),
        ("0.0.9", "not newer than 0.1.0.dev0"),
        ("", "cannot be called"),
    ],
)
def test_a_version_that_none_may_have_changes_nothing(checkout, git, version, said):
    with pytest.raises(release.ReleaseError, match=said):
        release.cut(checkout, version, DAY)
    assert (git("log", "--format=%s"), git("tag"), git("status", "--porcelain")) == ("Begin", "", "")


def test_a_tree_with_changes_is_not_released(checkout, git):
    (checkout / "left.py").write_text("")
    with pytest.raises(release.ReleaseError, match=r"(?s)commit or stash.*left\.py"):
        release.cut(checkout, "0.1.0", DAY)
    assert not git("tag")


def test_nothing_unreleased_is_not_released(checkout, git):
    release.cut(checkout, "0.1.0", DAY)
    with pytest.raises(release.ReleaseError, match="nothing under Unreleased"):
        release.cut(checkout, "0.2.0", DAY)
    assert git("tag") == "v0.1.0"


def test_a_version_is_released_once(checkout, git):
    release.cut(checkout, "0.2.0", DAY)
    note(checkout, git, "Queues.")
    for version, said in (("0.2.0", "v0.2.0 exists"), ("0.1.9", r"not newer than 0\.2\.0")):
        with pytest.raises(release.ReleaseError, match=said):
            release.cut(checkout, version, DAY)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (release.PACKAGE, '"0.1.0"', '"0.1.1"'),
        (release.CHART, "\nversion: 0.1.0", "\nversion: 0.1.1"),
        (release.CHART, "appVersion: 0.1.0", "appVersion: 0.1.1"),
        (release.CHANGELOG, "## 0.1.0 -", "## 0.1.1 -"),
    ],
)
def test_a_tag_that_does_not_agree_with_a_file_is_found(checkout, git, name, old, new):
    release.cut(checkout, "0.1.0", DAY)
    git("checkout", "--quiet", "v0.1.0")
    text = (checkout / name).read_text()
    assert old in text
    (checkout / name).write_text(text.replace(old, new))
    command = [sys.executable, "scripts/release.py", "check", "v0.1.0"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert name in done.stderr


@pytest.mark.parametrize(
    ("version", "chart"),
    [("0.2.0", "0.2.0"), ("0.2.0b1", "0.2.0-b.1"), ("1.0.0rc2", "1.0.0-rc.2"), ("0.2.0.dev0", "0.2.0-dev.0")],
)
def test_the_version_of_the_chart_is_a_semantic_version(version, chart):
    assert release.make_chart_version(version) == chart


def test_the_versions_of_this_checkout_agree():
    version = release.read_version(ROOT)
    assert release.read_chart_versions(ROOT) == (release.make_chart_version(version), version)
