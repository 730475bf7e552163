"""Build Kubernetes, etcd and helm from Go modules, once, into a cache outside the tree."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.parts import cache_dir, find_part, making, run_tool

HERE = Path(__file__).parent

# What decides the binaries, and so where in the cache they are.
SOURCES = ("go.mod", "go.sum", "etcd/main.go", "helm/go.mod", "helm/go.sum")

# Each binary: the folder with its go.mod, and its package.
PACKAGES = {
    "etcd": (".", "./etcd"),
    "kube-apiserver": (".", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": (".", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": (".", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": (".", "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": (".", "k8s.io/kubernetes/cmd/kube-proxy"),
    "helm": ("helm", "helm.sh/helm/v3/cmd/helm"),
}


def kubernetes_version() -> str:
    """The version of Kubernetes that go.mod asks for, such as ``v1.35.4``."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    assert found, "go.mod does not name k8s.io/kubernetes"
    return found[1]


def build_flags() -> list[str]:
    """The flags of ``go build``; a build without a version in it calls itself v0.0.0."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".", 2)
    names = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    stamps = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in names.items()]
    return ["-trimpath", "-ldflags", " ".join(["-s", "-w", *stamps])]


def bin_dir() -> Path:
    """Where the binaries of this source are, or will be."""
    digest = hashlib.sha256(repr((build_flags(), PACKAGES)).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return cache_dir() / f"kubernetes-{digest.hexdigest()[:12]}"


def find_binaries() -> Path:
    """Return the folder with the binaries; raises PartMissing."""
    return find_part(bin_dir(), f"Kubernetes {kubernetes_version()}")


def build_binaries(report: Callable[[str, float], None]) -> None:
    """Build the binaries: some six minutes on two cores when nothing is cached.

    ``report`` is called with the name of each that is built and the seconds that it took.
    """
    with making(bin_dir()) as folder:
        for name in PACKAGES:
            start = time.monotonic()
            _build(name, folder)
            report(name, time.monotonic() - start)


def _build(name: str, out: Path) -> None:
    folder, package = PACKAGES[name]
    run_go("build", *build_flags(), "-o", str(out / name), package, cwd=HERE / folder)


def run_go(*arguments: str, cwd: Path = HERE, **environment: str) -> str:
    """Run a command of Go and return what it printed; raises RuntimeError with its errors."""
    if shutil.which("go") is None:
        raise RuntimeError("`go` is not on PATH: install Go 1.25 or newer")
    return run_tool("go", *arguments, cwd=cwd, CGO_ENABLED="0", **environment)
