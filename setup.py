"""Describe the package kbatch-server: what it needs, what it installs, what others may plug in."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

here = Path(__file__).parent


def hash_sources() -> str:
    """Return what ui/build.mjs writes into manifest.json about the sources that it built the pages from."""
    sources = here / "ui/src"
    names = sorted(path.relative_to(sources).as_posix() for path in sources.rglob("*.*"))
    found = hashlib.sha256()
    for name in ("build.mjs", "package-lock.json", *(f"src/{name}" for name in names)):
        found.update(f"{name}\n".encode())
        found.update((here / "ui" / name).read_bytes())
    return found.hexdigest()


def build_pages() -> None:
    """Build the pages with npm, unless they are there and newer sources are not: an sdist has them built."""
    manifest = here / "kbatch_server/static/manifest.json"
    is_source = (here / "ui/build.mjs").exists()
    if manifest.exists() and (not is_source or json.loads(manifest.read_text())["sources"] == hash_sources()):
        return
    npm = shutil.which("npm")
    if npm is None or not is_source:
        print("warning: the pages are not built, which takes npm: scripts/build-ui does it later")
        return
    subprocess.run([npm, "ci", "--omit=dev", "--no-audit", "--no-fund"], cwd=here / "ui", check=True)
    subprocess.run([npm, "run", "--silent", "build"], cwd=here / "ui", check=True)


class BuildWithPages(build_py):
    """Builds the pages first."""

    def run(self) -> None:
        """Build."""
        build_pages()
        self.__dict__.pop("data_files", None)  # found anew, with what was built
        super().run()


class SdistWithPages(sdist):
    """Packs the pages as they are built, so that who installs it needs no npm."""

    def run(self) -> None:
        """Build and pack."""
        build_pages()
        super().run()


version = re.search(r'__version__ = "(.+)"', (here / "kbatch_server/__init__.py").read_text())[1]

setup(
    name="kbatch-server",
    version=version,
    description="A JupyterHub service that runs a hub user's code as a batch job on Kubernetes",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["kbatch_server", "kbatch_server.*"]),
    include_package_data=True,
    cmdclass={"build_py": BuildWithPages, "sdist": SdistWithPages},
    install_requires=[
        "aiohttp>=3.12",
        "alembic>=1.13",
        "cryptography>=42",
        "itsdangerous>=2.2",
        "jinja2>=3.1",
        "jupyterhub>=5",
        "kubernetes>=37",  # the first with kubernetes.aio
        "prometheus_client>=0.20",
        "pydantic>=2.10",
        "python-json-logger>=3.2",
        "python-dotenv>=1.0",
        "python-multipart>=0.0.18",
        "python-slugify>=8",
        "pyyaml>=6",
        "regex>=2024.4",
        "rich>=13",
        "sqlalchemy>=2.0.43",
        "tornado>=6.5",
        "traitlets>=5.14",
        "typing_extensions>=4.12",
        "uvloop>=0.21",
    ],
    extras_require={
        "azure": ["azure-storage-blob>=12.24", "azure-identity>=1.17"],
        "gcs": ["obstore>=0.9"],
        "s3": ["obstore>=0.9"],
        "postgresql": ["psycopg[binary]>=3.2"],
    },
    entry_points={
        "console_scripts": ["kbatch-server = kbatch_server.app:main"],
        "kbatch_server.launchers": [
            "kubernetes = kbatch_server.launchers.kube.launcher:KubeJobLauncher",
            "local = kbatch_server.launchers.local.launcher:LocalProcessJobLauncher",
        ],
        "kbatch_server.storages": [
            "file = kbatch_server.storage.file:FileStorage",
            "azure = kbatch_server.storage.azure:AzureBlobStorage",
            "s3 = kbatch_server.storage.objectstore:S3Storage",
            "gcs = kbatch_server.storage.objectstore:GCSStorage",
        ],
    },
    classifiers=[
        "Framework :: Jupyter :: JupyterHub",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
