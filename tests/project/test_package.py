"""The package as others get it: built, installed where nothing of this checkout is, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARTS = (
    "kbatch_server", "LICENSE", "MANIFEST.in", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py",
    "jupyterhub_config_snippet.py", "ui",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built of it, without network, npm, or touching the checkout."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("node_modules"))
        else:
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source],
        env={"PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the pages are not built" not in done.stdout, "what is built is older than ui/: scripts/build-ui"
    return folder / "dist"


def files_of(package: str) -> set[str]:
    """Return the files of the checkout's package that are of use when it is installed."""
    paths = (
        path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {str(path.relative_to(ROOT)) for path in paths}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_of("kbatch_server")
    kinds = ("templates/", "static/manifest.json", "static/app-", "store/migrations/versions/")
    for kind in (*kinds, "script.py.mako"):
        assert any(kind in name for name in names), kind


def test_the_sdist_has_what_it_takes_to_build_and_to_begin(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files_of("kbatch_server") <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "ui/src").rglob("*.*")} <= names
    assert {"ui/build.mjs", "ui/package-lock.json"} <= names
    assert not any("node_modules" in name for name in names)
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "jupyterhub_config_snippet.py"} <= names


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """Run a program of an environment with the wheel, and with the dependencies of the tests' own."""
    folder = tmp_path_factory.mktemp("installed")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    [wheel] = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--disable-pip-version-check", wheel], check=True)
    # after the environment's own packages; a .pth in there (our editable install) is not read
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run_to_end(*command: str) -> str:
        done = subprocess.run(
            [venv / "bin" / command[0], *command[1:]],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "JUPYTERHUB_API_TOKEN": "x"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    run_to_end.folder = folder
    return run_to_end


def test_it_is_the_installed_one_that_runs(run):
    where = run("python", "-c", "import kbatch_server; print(kbatch_server.__file__)")
    assert where.startswith(str(run.folder))


def test_version_and_help(run):
    from kbatch_server import __version__

    assert run("kbatch-server", "--version").strip() == __version__
    text = run("kbatch-server", "--help-all")
    for name in ("KBatchServer.db_url", "JobConfig.image", "KubeJobLauncher.namespace", "FileStorage.root"):
        assert f"--{name}" in text


def test_the_configuration_that_it_writes_is_one_that_it_reads(run):
    path = run.folder / "made.py"
    assert str(path) in run("kbatch-server", "--generate-config", f"--config={path}")
    text = path.read_text()
    assert "# c.JobConfig.image = ''" in text
    assert str(run.folder) not in text.replace(str(path), "")
    # each line as if the admin had taken the # away
    loud = "\n".join(
        line.removeprefix("# ") if line.startswith("# c.") else line for line in text.splitlines()
    )
    (run.folder / "loud.py").write_text(loud)
    for name in ("made.py", "loud.py"):
        run("kbatch-server", "upgrade-db", f"--config={name}", f"--db=sqlite:///{name}.sqlite")
        assert (run.folder / f"{name}.sqlite").exists()


def test_an_existing_configuration_is_left_alone(run):
    path = run.folder / "mine.py"
    path.write_text("# mine\n")
    with pytest.raises(AssertionError, match="already exists"):
        run("kbatch-server", "--generate-config", f"--config={path}")
    assert path.read_text() == "# mine\n"


def test_the_entry_points_load(run):
    code = (
        "from importlib.metadata import entry_points\n"
        "for group in ('kbatch_server.launchers', 'kbatch_server.storages'):\n"
        "    for entry in entry_points(group=group):\n"
        "        print(entry.name, entry.load().__name__)\n"
    )
    assert set(run("python", "-c", code).splitlines()) == {
        "kubernetes KubeJobLauncher",
        "local LocalProcessJobLauncher",
        "file FileStorage",
        "azure AzureBlobStorage",
        "s3 S3Storage",
        "gcs GCSStorage",
    }
