"""What is in a folder while a service works in it."""

from __future__ import annotations

import os
from pathlib import Path


def find_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted. What vanishes meanwhile is left out, and no error."""
    return sorted(Path(place, name) for place, _, names in os.walk(folder) for name in names)
