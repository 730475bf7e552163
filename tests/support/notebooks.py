"""Notebooks for tests."""

from __future__ import annotations

import json
from typing import Any


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
