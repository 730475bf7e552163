"""Prepares a notebook before its first cell: tools, the notebook itself, its kernel, its parameters.

It is a part of ``run_notebook``, in a separate file beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

CELL_FAILED, NO_TOOLS, BAD_NOTEBOOK, NO_KERNEL, KERNEL_DIED, RUNNER_FAILED = 1, 90, 91, 92, 93, 94
"""Exit codes; ``launch.EXIT_REASONS`` says in words what they mean."""

SAVE_SECONDS = 30
"""A cell that runs for longer than this is saved with its output so far, repeatedly."""

PROGRAMS = ("papermill", "jupyter-nbconvert", "jupyter-execute", "jupyter")
"""The first line of these names the Python that has papermill or nbclient, if it is not the one on PATH."""

PYTHON = "python"

KERNEL_LANGUAGES = {
    "bash": "bash",
    "deno": "typescript",
    "evcxr": "rust",
    "gophernotes": "go",
    "ihaskell": "haskell",
    "ijava": "java",
    "ijavascript": "javascript",
    "iperl": "perl",
    "ir": "R",
    "iruby": "ruby",
    "javascript": "javascript",
    "julia": "julia",
    "kotlin": "kotlin",
    "matlab": "matlab",
    "octave": "octave",
    "ruby": "ruby",
    "rust": "rust",
    "scala": "scala",
    "stata": "stata",
    "tslab": "typescript",
    "xcpp": "C++",
    "xr": "R",
}
"""The language of a kernel, by the letters at the beginning of its name. Other kernels count as Python's."""

METADATA_TYPES = {
    "execution": dict,
    "jupyter": dict,
    "kernelspec": dict,
    "language_info": dict,
    "papermill": dict,
    "tags": list,
    "widgets": dict,
}
"""The types of those metadata of a notebook or cell that nbclient, papermill and this program use."""

TRIED = "KBATCH_NOTEBOOK_PYTHON"
"""Set for a second Python, so that it does not look for a third."""


class Refused(Exception):
    """The notebook cannot run; carries the exit code and a sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Notebook:
    """The notebook, and the file to save it to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import nbformat

        self.path = os.path.abspath(settings["path"])
        self.folder = os.path.dirname(self.path)
        try:
            with open(self.path, encoding="utf-8") as file:
                content = json.load(file)
            clean(content)
            self.nb: Any = nbformat.reads(json.dumps(content), as_version=4)
        except OSError as error:
            raise Refused(
                BAD_NOTEBOOK, f"The notebook {settings['path']} cannot be read: {error.strerror}."
            ) from None
        except Exception as error:
            raise Refused(BAD_NOTEBOOK, f"{settings['path']} is not a notebook: {error}") from None
        self.target = find_target(settings["path"], settings["working_dir"])
        self._write = nbformat.writes
        self._next_save = 0.0

    def save(self) -> None:
        """Save the notebook as it is now."""
        begun = time.monotonic()
        write(self._write(self.nb), self.target)
        now = time.monotonic()
        self._next_save = now + max(SAVE_SECONDS, 20 * (now - begun))

    def save_if_due(self) -> None:
        """Save the notebook, unless it was saved recently."""
        if time.monotonic() >= self._next_save:
            self.save()


def clean(content: Any) -> None:
    """Correct a notebook's JSON as the tools expect it: some programs write null in place of empty values.

    Raises ValueError for JSON that is not a notebook. In notebooks before version 4, whose cells are
    elsewhere, it only corrects the notebook's own metadata.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    cells = content.get("cells", [])
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ValueError("it has no list of cells")
    for owner in (content, *cells):
        owner["metadata"] = clean_metadata(owner.get("metadata"))
    for cell in cells:
        if cell.get("source") is None:
            cell["source"] = ""
        if cell.get("cell_type") == "code" and not isinstance(cell.get("outputs"), list):
            cell["outputs"] = []


def clean_metadata(metadata: Any) -> dict[str, Any]:
    """Return the metadata of a notebook or cell without values that are null or have a wrong type."""
    if not isinstance(metadata, dict):
        return {}
    if isinstance(metadata.get("tags"), str):
        metadata["tags"] = [metadata["tags"]]
    return {
        name: value
        for name, value in metadata.items()
        if value is not None and isinstance(value, METADATA_TYPES.get(name, object))
    }


def find_target(path: str, working_dir: str) -> str | None:
    """Return the file for the executed notebook: its path in the code, below the results folder."""
    folder = os.environ.get("KBATCH_OUTPUT_DIR")
    if not folder:
        return None
    relative = os.path.normpath(path)
    if os.path.isabs(relative):
        return os.path.join(os.path.abspath(folder), os.path.basename(relative))
    return os.path.join(os.path.abspath(folder), working_dir, relative)


def write(text: str, target: str | None) -> None:
    """Write a whole file: if this is interrupted, the previous file stays."""
    if target is None:
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    scratch = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.part")
    with open(scratch, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.replace(scratch, target)


# Tools and kernels


def find_tool() -> str:
    """Return ``papermill`` or ``nbclient``; continue in another Python if only that has one of them."""
    with contextlib.suppress(Exception):  # an import may fail in any way
        import papermill
        import papermill.execute

        if int(papermill.__version__.split(".")[0]) >= 2:
            return "papermill"
    with contextlib.suppress(Exception):
        import nbclient  # noqa: F401

        return "nbclient"
    if TRIED not in os.environ:
        python = find_other_python()
        if python:
            os.execve(python, [python, *sys.argv], {**os.environ, TRIED: python})  # noqa: S606
    raise Refused(
        NO_TOOLS,
        f"The Python of this image ({sys.executable}) has neither papermill nor nbclient (part of "
        "nbconvert). "
        "A notebook needs one of them: choose another image, or install papermill and ipykernel in this "
        "image.",
    )


def find_other_python() -> str | None:
    """Return the interpreter of the first of PROGRAMS that names another one than this."""
    for program in PROGRAMS:
        path = shutil.which(program)
        if path is None:
            continue
        with open(path, "rb") as file:
            line = file.readline(4096).decode("utf-8", "replace")
        words = line[2:].split() if line.startswith("#!") else []
        if words and "python" in words[0] and os.access(words[0], os.X_OK):
            return words[0]
    return None


def find_language(nb: Any) -> str:
    """Return the language in a notebook's metadata, or that of its kernel's name; else python."""
    spec, info = nb.metadata.get("kernelspec", {}), nb.metadata.get("language_info", {})
    return simplify(str(info.get("name") or spec.get("language") or guess_language(str(spec.get("name")))))


def guess_language(kernel: str) -> str:
    """Return the language of a kernel by its name; python if the name does not tell."""
    name = kernel.lower()
    if re.match("conda-(env|root)-", name):  # nb_conda_kernels: conda-env-NAME-py, conda-env-NAME-r
        last = name.rpartition("-")[2]
        name = "ir" if last == "r" else last
    letters = re.match("[a-z]*", name)
    return KERNEL_LANGUAGES.get(letters.group() if letters else "", PYTHON)


def simplify(language: str) -> str:
    """Return ``python`` for its other names (python3, ipython); other languages unchanged."""
    return PYTHON if re.match(r"i?python[\d.]*$", language.lower()) else language


def choose_kernel(notebook: Notebook, wanted: str | None, tell: Callable[[str], None]) -> tuple[str, str]:
    """Return the kernel's name and its language, which the notebook's metadata say from then on.

    Where the image lacks the notebook's own, another one of its language; for Python the image's own first.
    """
    nb, kernels = notebook.nb, Kernels(notebook.folder)
    own, language = nb.metadata.get("kernelspec", {}), find_language(nb)
    name = wanted or own.get("name")
    spec = kernels.find(name)
    if spec is None:
        known = kernels.find_all()
        have = ", ".join(known) or "none"
        if wanted:
            raise Refused(
                NO_KERNEL,
                f"The job requests the kernel {wanted!r}, which the image does not have"
                f"{kernels.explain(wanted)}. Available kernels: {have}.",
            )
        same = [each for each, one in known.items() if simplify(one.language).lower() == language.lower()]
        if language == PYTHON and "python3" in known:
            same = ["python3"]
        if not same:
            package = "ipykernel" if language == PYTHON else "its kernel"
            raise Refused(
                NO_KERNEL,
                f"The image has no kernel for {language}, the notebook's language. Available kernels: "
                f"{have}. Choose an image with such a kernel, or install {package}.",
            )
        why = (
            f"This image does not have the notebook's kernel {name!r}{kernels.explain(name)}"
            if name
            else "The notebook names no kernel"
        )
        name = same[0]
        spec = known[name]
        instead = "the image's own Python" if name == "python3" else f"the kernel {name!r}"
        tell(f"{why}. The notebook runs with {instead}.")
    if own.get("name") != name or str(own.get("language")).lower() != spec.language.lower():
        nb.metadata["kernelspec"] = {
            "name": name,
            "display_name": spec.display_name,
            "language": spec.language,
        }
    if simplify(spec.language).lower() != language.lower():
        nb.metadata.pop("language_info", None)
    return name, simplify(spec.language)


class Kernels:
    """The image's kernels whose programs exist: some images have kernels of a removed environment."""

    def __init__(self, folder: str) -> None:
        from jupyter_client.kernelspec import KernelSpecManager

        self._specs = KernelSpecManager()
        self._folder = folder

    def find(self, name: Any) -> Any:
        """Return the kernel with this name, or None."""
        spec = self._read(name)
        return spec if spec is not None and self._has_program(spec) else None

    def find_all(self) -> dict[str, Any]:
        """Return all kernels by name, sorted."""
        known = {name: self.find(name) for name in sorted(self._specs.find_kernel_specs())}
        return {name: spec for name, spec in known.items() if spec is not None}

    def explain(self, name: Any) -> str:
        """Return a part of a sentence if a kernel was not found because its program is missing; else ""."""
        spec = self._read(name)
        return f" (its program {spec.argv[0]!r} is missing)" if spec is not None and spec.argv else ""

    def _read(self, name: Any) -> Any:
        with contextlib.suppress(Exception):
            return self._specs.get_kernel_spec(name)
        return None

    def _has_program(self, spec: Any) -> bool:
        """Whether a kernel's program can be started, as jupyter_client finds it."""
        if not spec.argv:
            return False
        program = spec.argv[0].replace("{resource_dir}", spec.resource_dir).replace("{prefix}", sys.prefix)
        major, minor = sys.version_info[:2]
        if program in ("python", f"python{major}", f"python{major}.{minor}"):  # means this very Python
            return True
        if os.path.dirname(program):
            program = os.path.join(self._folder, program)
        path = (spec.env or {}).get("PATH")
        return shutil.which(program, path=os.path.expandvars(path) if path else None) is not None


def is_captured(language: str) -> bool:
    """Whether the kernel sends writes to its descriptors as a cell's output: ipykernel from version 6 on."""
    try:
        from ipykernel import version_info
    except Exception:
        return language == PYTHON
    return language == PYTHON and int(version_info[0]) >= 6


# Parameters


def inject(nb: Any, settings: dict[str, Any], kernel: str, language: str) -> None:
    """Add a cell that sets the user's parameters, after the cell tagged "parameters", or as the first.

    It has the tag "injected-parameters", like papermill's, and replaces such a cell from an earlier run.
    Without parameters, it adds nothing.
    """
    import nbformat

    values, expressions = settings["parameters"], settings["expressions"]
    if not values and not expressions:
        return
    source = make_assignments(values, expressions, kernel, language)
    cell = nbformat.v4.new_code_cell(source=source, metadata={"tags": ["injected-parameters"]})
    nb.update(nbformat.v4.upgrade(nb))
    tags = [each.metadata.get("tags", []) for each in nb.cells]
    for index, found in enumerate(tags):
        if "injected-parameters" in found:
            nb.cells[index] = cell
            break
    else:
        place = next((index + 1 for index, found in enumerate(tags) if "parameters" in found), 0)
        nb.cells.insert(place, cell)


def make_assignments(values: dict[str, Any], expressions: dict[str, str], kernel: str, language: str) -> str:
    """Return code that assigns the values, which keep their types, to the names. Raises Refused."""
    if language == PYTHON:
        lines = ["# Parameters", *(f"{name} = {value!r}" for name, value in values.items())]
    else:
        lines = [translate(values, kernel, language).rstrip("\n")]
    for name, expression in expressions.items():
        check_expression(name, expression, language)
        is_plain = "\n" not in expression and "#" not in expression
        # else on lines of its own, so that a comment at its end ends there
        lines.append(f"{name} = {expression.strip()}" if is_plain else f"{name} = (\n{expression}\n)")
    source = "\n".join(lines)
    if language == PYTHON:
        try:
            compile(source, "parameters", "exec")
        except (SyntaxError, ValueError) as error:
            raise Refused(BAD_NOTEBOOK, f"The parameters are not valid Python: {error}.") from None
    return source


def translate(values: dict[str, Any], kernel: str, language: str) -> str:
    """Return the same code in a language that papermill knows."""
    try:
        from papermill.translators import translate_parameters
    except Exception:
        message = f"Parameters of a notebook in {language} need papermill, which this image does not have."
        raise Refused(NO_TOOLS, message) from None
    try:
        code: str = translate_parameters(kernel, language, values, "Parameters")
    except Exception as error:
        raise Refused(BAD_NOTEBOOK, f"The parameters cannot be set: {error}") from None
    return code


def check_expression(name: str, expression: str, language: str) -> None:
    """Raise Refused unless an expression can follow ``name =``; in Python it must be a single one."""
    if language == PYTHON:
        try:
            compile(expression.strip(), "expression", "eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise Refused(BAD_NOTEBOOK, f"The expression for {name} is not valid Python: {error}.") from None
    elif language.lower() not in ("r", "julia"):
        message = f"The parameter {name} is an expression, which only Python, R and Julia notebooks can have."
        raise Refused(BAD_NOTEBOOK, message)
