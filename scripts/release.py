"""Cut a release, and check or describe one that was cut; RELEASE.md says when to call what.

``release.py cut VERSION`` commits and tags the release here, then begins the next version. ``release.py check
TAG`` ends with 1 unless the tag, the package, the chart and the changelog agree. ``release.py notes VERSION``
prints the version's section of the changelog.

The version is that of ``kbatch_server/__init__.py``. The chart repeats it, as helm reads nothing else.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
PACKAGE, CHART, CHANGELOG = "kbatch_server/__init__.py", "helm/kbatch-server/Chart.yaml", "CHANGELOG.md"
UNRELEASED = "## Unreleased\n"


class ReleaseError(Exception):
    """A release cannot be cut, or what was cut does not agree. Says what to do."""


def read_version(root: Path) -> str:
    """Return the package's version."""
    return _find(root / PACKAGE, r'^__version__ = "(.+)"$')


def read_chart_versions(root: Path) -> tuple[str, str]:
    """Return the chart's version and the version of the service that it installs (appVersion)."""
    return _find(root / CHART, r"^version: (.+)$"), _find(root / CHART, r"^appVersion: (.+)$")


def make_chart_version(version: str) -> str:
    """Return a version as Semantic Versioning writes it, which helm requires: 0.2.0b1 is ``0.2.0-b.1``."""
    parsed = Version(version)
    pre = [str(part) for part in parsed.pre or ()]
    dev = [] if parsed.dev is None else ["dev", str(parsed.dev)]
    return parsed.base_version + (f"-{'.'.join([*pre, *dev])}" if pre or dev else "")


def make_next_version(version: str) -> str:
    """Return the version of the code that follows a release.

    It is 0.3.0.dev0 after 0.2.0, 0.2.2.dev0 after 0.2.1, and 0.2.0b2.dev0 after 0.2.0b1.
    """
    parsed = Version(version)
    if parsed.pre is not None:
        kind, number = parsed.pre
        return f"{parsed.base_version}{kind}{number + 1}.dev0"
    if parsed.micro:
        return f"{parsed.major}.{parsed.minor}.{parsed.micro + 1}.dev0"
    return f"{parsed.major}.{parsed.minor + 1}.0.dev0"


def set_version(root: Path, version: str) -> None:
    """Write a version into the package and the chart."""
    _replace(root / PACKAGE, r'^__version__ = ".+"$', f'__version__ = "{version}"')
    _replace(root / CHART, r"^version: .+$", f"version: {make_chart_version(version)}")
    _replace(root / CHART, r"^appVersion: .+$", f"appVersion: {version}")


def read_notes(root: Path, title: str) -> str:
    """Return what the changelog has under ``## TITLE``, the date left out; raises ReleaseError without it."""
    sections = re.split(r"^## ", (root / CHANGELOG).read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        head, _, text = section.partition("\n")
        if head.partition(" - ")[0].strip() == title:
            return text.strip()
    raise ReleaseError(f"{CHANGELOG} has no section {title}.")


def cut_changelog(root: Path, version: str, day: datetime.date) -> None:
    """Give what is unreleased a version and a date, and leave an empty section for what follows."""
    text = (root / CHANGELOG).read_text()
    cut = text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {day.isoformat()}\n", 1)
    (root / CHANGELOG).write_text(cut)


def cut(root: Path, version: str, day: datetime.date) -> None:
    """Commit and tag a release in a checkout, then commit the version of the code that follows it.

    Raises ReleaseError, and changes nothing, when the version is not newer than the last one, when its tag
    exists, when files have uncommitted changes, or when the changelog has nothing under Unreleased.
    """
    _check_may_cut(root, version)
    set_version(root, version)
    cut_changelog(root, version, day)
    _git(root, "commit", "--quiet", "--message", f"Release {version}", "--", PACKAGE, CHART, CHANGELOG)
    _git(root, "tag", "--annotate", "--message", f"kbatch-server {version}", f"v{version}")
    following = make_next_version(version)
    set_version(root, following)
    _git(root, "commit", "--quiet", "--message", f"Begin {following}", "--", PACKAGE, CHART)


def _check_may_cut(root: Path, version: str) -> None:
    parsed = _parse(version)
    is_plain = parsed and not (parsed.is_devrelease or parsed.is_postrelease or parsed.local or parsed.epoch)
    if parsed is None or not is_plain or str(parsed) != version or len(parsed.release) != 3:
        raise ReleaseError(
            f"A release cannot be called {version}: give a version like 0.2.0, 0.2.1 or 0.3.0b1."
        )
    if changes := _git(root, "status", "--porcelain"):
        raise ReleaseError(f"These files have changes: commit or stash them first.\n{changes}")
    if _git(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"The tag v{version} exists: choose a newer version.")
    tags = _git(root, "tag", "--merged", "HEAD", "--list", "v*").split()
    released = [each for each in (_parse(tag.removeprefix("v")) for tag in tags) if each]
    # only this branch's tags count: 0.2.1 may be cut after 0.3.0, on a branch that begins at v0.2.0
    last = max(released, default=Version(read_version(root)))
    if parsed <= last:
        raise ReleaseError(f"{version} is not newer than {last}: choose a newer version.")
    if not read_notes(root, "Unreleased"):
        raise ReleaseError(f"{CHANGELOG} has nothing under Unreleased: say there what the release changes.")


def _parse(version: str) -> Version | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None


def check(root: Path, tag: str) -> None:
    """Raise ReleaseError unless the tag, the package, the chart and the changelog are of one version."""
    version = read_version(root)
    if tag != f"v{version}":
        raise ReleaseError(f"The tag is {tag}, but {PACKAGE} says {version}.")
    if read_chart_versions(root) != (make_chart_version(version), version):
        raise ReleaseError(f"{CHART} does not say {version} as its version and appVersion.")
    if not read_notes(root, version):
        raise ReleaseError(f"{CHANGELOG} says nothing of {version}.")


def _find(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseError(f"{path} has no line like {pattern}.")
    return found[1]


def _replace(path: Path, pattern: str, line: str) -> None:
    text, count = re.subn(pattern, lambda _: line, path.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise ReleaseError(f"{path} has {count} lines like {pattern}, not one.")
    path.write_text(text)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.rstrip()


def main() -> int:
    """Do what the command line says; the exit status is 1 when it cannot be done."""
    parser = argparse.ArgumentParser(prog="release.py", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cut", help="commit and tag a release").add_argument("version")
    commands.add_parser("check", help="see that all agree with a tag").add_argument("tag")
    commands.add_parser("notes", help="print the changelog of a version").add_argument("version")
    options = parser.parse_args()
    try:
        if options.command == "cut":
            cut(ROOT, options.version, datetime.datetime.now(datetime.UTC).date())
            tag = f"v{options.version}"
            print(f"Tagged {tag}. To publish it: git push --atomic origin HEAD {tag}")
        elif options.command == "check":
            check(ROOT, options.tag)
        else:
            print(read_notes(ROOT, options.version))
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
