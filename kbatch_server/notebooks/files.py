"""The files that a notebook's job needs in addition to its code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from .launch import SETTINGS_FILE, SOURCE_FILES
from .request import Notebook


def make_files(notebook: Notebook, working_dir: str | None = None) -> dict[str, str]:
    """Return their content by name: the scripts that run the notebook, and the settings.

    ``working_dir`` is the folder in the code where the job runs: results have the notebook below it.
    """
    settings = notebook.model_dump() | {"working_dir": working_dir or ""}
    return {name: _read(name) for name in SOURCE_FILES} | {SETTINGS_FILE: json.dumps(settings)}


@cache
def _read(name: str) -> str:
    return (Path(__file__).parent / "in-job" / name).read_text()
