"""Notebooks for tests, and an environment with what an image for notebooks has."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.cluster.build import cache_dir

PACKAGES = Path(__file__).parent / "browser/notebooks.txt"
"""All that is installed, with versions: papermill, nbconvert, ipykernel."""

PYTHON = "/usr/bin/python3"
"""The system's: jobs run as another account, which may not get to ours."""


def make_notebook(*cells: str, kernel: str | None = "python3", language: str = "python") -> str:
    """Return a notebook; a cell that begins with ``P:`` has the tag parameters, ``#:`` is Markdown."""
    spec = {"kernelspec": {"name": kernel, "display_name": kernel, "language": language}} if kernel else {}
    made = [_make_cell(number, source) for number, source in enumerate(cells)]
    return json.dumps({"cells": made, "metadata": spec, "nbformat": 4, "nbformat_minor": 5})


def _make_cell(number: int, source: str) -> dict[str, Any]:
    if source.startswith("#:"):
        return {"cell_type": "markdown", "id": f"c{number}", "source": source[2:], "metadata": {}}
    tags = {"tags": ["parameters"]} if source.startswith("P:") else {}
    return {
        "cell_type": "code",
        "id": f"c{number}",
        "source": source.removeprefix("P:"),
        "metadata": tags,
        "outputs": [],
        "execution_count": None,
    }


def read_outputs(notebook: str) -> list[str]:
    """Return what the code cells of an executed notebook have put out as streams, joined for each."""
    return [
        "".join("".join(output.get("text", "")) for output in cell["outputs"])
        for cell in json.loads(notebook)["cells"]
        if cell["cell_type"] == "code"
    ]


def ensure_environment() -> Path:
    """Return the folder of an environment with PACKAGES, which is made once."""
    folder = cache_dir() / f"notebooks-{hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:12]}"
    if not (folder / "done").exists():
        subprocess.run([PYTHON, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--requirement", PACKAGES], check=True)
        (folder / "done").touch()
    return folder


def copy_environment(target: Path) -> Path:
    """Make the same environment where other accounts may read it, and return the folder of its programs."""
    source = ensure_environment()
    shutil.copytree(source, target, symlinks=True)
    for program in (target / "bin").iterdir():
        if not program.is_symlink():
            program.write_bytes(program.read_bytes().replace(bytes(source), bytes(target)))
    return target / "bin"
