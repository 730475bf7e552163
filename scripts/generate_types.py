"""Write the API's types for the pages, ``ui/src/net/schema.ts``: ``python scripts/generate_types.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kbatch_server.handlers import list_routes
from kbatch_server.handlers.openapi import make_openapi

UI = Path(__file__).parents[1] / "ui"

TARGET = UI / "src/net/schema.ts"


def make_types() -> str:
    """Return them, of what this code declares."""
    return compile_types(json.dumps(make_openapi("", "/", list_routes())))


def compile_types(described: str) -> str:
    """Return what ``ui/generate-types.mjs`` makes of an OpenAPI document."""
    # where the machine has no node, scripts/make-venv put it beside Python
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["node", "generate-types.mjs"]
    return subprocess.run(
        command, cwd=UI, env=env, input=described, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


if __name__ == "__main__":
    TARGET.write_text(make_types())
