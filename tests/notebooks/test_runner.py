"""What runs a notebook in the image of a job: real papermill, nbclient and kernel, in an environment."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbatch_server.notebooks.files import make_files
from kbatch_server.notebooks.launch import make_command
from kbatch_server.notebooks.request import Notebook
from tests.support.environments import NOTEBOOKS
from tests.support.notebooks import make_notebook, read_outputs

pytestmark = pytest.mark.slow

SECONDS = 120
PARAMETERS = (
    'P:layers = [64, 32]\nzip_code = "00501"\ncolor = "#ff0000"\nlr = 1/3\ncfg = {"a": 1,\n       "b": 2}'
)
SHOW = "print([layers, zip_code, color, lr, cfg])"


class Image:
    """What an image has: programs on the PATH, and modules that cannot be imported."""

    def __init__(self, folder: Path, path: str, *, lacks: tuple[str, ...] = ()) -> None:
        self.code, self.output, self.files = folder / "code", folder / "output", folder / "files"
        for each in (self.code, self.output, self.files, folder / "lacks"):
            each.mkdir()
        for name in lacks:
            (folder / "lacks" / f"{name}.py").write_text("raise ImportError('not in this image')")
        self.env = {
            "PATH": path,
            "PYTHONPATH": str(folder / "lacks"),
            "HOME": str(folder / "nothing"),
            "KBATCH_OUTPUT_DIR": str(self.output),
        }

    def start(
        self, notebook: str, path: str = "train.ipynb", *, working_dir: str = "", **asked: object
    ) -> subprocess.Popen[str]:
        """Start the command of a job; both of its streams are one, as in a log."""
        folder = self.code / working_dir
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(notebook)
        for name, text in make_files(Notebook(path=path, **asked), working_dir).items():
            (self.files / name).write_text(text)
        return subprocess.Popen(
            make_command(str(self.files)),
            cwd=folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, notebook: str, path: str = "train.ipynb", **asked: object) -> tuple[int, str]:
        """Run it to its end, and return the exit code and the log."""
        process = self.start(notebook, path, **asked)
        log, _ = process.communicate(timeout=SECONDS)
        return process.returncode, log

    def read(self, path: str = "train.ipynb") -> list[str]:
        return read_outputs((self.output / path).read_text())


@pytest.fixture(scope="module")
def programs() -> str:
    return f"{NOTEBOOKS.find()}/bin:/usr/bin:/bin"


@pytest.fixture(params=["papermill", "nbclient"])
def image(request, tmp_path, programs) -> Image:
    return Image(tmp_path, programs, lacks=() if request.param == "papermill" else ("papermill",))


@pytest.fixture
def nbclient(tmp_path, programs) -> Image:
    return Image(tmp_path, programs, lacks=("papermill",))


def test_a_notebook_that_was_not_touched_computes_what_it_does_by_hand(image):
    assert image.run(make_notebook(PARAMETERS, SHOW)) == (
        0,
        "[[64, 32], '00501', '#ff0000', 0.3333333333333333, {'a': 1, 'b': 2}]\n",
    )
    assert "injected" not in (image.output / "train.ipynb").read_text()


def test_only_what_was_changed_is_set_and_has_its_type(image):
    done = image.run(
        make_notebook("#:# First", PARAMETERS, SHOW),
        parameters={"zip_code": "007", "layers": [1, 2.0, None, True, {"ü": '"'}]},
        expressions={"lr": "2/3  # as before", "cfg": "dict(\n    a=3,\n)"},
    )
    assert done == (
        0,
        "[[1, 2.0, None, True, {'ü': '\"'}], '007', '#ff0000', 0.6666666666666666, {'a': 3}]\n",
    )
    cells = json.loads((image.output / "train.ipynb").read_text())["cells"]
    tags = [cell["metadata"].get("tags") or None for cell in cells]
    assert tags == [None, ["parameters"], ["injected-parameters"], None]
    # again, from what came back
    again = image.run((image.output / "train.ipynb").read_text(), parameters={"color": "x"})
    assert again == (0, "[[64, 32], '00501', 'x', 0.3333333333333333, {'a': 1, 'b': 2}]\n")


def test_a_cell_that_may_raise_an_exception_fails_no_job(image):
    notebook = json.loads(make_notebook("1/0", "print('on')"))
    notebook["cells"][0]["metadata"]["tags"] = ["raises-exception"]
    code, log = image.run(json.dumps(notebook))
    assert (code, log.splitlines()[-1]) == (0, "on")
    notebook["cells"].append(dict(notebook["cells"][1], id="c9", source="raise ValueError('unexpected')"))
    code, log = image.run(json.dumps(notebook))
    assert code == 1
    assert "unexpected" in log


def test_parameters_of_a_notebook_without_such_a_cell_come_first(image):
    assert image.run(make_notebook("#:# Hello", "print(a)"), parameters={"a": 1}) == (0, "1\n")


def test_it_runs_in_its_own_folder_and_comes_back_where_it_was(image):
    (image.code / "data").mkdir()
    (image.code / "data/x.csv").write_text("a\n1\n")
    code = "print(open('../data/x.csv').read(), end='')\nopen('side.txt', 'w').close()"
    assert image.run(make_notebook(code), "notebooks/reads data.ipynb") == (0, "a\n1\n")
    assert image.read("notebooks/reads data.ipynb") == ["a\n1\n"]
    assert (image.code / "notebooks/side.txt").exists()


def test_in_a_folder_of_the_code_it_comes_back_below_that(nbclient):
    assert nbclient.run(make_notebook("print(1)"), "./a/b.ipynb", working_dir="repo-main/src") == (0, "1\n")
    assert nbclient.read("repo-main/src/a/b.ipynb") == ["1\n"]


def test_prints_come_once_and_as_they_come_and_nothing_else_is_in_the_log(image):
    code = """
import os, sys, subprocess, time
print("first", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
print("second", file=sys.stderr, flush=True)
time.sleep(1)
subprocess.run(["echo", "third"])
"""
    process = image.start(make_notebook(code, "print('last')"))
    assert process.stdout.readline() == "first\n"
    (image.code / "go").touch()
    assert process.communicate(timeout=SECONDS)[0] == "second\nthird\nlast\n"
    assert process.returncode == 0


def test_one_that_fails_comes_back_as_far_as_it_got_and_its_error_ends_the_log(image):
    code, log = image.run(make_notebook("print('before')", "#:# Text", "1/0", "print('never')"))
    assert code == 1
    assert log.startswith("before\n\nCell 3 of the notebook failed:\n")
    assert "ZeroDivisionError" in log.splitlines()[-1]
    assert image.read()[0] == "before\n"
    assert "ZeroDivisionError" in (image.output / "train.ipynb").read_text()


def test_one_that_ends_itself_has_not_failed(image):
    code, log = image.run(make_notebook("print('a')", "import sys; sys.exit()", "print('never')"))
    assert (code, log.splitlines()[0], "never" in log) == (0, "a", False)


def start_long(image):
    """Start a notebook, and return its process when its second cell has printed a line and runs on."""
    code = """
import time
print("in the cell", flush=True)
time.sleep(1)
print("more", flush=True)
time.sleep(600)
"""
    process = image.start(make_notebook("print('before')", code))
    assert [process.stdout.readline() for _ in range(3)] == ["before\n", "in the cell\n", "more\n"]
    return process


def test_one_that_is_cancelled_comes_back_with_all_that_it_has_put_out(image):
    process = start_long(image)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=SECONDS)[0] == ""
    assert process.returncode == 143
    assert image.read() == ["before\n", "in the cell\nmore\n"]


def test_one_whose_memory_ends_comes_back_with_the_cells_before(image):
    process = start_long(image)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert image.read()[0] == "before\n"
    assert [path.name for path in image.output.iterdir() if not path.name.startswith(".")] == ["train.ipynb"]


def test_a_long_cell_is_saved_again_and_again(image):
    for path in image.files.parent.joinpath("lacks").iterdir():
        assert path.name == "papermill.py"
    (image.files.parent / "lacks/sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path.append({str(image.files)!r})\n"
        "import notebook_setup\n"
        "notebook_setup.SAVE_SECONDS = 0.1\n"
    )
    process = start_long(image)
    deadline = time.monotonic() + SECONDS
    while image.read()[1:] != ["in the cell\nmore\n"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=SECONDS)


def test_a_kernel_that_dies_is_said_to_have_died(image):
    code, log = image.run(make_notebook("print('before')", "import os; os.kill(os.getpid(), 9)"))
    assert code == 93
    assert log == "before\n[kbatch] The kernel 'python3' died or does not respond (Kernel died).\n"
    assert image.read()[0] == "before\n"


@pytest.mark.parametrize("kernel", [".venv", "conda-env-mine-py", None])
def test_a_kernel_that_the_image_lacks_is_its_own_python_with_a_line_in_the_log(nbclient, kernel):
    code, log = nbclient.run(make_notebook("print('hello')", kernel=kernel))
    line, said = log.splitlines()
    assert (code, said) == (0, "hello")
    assert line.endswith("The notebook runs with the image's own Python.")
    assert kernel is None or repr(kernel) in line


def add_kernel(image: Image, name: str, program: str, language: str) -> None:
    """Add a kernel to an image. What is started does not matter here: it is Python that answers."""
    folder = image.files / "kernels" / name
    folder.mkdir(parents=True)
    argv = [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": name, "language": language}
    (folder / "kernel.json").write_text(json.dumps(spec))
    image.env["JUPYTER_PATH"] = str(image.files)


def test_the_images_own_python_comes_before_other_kernels_of_python(nbclient):
    add_kernel(nbclient, "another", "false", "python")
    code, log = nbclient.run(make_notebook("print('hello')", kernel=".venv"))
    assert (code, log.splitlines()[-1]) == (0, "hello")


def test_another_kernel_of_the_same_language_runs_a_notebook_whose_own_is_not_there(nbclient):
    add_kernel(nbclient, "julia-1.9", "/nothing/julia", "julia")
    add_kernel(nbclient, "julia-1.11", str(NOTEBOOKS.find() / "bin/python"), "julia")
    code, log = nbclient.run(make_notebook("print('hello')", kernel="julia-1.10", language="julia"))
    line, said = log.splitlines()
    assert (code, said) == (0, "hello")
    assert line.endswith("The notebook runs with the kernel 'julia-1.11'.")


def test_a_kernel_whose_program_is_missing_is_no_kernel(nbclient):
    add_kernel(nbclient, "venv-3", "/nothing/python", "python")
    code, log = nbclient.run(make_notebook("print('hello')", kernel="venv-3"))
    assert (code, log) == (
        0,
        "[kbatch] This image does not have the notebook's kernel 'venv-3' (its program '/nothing/python' is "
        "missing). The notebook runs with the image's own Python.\nhello\n",
    )
    code, log = nbclient.run(make_notebook("print('hello')"), kernel="venv-3")
    assert (code, log) == (
        92,
        "[kbatch] The job requests the kernel 'venv-3', which the image does not have (its program "
        "'/nothing/python' is missing). Available kernels: python3.\n",
    )


def test_a_kernel_that_was_asked_for_is_not_replaced(nbclient):
    code, log = nbclient.run(make_notebook("print('hello')"), kernel="julia-1.10")
    assert code == 92
    assert log == (
        "[kbatch] The job requests the kernel 'julia-1.10', which the image does not have. Available "
        "kernels: python3.\n"
    )


def test_a_language_without_a_kernel_is_named(nbclient):
    code, log = nbclient.run(make_notebook("x <- 1", kernel="ir", language="R"))
    assert code == 92
    assert "no kernel for R" in log
    assert "Available kernels: python3." in log


def set_metadata(notebook: str, metadata: object) -> str:
    return json.dumps({**json.loads(notebook), "metadata": metadata})


@pytest.mark.parametrize(
    ("kernel", "language"),
    [("ir", "R"), ("julia-1.10", "julia"), ("conda-env-stats-r", "R"), ("xcpp17", "C++"), ("ir43", "R")],
)
def test_a_kernel_is_of_the_language_that_its_name_tells_where_nothing_else_does(nbclient, kernel, language):
    code, log = nbclient.run(set_metadata(make_notebook("x <- 1"), {"kernelspec": {"name": kernel}}))
    assert (code, f"no kernel for {language}, the notebook's language" in log) == (92, True)


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": {"name": ".venv"}},
        {"kernelspec": {"name": "conda-env-r-py"}},
        {"kernelspec": {"name": ".venv", "language": "python3"}, "language_info": {"name": "python"}},
        {"kernelspec": {"name": ".venv", "language": "python3"}},
        {"kernelspec": {"name": ".venv", "language": "R"}, "language_info": {"name": "ipython"}},
    ],
)
def test_python_goes_by_several_names(nbclient, metadata):
    code, log = nbclient.run(set_metadata(make_notebook("print('hello')"), metadata))
    assert (code, log.splitlines()[-1]) == (0, "hello")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"kernelspec": None, "language_info": None, "papermill": None, "widgets": None},
        {"kernelspec": {"name": None, "language": None}, "language_info": {"name": None}},
        {"kernelspec": "python3", "language_info": ["python"]},
    ],
)
def test_a_notebook_may_have_null_where_it_has_nothing(image, metadata):
    notebook = json.loads(set_metadata(make_notebook(PARAMETERS, SHOW, "print('on')"), metadata))
    first, second, third = notebook["cells"]
    first["metadata"]["tags"] = "parameters"
    second["metadata"] = {"tags": None, "papermill": None, "execution": None, "jupyter": None}
    second["outputs"] = None
    third["metadata"] = None
    notebook["cells"].append({**third, "id": "c9", "source": None})
    code, log = image.run(json.dumps(notebook), parameters={"lr": 3})
    assert (code, log.splitlines()[-2:]) == (
        0,
        ["[[64, 32], '00501', '#ff0000', 3, {'a': 1, 'b': 2}]", "on"],
    )
    assert image.read()[-2:] == ["on\n", ""]


@pytest.mark.parametrize("cells", [None, {}, [None]])
def test_a_notebook_without_cells_is_said_to_be_none(nbclient, cells):
    code, log = nbclient.run(json.dumps({**json.loads(make_notebook()), "cells": cells}))
    assert (code, "is not a notebook" in log, log.count("\n")) == (91, True, 1)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("1/3)(", "The expression for lr is not valid Python: unmatched ')'"),
        ("x = 3", "The expression for lr is not valid Python"),
        ("1\nimport os", "The expression for lr is not valid Python"),
        ("(" * 300 + ")" * 300, "The expression for lr is not valid Python"),
    ],
)
def test_an_expression_is_one_expression_and_nothing_else(nbclient, expression, words):
    code, log = nbclient.run(make_notebook(PARAMETERS), expressions={"lr": expression})
    assert (code, words in log, log.count("\n")) == (91, True, 1)
    assert not (nbclient.output / "train.ipynb").exists()


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is not a notebook"), ("{}", "is not a notebook"), ("", "is not a notebook")]
)
def test_what_is_no_notebook_is_said_to_be_none(nbclient, text, words):
    code, log = nbclient.run(text)
    assert (code, words in log) == (91, True)


def test_a_notebook_that_is_not_there_is_named(nbclient):
    process = nbclient.start("{}", "other.ipynb")
    process.communicate(timeout=SECONDS)
    (nbclient.code / "other.ipynb").unlink()
    process = nbclient.start(make_notebook("1"), "train.ipynb")
    process.communicate(timeout=SECONDS)
    settings = nbclient.files / "notebook.json"
    settings.write_text(settings.read_text().replace("train", "gone"))
    done = subprocess.run(
        make_command(str(nbclient.files)), cwd=nbclient.code, env=nbclient.env, capture_output=True, text=True
    )
    said = "[kbatch] The notebook gone.ipynb cannot be read: No such file or directory.\n"
    assert (done.returncode, done.stderr) == (91, said)


def test_an_image_without_tools_says_what_it_lacks(tmp_path):
    code, log = Image(tmp_path, "/usr/bin:/bin", lacks=("papermill", "nbclient")).run(make_notebook("1"))
    assert code == 90
    assert log.startswith(
        "[kbatch] The Python of this image (/usr/bin/python3) has neither papermill nor nbclient"
    )


def test_an_image_without_python_says_so(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/sh")
    code, log = Image(tmp_path, str(tmp_path / "bin")).run(make_notebook("1"))
    assert (code, log) == (
        90,
        "[kbatch] This image has no Python, which notebooks need. Choose another image.\n",
    )


def test_the_python_that_has_the_tools_is_found_by_their_programs(tmp_path, programs):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/jupyter").symlink_to(NOTEBOOKS.find() / "bin/jupyter")
    image = Image(tmp_path, f"{tmp_path}/bin:/usr/bin:/bin")
    assert image.run(make_notebook("import sys; print(sys.prefix)")) == (0, f"{NOTEBOOKS.find()}\n")


def test_parameters_of_other_languages_are_set_by_papermill(programs):
    script = (
        "from notebook_setup import make_assignments\n"
        "for language, kernel in [('R', 'ir'), ('julia', 'julia-1.10')]:\n"
        "    print(make_assignments({'a': [1, 'x', None], 'b': True}, {'c': '1/3'}, kernel, language))\n"
    )
    folder = Path(__file__).parents[2] / "kbatch_server/notebooks/in-job"
    env = {"PATH": programs, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["python3", "-c", script], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == (
        '# Parameters\na = list(1, "x", NULL)\nb = TRUE\nc = 1/3\n'
        '# Parameters\na = [1, "x", nothing]\nb = true\nc = 1/3\n'
    )


@pytest.mark.parametrize("path", sorted(Path(make_files.__code__.co_filename).parent.glob("in-job/*.py")))
def test_what_runs_in_an_image_is_python_of_3_8(path):
    ast.parse(path.read_text(), feature_version=(3, 8))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    tops = {name.partition(".")[0] for name in imported} - {"notebook_setup"}
    assert tops <= sys.stdlib_module_names
