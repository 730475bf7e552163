"""The chart for tests: helm as a program, values as a dict or a file, manifests as dicts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import build
from tests.support.parts import find_part

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "kbatch-server"
VARIANTS = sorted((ROOT / "tests" / "chart_values").glob("*.yaml"))
KUBE_VERSION = "1.35.0"

Manifest = dict[str, Any]


def find_helm() -> Path:
    """Return the helm of the test cluster's build, or one that is installed; raises PartMissing."""
    built, installed = build.bin_dir() / "helm", shutil.which("helm")
    return Path(installed) if installed and not built.exists() else find_part(built, "helm")


class Made:
    """What the chart made: found by kind, and by name where there are several of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.all: list[Manifest] = [each for each in yaml.safe_load_all(text) if each]

    @property
    def kinds(self) -> set[str]:
        return {each["kind"] for each in self.all}

    def names(self, kind: str) -> set[str]:
        return {each["metadata"]["name"] for each in self.all if each["kind"] == kind}

    def get(self, kind: str, suffix: str = "") -> Manifest:
        """Return the one of this kind whose name is the release's and the suffix."""
        [found] = [
            each
            for each in self.all
            if each["kind"] == kind and each["metadata"]["name"].partition("kbatch-server")[2] == suffix
        ]
        return found

    @property
    def pod(self) -> Manifest:
        """The spec of the service's pod."""
        spec: Manifest = self.get("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def env(self) -> dict[str, Manifest]:
        [container] = self.pod["containers"]
        return {each["name"]: each for each in container["env"]}


class Helm:
    """Helm with a home of its own."""

    def __init__(self, program: Path, home: Path, kubeconfig: Path | None = None) -> None:
        self.program = program
        self.home = home
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home)}
        if kubeconfig is not None:
            self.environ["KUBECONFIG"] = str(kubeconfig)

    def run(
        self, *command: str, values: Manifest | Path | None = None, namespace: str = "jupyterhub"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; ``CHART`` in it is the chart."""
        arguments = [str(CHART) if word == "CHART" else word for word in command]
        if isinstance(values, dict):
            path = self.home / "values.yaml"
            path.write_text(yaml.safe_dump(values))
            values = path
        if command[0] == "template":
            arguments += ["--kube-version", KUBE_VERSION]
        if values is not None:
            arguments += ["--values", str(values)]
        return subprocess.run(
            [self.program, *arguments, "--namespace", namespace],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def call(self, *command: str, **options: Any) -> str:
        """Run a command that must succeed and return what it prints."""
        done = self.run(*command, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def render(self, values: Manifest | Path, *, release: str = "kbatch-server", **options: Any) -> Made:
        """Return what the chart makes of values."""
        return Made(self.call("template", release, "CHART", values=values, **options))
