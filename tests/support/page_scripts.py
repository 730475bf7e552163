"""Runs modules of the pages in Node, so that a test can ask them what a browser would get."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

UI = Path(__file__).parents[2] / "ui"

_DRIVER = """
let text = "";
for await (const chunk of process.stdin) text += chunk;
const answers = [];
for (const [name, argument] of JSON.parse(text)) answers.push(await functions[name](argument));
console.log(JSON.stringify(answers));
"""


def bundle(functions: str, folder: Path) -> Callable[..., list[Any]]:
    """Return what calls functions of the pages: pairs of a name and an argument in, their results out.

    ``functions`` is TypeScript that imports from ``./src`` and has them in an object ``functions``. The
    bundle is written into ``folder``.
    """
    script = folder / "driver.mjs"
    command = [
        *("node_modules/.bin/esbuild", "--bundle", "--platform=node", "--format=esm", "--loader=ts"),
        *("--log-level=error", f"--outfile={script}"),
    ]
    subprocess.run(command, input=functions + _DRIVER, cwd=UI, text=True, check=True)

    def ask(*cases: tuple[str, Any]) -> list[Any]:
        done = subprocess.run(
            ["node", script], input=json.dumps(cases), capture_output=True, text=True, check=True
        )
        answers: list[Any] = json.loads(done.stdout)
        return answers

    return ask
