"""Where the parts are that the tests need and the project does not have: programs, environments, images.

``python -m tests.support.provision`` makes them, outside of the tree (``make test-install``). Tests only
find them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PartMissing(Exception):
    """A part is not there. Says which command makes it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing. Run: make test-install")


def cache_dir() -> Path:
    """Return the folder of all parts: ``$KBATCH_TEST_CACHE``, or one in the user's cache."""
    return Path(os.environ.get("KBATCH_TEST_CACHE") or "~/.cache/kbatch-server").expanduser()


def find_part(path: Path, name: str) -> Path:
    """Return the path of a part; raises PartMissing, which has this name, if it is not there."""
    if not path.exists():
        raise PartMissing(name)
    return path


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """Yield a new folder, which becomes the target when the block ends without an error.

    A target is therefore whole or not there, however a build was interrupted. Where another process was
    first, its result stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        yield folder
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def run_tool(*command: str | Path, cwd: Path | None = None, stdin: str | None = None, **env: str) -> str:
    """Run a program that helps to make a part and return what it printed.

    ``env`` is added to its environment. Raises RuntimeError with the end of its output if it fails.
    """
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, input=stdin, text=True, capture_output=True, check=False
    )
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise RuntimeError(f"{words} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout
