"""The files that a notebook's job needs beside its code."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .launch import SETTINGS_FILE, SOURCE_FILES
from .request import Notebook


def make_files(notebook: Notebook) -> dict[str, str]:
    """Return their content by name: what runs the notebook, and which one how."""
    return {name: _read(name) for name in SOURCE_FILES} | {SETTINGS_FILE: notebook.model_dump_json()}


@cache
def _read(name: str) -> str:
    return (Path(__file__).parent / "in-job" / name).read_text()
