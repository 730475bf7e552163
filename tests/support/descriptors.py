"""What this process holds open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def list_open_below(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths in a folder, itself included, that a descriptor of this process is of.

    All descriptors together say less: whatever else runs in the process, as a thread of the launcher or the
    garbage collector, opens and closes some meanwhile.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one of this very listing
            found.append(Path(os.readlink(f"/proc/self/fd/{name}")))
    return sorted(str(path) for path in found if path.is_relative_to(folder))
