"""Lint what no linter of Python or of the pages reads: shell scripts, GitHub's workflows, the chart.

``python -m tests.support.lint shell workflows chart`` runs the linters that it names and ends with 1 if one
of them complains. ``make lint`` and the hooks of pre-commit call it.

shellcheck comes from PyPI with the tests' other tools. actionlint is a Go module that is built once, into the
cache; helm is built with the test cluster. Without Go or without helm, a line says what was not linted.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.cluster.build import run_go
from tests.support.helm import CHART, VARIANTS, Helm, find_helm
from tests.support.parts import PartMissing, cache_dir, find_part, making

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"

ACTIONLINT_VERSION = "v1.7.12"
ACTIONLINT_PACKAGE = "github.com/rhysd/actionlint/cmd/actionlint"

SHELLS = ("sh", "bash", "dash")
"""The shells that shellcheck knows and that our scripts name in their first line."""


def find_scripts(root: Path = ROOT) -> list[Path]:
    """Return the shell scripts that git knows or could add: by their suffix, or by their first line."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    paths = [root / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and _is_script(path)]


def _is_script(path: Path) -> bool:
    if path.suffix == ".sh":
        return True
    with path.open("rb") as file:
        words = file.readline(80).decode(errors="replace").split()
    # "#!/bin/bash -e", "#! /bin/sh", "#!/usr/bin/env bash"
    return bool(words) and words[0].startswith("#!") and any(Path(word).name in SHELLS for word in words)


def find_actionlint() -> Path:
    """Return actionlint; raises PartMissing."""
    folder = cache_dir() / f"actionlint-{ACTIONLINT_VERSION}"
    return find_part(folder / "actionlint", f"actionlint {ACTIONLINT_VERSION}")


def build_actionlint() -> None:
    """Build actionlint with Go: half a minute when nothing is cached."""
    with making(cache_dir() / f"actionlint-{ACTIONLINT_VERSION}") as folder:
        run_go("install", f"{ACTIONLINT_PACKAGE}@{ACTIONLINT_VERSION}", GOBIN=str(folder))


def lint_shell() -> bool:
    """Run shellcheck over all shell scripts. Returns whether it found nothing."""
    return subprocess.run(["shellcheck", *find_scripts()], cwd=ROOT, check=False).returncode == 0


def lint_workflows() -> bool:
    """Run actionlint, which calls shellcheck for the workflows' scripts. Returns whether it found nothing."""
    try:
        program = find_actionlint()
    except PartMissing:
        if shutil.which("go") is None:
            print("Go is not on PATH to build actionlint: the workflows were not linted.", file=sys.stderr)
            return True
        build_actionlint()
        program = find_actionlint()
    return subprocess.run([program, *sorted(WORKFLOWS.glob("*.yml"))], cwd=ROOT, check=False).returncode == 0


def lint_chart() -> bool:
    """Run helm's lint over the chart, with each of the tests' values. Returns whether it found nothing."""
    try:
        program = find_helm()
    except PartMissing:
        print("helm is not here (make test-install builds it): the chart was not linted.", file=sys.stderr)
        return True
    with tempfile.TemporaryDirectory() as home:
        helm = Helm(program, Path(home))
        done = [helm.run("lint", str(CHART), "--strict", "--quiet", values=values) for values in VARIANTS]
    for each in done:
        if each.returncode:
            print(each.stdout, each.stderr, sep="", file=sys.stderr)
    return not any(each.returncode for each in done)


LINTERS = {"shell": lint_shell, "workflows": lint_workflows, "chart": lint_chart}


def main() -> int:
    """Run the linters that the command line names; the exit status is 1 when one of them complains."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.lint", description=__doc__)
    parser.add_argument("linters", nargs="+", metavar="LINTER", choices=LINTERS, help=", ".join(LINTERS))
    results = [LINTERS[name]() for name in parser.parse_args().linters]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
