"""The command that starts a notebook in a job's image, and the meaning of its exit codes. Pure.

A launcher writes ``files.make_files`` to a folder that the job may read, and runs ``make_command`` of it in
place of the job's command.
"""

from __future__ import annotations

SOURCE_FILES = ("run_notebook.py", "notebook_setup.py")
"""The files that run the notebook; the first one imports the other."""

SETTINGS_FILE = "notebook.json"

NO_TOOLS = 90
"""As in ``in-job/notebook_setup.py``: the exit code if Python lacks the packages for notebooks."""

EXIT_REASONS = {
    1: (
        "CellFailed",
        "A cell of the notebook failed. See the error at the end of the log, or in the notebook.",
    ),
    90: (
        "NotebookToolsMissing",
        (
            "The image has no Python with papermill or nbclient (part of nbconvert), which notebooks "
            "need. Choose another image."
        ),
    ),
    91: ("BadNotebook", "The notebook or its parameters are invalid. See the end of the log."),
    92: ("KernelMissing", "The image has no kernel for the notebook. The end of the log lists its kernels."),
    93: (
        "KernelDied",
        (
            "The notebook's kernel died or does not respond: it may have run out of memory. The executed "
            "notebook contains the output up to that point."
        ),
    ),
    94: ("NotebookRunnerFailed", "The notebook runner failed. See the end of the log."),
}
"""The reason and the message for each exit code of ``in-job/run_notebook.py``."""

_START = f"""
for python in python3 python; do
  command -v "$python" >/dev/null 2>&1 && exec "$python" "$1/{SOURCE_FILES[0]}" "$1/{SETTINGS_FILE}"
done
echo '[kbatch] This image has no Python, which notebooks need. Choose another image.' >&2
exit {NO_TOOLS}
""".strip()


def make_command(folder: str) -> list[str]:
    """Return the command that runs a job's notebook with the files in ``folder``."""
    return ["sh", "-c", _START, "run-notebook", folder]
