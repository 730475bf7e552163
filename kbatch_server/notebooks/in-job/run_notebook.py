"""Runs one notebook with the tools in the job's image: papermill, or nbclient, a part of nbconvert.

The launchers put the files of this folder and the settings beside a job, and start it with the image's own
Python, of version 3.8 or later. It imports nothing of the service. The settings are a JSON object: ``path``
of the notebook, ``parameters`` (a value for each name), ``expressions`` (code for each name), the ``kernel``
to use or null, and ``working_dir``, the folder in the code where this starts.

It saves the executed notebook to ``$KBATCH_OUTPUT_DIR`` after each cell, and every half minute during a long
one. The output of the cells appears on standard output and standard error as it is written. In addition, the
log has only what the notebook's user must know.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import notebook_setup as setup
from notebook_setup import Notebook, Refused

START_SECONDS = 300
"""Maximum time for a kernel to start: the image may not be in the disk's cache."""

OUTPUT_SECONDS = 60
"""Seconds to wait for the rest of a cell's output after the kernel has reported its end."""

KERNEL_ERRORS = ("DeadKernelError", "RuntimeError", "TimeoutError", "CellTimeoutError")
"""The names of errors that mean that a kernel does not start, or does not respond any more."""

PREFIX = "[kbatch]"
"""The beginning of each line in the log that this script writes."""

PIECE_BYTES, MAX_HELD_BYTES = 64 * 1024, 64 * 1024


class Stopped(SystemExit):
    """TERM arrived. A SystemExit, because an event loop passes that on immediately."""


class CellFailed(Exception):
    """A cell raised an error; carries the cell's number and the lines of the error."""


class Relay:
    """Receives what programs write to the descriptors 1 and 2: a kernel's own log, output of libraries.

    It drops output from before the first cell, unless the kernel does not start: kernels print warnings there
    about their transport and their debugger. Later it passes the output on, unless the kernel also sends it
    as a cell's output. The cells' output goes to ``out`` and ``err``.
    """

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        self.err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        self.is_open = False
        self.passes_on = True
        """Whether to show output while the relay is open."""
        self._pipe, end = os.pipe()
        for number in (1, 2):
            os.dup2(end, number)
        os.close(end)
        self._held = b""
        self._lock = threading.Lock()
        threading.Thread(target=self._copy, daemon=True).start()

    def open(self, **_: Any) -> None:
        """Forget the output so far; a hook that is called before each cell."""
        with self._lock:
            while not self.is_open and self._has_more():
                os.read(self._pipe, PIECE_BYTES)
            self._held = b""
            self.is_open = self.passes_on

    def take_held(self) -> str:
        """Return the end of the output that was not passed on."""
        with self._lock:
            return self._held.decode("utf-8", "replace")

    def _has_more(self) -> bool:
        return bool(select.select([self._pipe], [], [], 0)[0])

    def _copy(self) -> None:
        while True:
            select.select([self._pipe], [], [])
            with self._lock:
                if not self._has_more():  # somebody else took it
                    continue
                data = os.read(self._pipe, PIECE_BYTES)
                if self.is_open:
                    self.err.buffer.write(data)
                    self.err.buffer.flush()
                else:
                    self._held = (self._held + data)[-MAX_HELD_BYTES:]


def tell(relay: Relay, message: str) -> None:
    """Print a line for the job's user."""
    print(f"{PREFIX} {message}", file=relay.err, flush=True)


def run(settings: dict[str, Any], tool: str, relay: Relay) -> int:
    """Run the notebook and return the exit code."""
    notebook = Notebook(settings)
    kernel, language = setup.choose_kernel(notebook, settings["kernel"], partial(tell, relay))
    setup.inject(notebook.nb, settings, kernel, language)
    relay.passes_on = not setup.is_captured(language)
    if notebook.target is None:
        tell(relay, "Saving results is off for this job, so the executed notebook is not saved.")
    os.chdir(notebook.folder)
    options = {
        "kernel_name": kernel,
        "iopub_timeout": OUTPUT_SECONDS,
        "coalesce_streams": True,
        "on_cell_start": relay.open,
    }
    execute = run_papermill if tool == "papermill" else run_nbclient
    try:
        execute(notebook, settings, relay, options)
    except CellFailed as error:
        number, lines = error.args
        print(f"\nCell {number} of the notebook failed:\n" + "\n".join(lines), file=relay.err, flush=True)
        return setup.CELL_FAILED
    except Exception as error:
        if type(error).__name__ not in KERNEL_ERRORS:
            raise
        relay.err.write(relay.take_held())
        tell(relay, f"The kernel {kernel!r} died or does not respond ({str(error).strip() or 'no message'}).")
        return setup.KERNEL_DIED
    finally:
        relay.is_open = False  # a kernel may say farewell
    return 0


def run_papermill(
    notebook: Notebook, settings: dict[str, Any], relay: Relay, options: dict[str, Any]
) -> None:
    """Run it with papermill, which reads and writes through us: if killed, it would leave half a file."""
    import nbformat
    import papermill
    import papermill.execute
    from papermill.exceptions import PapermillExecutionError
    from papermill.iorw import papermill_io

    raise_for_errors = papermill.execute.raise_for_execution_errors

    def raise_for_unexpected_errors(nb: Any, *args: Any) -> None:
        # papermill 2.7 runs on after a cell tagged "raises-exception", and then takes its error for a failure
        if any(find_error(cell) or is_marked_failed(cell) for cell in nb.cells if not may_fail(cell)):
            raise_for_errors(nb, *args)

    papermill.execute.raise_for_execution_errors = raise_for_unexpected_errors

    class Files:
        """A handler of papermill for absolute paths."""

        def read(self, path: str) -> str:
            text: str = nbformat.writes(notebook.nb)
            return text

        def write(self, text: str, path: str) -> None:
            setup.write(text, notebook.target)

        def pretty_path(self, path: str) -> str:
            return path

    notebook.nb.metadata["papermill"] = {
        "default_parameters": {},
        "environment_variables": {},
        "parameters": {**settings["parameters"], **settings["expressions"]},
        "version": papermill.__version__,
    }
    papermill_io.register("/", Files())
    try:
        papermill.execute_notebook(
            notebook.path,
            notebook.target or "/no-results.ipynb",
            progress_bar=False,
            stdout_file=relay.out,
            stderr_file=relay.err,
            start_timeout=START_SECONDS,
            autosave_cell_every=setup.SAVE_SECONDS,
            **options,
        )
    except PapermillExecutionError as error:
        said = error.traceback or [f"{error.ename}: {error.evalue}"]
        raise CellFailed(error.cell_index + 1, said) from None


def run_nbclient(notebook: Notebook, settings: dict[str, Any], relay: Relay, options: dict[str, Any]) -> None:
    """Run it with nbclient, one cell at a time, as papermill does."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    class Client(NotebookClient):  # type: ignore[misc, unused-ignore]
        """Passes on what cells print, as it comes."""

        def process_message(self, *args: Any, **kwargs: Any) -> Any:
            output = super().process_message(*args, **kwargs)
            if output is not None and output.output_type == "stream":
                stream = relay.err if output.name == "stderr" else relay.out
                stream.write("".join(output.text))
                stream.flush()
            notebook.save_if_due()
            return output

    nb = notebook.nb
    resources = {"metadata": {"path": notebook.folder}}
    client = Client(nb, timeout=None, startup_timeout=START_SECONDS, resources=resources, **options)
    client.reset_execution_trackers()
    notebook.save()
    with client.setup_kernel():
        for index, cell in enumerate(nb.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError:
                if is_clean_exit(cell):
                    break
                raise CellFailed(index + 1, find_error(cell)) from None
            finally:
                notebook.save()
        client.set_widgets_metadata()
        notebook.save()


def may_fail(cell: Any) -> bool:
    """Whether the notebook's author expects an error in this cell, and wants the notebook to continue."""
    return "raises-exception" in cell.metadata.get("tags", [])


def is_marked_failed(cell: Any) -> bool:
    """Whether papermill marks a cell as failed that has no error in its output."""
    return cell.metadata.get("papermill", {}).get("exception") is True


def find_error(cell: Any) -> list[str]:
    """Return the lines of a cell's error."""
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            return list(output.traceback) or [f"{output.ename}: {output.evalue}"]
    return []


def is_clean_exit(cell: Any) -> bool:
    """Whether a cell ended the notebook with ``sys.exit()``, which is no failure, as in papermill."""
    errors = [output for output in cell.outputs if output.output_type == "error"]
    return bool(errors) and all(each.ename == "SystemExit" and each.evalue in ("", "0") for each in errors)


def stop(relay: Relay, *_: Any) -> NoReturn:
    """Stop immediately; the output so far is saved on the way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    relay.is_open = False  # the kernel may complain
    raise Stopped(128 + signal.SIGTERM)


@contextlib.contextmanager
def make_runtime() -> Iterator[None]:
    """Provide a writable folder for kernels, whatever their user is and wherever HOME is."""
    os.environ.setdefault(
        "PYDEVD_DISABLE_FILE_VALIDATION", "1"
    )  # else the debugger warns of Python's own modules
    try:
        folder = tempfile.mkdtemp(prefix="kbatch-")
    except OSError:
        folder = tempfile.mkdtemp(prefix=".kbatch-", dir=".")
    os.environ["JUPYTER_RUNTIME_DIR"] = os.path.abspath(folder)
    try:
        yield
    finally:
        shutil.rmtree(os.environ["JUPYTER_RUNTIME_DIR"], ignore_errors=True)


def main(path: str) -> int:
    """Run the notebook that a settings file names, and return the exit code."""
    sys.path.pop(0)  # our own folder
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    try:
        tool = setup.find_tool()
    except Refused as error:
        print(f"{PREFIX} {error}", file=sys.stderr, flush=True)
        return error.code
    relay = Relay()
    try:
        signal.signal(signal.SIGTERM, partial(stop, relay))
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        with make_runtime():
            return run(settings, tool, relay)
    except Refused as error:
        tell(relay, str(error))
        return error.code
    except Stopped as error:
        return int(error.code or 0)
    except Exception:
        relay.err.write(relay.take_held())
        traceback.print_exc(file=relay.err)
        return setup.RUNNER_FAILED
    finally:
        relay.out.flush()
        relay.err.flush()


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))  # at once: no thread, task or kernel is to keep it, and none is to complain
