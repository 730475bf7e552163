"""Notebooks as jobs of this machine: what comes back of them, and what is said of how they ended."""

from __future__ import annotations

import pytest

from tests.launchers.local.test_outputs import pack
from tests.service.test_local_launcher import (  # noqa: F401
    Changes,
    changes,
    jobs_root,
    launcher,
    make_job,
    newest_log,
    run,
)
from tests.support.environments import NOTEBOOKS
from tests.support.notebooks import make_notebook, read_outputs
from tests.support.zips import make_zip

pytestmark = pytest.mark.slow


@pytest.fixture
def env(tmp_path_factory, jobs_root):  # noqa: F811
    # where the account of the jobs may read it
    folder = jobs_root.parent / "env"
    NOTEBOOKS.copy_to(folder)
    return {"PATH": f"{folder}/bin:/usr/bin:/bin"}


async def run_notebook(launcher, changes, env, files, path):  # noqa: F811
    launcher.storage.objects["k"] = make_zip(files)
    job = make_job(upload="u", keep_outputs=True, collect="workdir", notebook={"path": path})
    status = await run(launcher, changes, job, code_key="k", env=env)
    found, _ = await pack(launcher, job)
    return status, found, newest_log(launcher, job).read_text()


async def test_what_it_writes_beside_itself_comes_back_with_it(launcher, changes, env):  # noqa: F811
    code = 'print(open("../data/x.csv").read(), end=""); open("trial.csv", "w").write("a,b\\n1,2\\n")'
    files = {"notebooks/a.ipynb": make_notebook(code, "import helper"), "data/x.csv": "x\n"}
    files["notebooks/helper.py"] = "print('helps')"
    status, found, log = await run_notebook(launcher, changes, env, files, "notebooks/a.ipynb")
    assert (status.status, log) == ("succeeded", "x\nhelps\n")
    assert sorted(found) == ["notebooks/a.ipynb", "notebooks/trial.csv"]
    assert read_outputs(found["notebooks/a.ipynb"].decode()) == ["x\n", "helps\n"]


async def test_one_that_fails_comes_back_as_far_as_it_got(launcher, changes, env):  # noqa: F811
    files = {"fails.ipynb": make_notebook('open("side", "w").close(); print("before the failure")', "1/0")}
    status, found, log = await run_notebook(launcher, changes, env, files, "fails.ipynb")
    assert (status.status, status.reason, status.exit_code) == ("failed", "Error", 1)
    assert sorted(found) == ["fails.ipynb", "side"]
    assert "ZeroDivisionError: division by zero" in log.splitlines()[-1].replace("\x1b[39m", "")
    assert read_outputs(found["fails.ipynb"].decode())[0] == "before the failure\n"
