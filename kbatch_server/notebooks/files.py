"""The files that a notebook's job needs beside its code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from .launch import SETTINGS_FILE, SOURCE_FILES
from .request import Notebook


def make_files(notebook: Notebook, working_dir: str | None = None) -> dict[str, str]:
    """Return their content by name: what runs the notebook, and which one how.

    ``working_dir`` is the folder of the code that the job runs in: the notebook comes back below it.
    """
    settings = notebook.model_dump() | {"working_dir": working_dir or ""}
    return {name: _read(name) for name in SOURCE_FILES} | {SETTINGS_FILE: json.dumps(settings)}


@cache
def _read(name: str) -> str:
    return (Path(__file__).parent / "in-job" / name).read_text()
