"""Build, download and install what the tests need, before the first test.

``python -m tests.support.provision [PART …]`` leaves what is there as it is, so it takes a second or two when
nothing has changed. No part needs another one. Three lines of parts are made side by side; those of one
line compete for the same thing (the processors for Go, the package indexes, buildah's storage).
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.support import azurite, clients, environments, images, lint, s3server
from tests.support.cluster import build, schemas
from tests.support.parts import PartMissing, cache_dir

Report = Callable[[str, float], None]
"""Called with the name of a piece that was made and the seconds that it took."""


@dataclass(frozen=True)
class Part:
    """One thing that tests need: ``find`` raises PartMissing until ``make`` was called."""

    name: str
    find: Callable[[], Path]
    make: Callable[[Report], None]


def _plain(make: Callable[[], None]) -> Callable[[Report], None]:
    return lambda report: make()


LINES = (
    (
        Part("Kubernetes", build.find_binaries, build.build_binaries),
        Part("kubeconform", schemas.find_kubeconform, _plain(schemas.build_kubeconform)),
        Part("actionlint", lint.find_actionlint, _plain(lint.build_actionlint)),
        Part("versitygw", s3server.find_s3server, _plain(s3server.build_s3server)),
    ),
    (
        Part("Azurite", azurite.find_azurite, _plain(azurite.install_azurite)),
        *(
            Part(each.name, each.find, _plain(each.install))
            for each in (*clients.ENVIRONMENTS.values(), environments.NOTEBOOKS)
        ),
    ),
    tuple(Part(f"image-{each.name}", each.find, _plain(each.build)) for each in images.IMAGES),
)
"""All parts: the lines are made at the same time, the parts of a line one after the other."""

NAMES = tuple(part.name for line in LINES for part in line)


class Progress:
    """Prints a line for each part, and for each piece of one, as they are made."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, name: str, what: str) -> None:
        """Print what became of a part."""
        with self._lock:
            print(f"  {name:28} {what}", file=self._out, flush=True)


def provision(*names: str, out: TextIO = sys.stdout) -> list[str]:
    """Make the parts of these names (all of them, if there is none), and return the errors as text."""
    wanted = [[part for part in line if part.name in (names or NAMES)] for line in LINES]
    progress = Progress(out)
    with ThreadPoolExecutor(len(LINES)) as threads:
        made = threads.map(lambda line: [_make(part, progress) for part in line], wanted)
        return [error for line in made for error in line if error]


def _make(part: Part, progress: Progress) -> str:
    """Make a part unless it is there. Returns the error, or nothing."""
    start = time.monotonic()
    try:
        with _locked(part):
            if _is_there(part):
                progress.say(part.name, "is there")
                return ""
            progress.say(part.name, "…")
            part.make(lambda piece, seconds: progress.say(f"{part.name}: {piece}", f"{seconds:.0f} s"))
            part.find()
    except (RuntimeError, OSError, PartMissing) as error:
        progress.say(part.name, f"FAILED after {time.monotonic() - start:.0f} s")
        return f"{part.name}: {error}"
    progress.say(part.name, f"{time.monotonic() - start:.0f} s")
    return ""


def _is_there(part: Part) -> bool:
    try:
        part.find()
    except PartMissing:
        return False
    return True


@contextmanager
def _locked(part: Part) -> Iterator[None]:
    """One process at a time makes a part; the others wait, and then find it."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / part.name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Make the parts that the command line names, or all; the exit status is 1 when one could not be made."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.provision", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(NAMES)}")
    names = parser.parse_args().parts
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    start = time.monotonic()
    print(f"Preparing what the tests need in {cache_dir()}:", flush=True)
    errors = provision(*names)
    for error in errors:
        print(f"\n{error}", file=sys.stderr)
    print(f"{'Not all of it is there' if errors else 'All there'} ({time.monotonic() - start:.0f} s)")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
