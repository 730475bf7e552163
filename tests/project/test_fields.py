"""A job's field is spelled once: what the request's model declares is stored, shown, described and typed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_types", ROOT / "scripts/generate_types.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_have_the_types_of_the_api():
    generator = load_generator()
    assert generator.make_types() == generator.TARGET.read_text(), "run: python scripts/generate_types.py"
