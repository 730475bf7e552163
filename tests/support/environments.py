"""Virtual environments that tests run programs in: pinned lists of packages, installed once."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from tests.support.parts import cache_dir, find_part, run_tool


class Environment:
    """One environment: its name, the file with its pinned packages (all of them), and its Python."""

    def __init__(self, name: str, requirements: Path, *, python: str = sys.executable) -> None:
        self.name = name
        self.requirements = requirements
        self.python = python

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        python = f"{os.path.realpath(self.python)} {sys.version}"
        digest = hashlib.sha256(self.requirements.read_bytes() + python.encode()).hexdigest()
        return cache_dir() / f"{self.name}-{digest[:12]}"

    def find(self) -> Path:
        """Return its folder; raises PartMissing."""
        find_part(self._mark, self.name)
        return self.folder

    def install(self) -> None:
        """Make it, in its place: an environment cannot be moved."""
        run_tool(self.python, "-m", "venv", "--clear", self.folder)
        pip = [self.folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run_tool(*pip, "--requirement", self.requirements)
        self._mark.touch()

    @property
    def _mark(self) -> Path:
        return self.folder / "done"

    def copy_to(self, folder: Path) -> None:
        """Make the same environment elsewhere, where other accounts may read it."""
        source = self.find()
        shutil.copytree(source, folder, symlinks=True, copy_function=_link)
        for program in (folder / "bin").iterdir():
            if not program.is_symlink():
                content = program.read_bytes()
                mode = program.stat().st_mode
                program.unlink()  # it may be the very file of the source
                program.write_bytes(content.replace(bytes(source), bytes(folder)))
                program.chmod(mode)


def _link(source: str, target: str) -> None:
    """Give a file a second name, which takes no time, or copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


HERE = Path(__file__).parents[1]

NOTEBOOKS = Environment(
    "notebooks",
    HERE / "browser/notebooks.txt",
    python="/usr/bin/python3",  # jobs run as an account that may have no access to ours
)
"""What an image for notebooks has: papermill, nbconvert, ipykernel."""
