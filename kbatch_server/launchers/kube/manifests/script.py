"""The shell scripts that run in a pod of a job: the files in ``scripts/`` beside this one."""

from __future__ import annotations

from importlib.resources import files


def read_script(*names: str) -> str:
    """Return one or more scripts, by their names without ``.sh``, as one text for ``sh -c``."""
    folder = files(__package__) / "scripts"
    lines = [line for name in names for line in (folder / f"{name}.sh").read_text().splitlines()]
    return "".join(f"{line}\n" for line in lines if not line.startswith("# shellcheck "))
