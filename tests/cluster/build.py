"""Build Kubernetes, etcd and helm from Go modules, once, into a cache outside the tree."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def cache_dir() -> Path:
    """Where builds are kept: ``$KBATCH_TEST_CACHE``, or a folder of the user's cache."""
    return Path(os.environ.get("KBATCH_TEST_CACHE") or "~/.cache/kbatch-server").expanduser()


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


def ensure_binaries() -> Path:
    """Return the folder with the binaries, building them first where they are not there.

    Some six minutes on two cores when nothing is cached. The folder appears under its name only
    when it is whole, so an interrupted build is never taken for a finished one.
    """
    target = bin_dir()
    if target.is_dir():
        return target
    if shutil.which("go") is None:
        raise RuntimeError("no `go` on PATH (1.25 or newer), and Kubernetes is not built yet")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as scratch:
        for number, name in enumerate(PACKAGES, 1):
            _build(name, Path(scratch), f"{number}/{len(PACKAGES)}")
        os.chmod(scratch, 0o755)
        try:
            os.rename(scratch, target)
        except OSError:  # somebody else finished the same build first
            if not target.is_dir():
                raise
        else:
            Path(scratch).mkdir()  # for TemporaryDirectory to remove
    return target


def _build(name: str, out: Path, progress: str) -> None:
    folder, package = PACKAGES[name]
    start = time.monotonic()
    command = ["go", "build", *build_flags(), "-o", str(out / name), package]
    environ = os.environ | {"CGO_ENABLED": "0"}
    done = subprocess.run(
        command,
        cwd=HERE / folder,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"building {name} failed:\n{done.stdout[-4000:]}")
    print(f"{progress} {name} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(ensure_binaries())
