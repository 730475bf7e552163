"""Write the table of docs/helm.md from the chart's values.yaml: ``python docs/generate_helm.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "kbatch-server"
TARGET = HERE / "helm.md"
BEGIN, END = "<!-- made by docs/generate_helm.py from the chart's values.yaml -->\n", "<!-- end -->"


def make_page() -> str:
    """Return the page, with its table made anew."""
    before, _, rest = TARGET.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + make_table() + END + after


def make_table() -> str:
    """Return one row for each value: its name, its default, what is said of it."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    comments = dict(read_comments())
    rows = []
    for name in find_values():
        # what is switched on is said above the switch
        said = comments[name.removesuffix(".enabled") if comments[name] == "Create it." else name]
        rows.append(f"| `{name}` | {format_default(find_value(values, name))} | {said} |")
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows, ""])


def find_values() -> list[str]:
    """Return the values, like ``hub.apiUrl``: what the schema does not say the inside of."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    return [name for name in _walk(schema, "") if name != "global"]


def _walk(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, below in schema["properties"].items():
        if "properties" in below and name != "resources":
            yield from _walk(below, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def find_value(values: dict[str, Any], name: str) -> Any:
    """Return a value's default."""
    found: Any = values
    for word in name.split("."):
        found = found[word]
    return found


def read_comments() -> Iterator[tuple[str, str]]:
    """Yield each value's name and the comment right above it."""
    path: list[str] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        key = re.match(r"( *)(\w+):", line)
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        if key:
            path = [*path[: len(key[1]) // 2], key[2]]
            yield ".".join(path), " ".join(comment)
        comment = []


def format_default(value: Any) -> str:
    """Return a default as code; the long ones are in values.yaml."""
    if isinstance(value, (dict, list)) and value:
        text = json.dumps(value)
        return f"`{text}`" if len(text) < 40 else "see values.yaml"
    return "" if value in ("", None) else f"`{json.dumps(value)}`".replace('`"', "`").replace('"`', "`")


if __name__ == "__main__":
    TARGET.write_text(make_page())
