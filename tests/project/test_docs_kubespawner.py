"""docs/kubespawner.md against KubeSpawner's own class and ours."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from kubespawner import KubeSpawner

from kbatch_server.hooks import Hooks
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.profiles.config import JobConfig
from kbatch_server.profiles.profiles import Profiles

CLASSES = {each.__name__: each for each in (Hooks, JobConfig, KubeJobLauncher, Profiles)}

ROWS = [
    [cell.strip() for cell in row.strip("|").split("|")]
    for row in (Path(__file__).parents[2] / "docs" / "kubespawner.md").read_text().splitlines()
    if row.startswith("| `")
]
"""The rows of all tables: KubeSpawner's trait or traits, perhaps ours, and a sentence."""

OURS = [row for row in ROWS if len(row) == 3]


def find_names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_each_trait_of_kubespawner_is_there_once():
    named = Counter(name for row in ROWS for name in find_names(row[0]))
    assert named == Counter(KubeSpawner.class_traits(config=True).keys())


@pytest.mark.parametrize("row", OURS, ids=lambda row: row[0])
def test_what_jobs_have_for_it_exists(row):
    [name] = find_names(row[1])
    class_name, _, trait = name.partition(".")
    assert trait in CLASSES[class_name].class_traits(config=True)


def test_a_trait_of_the_same_name_is_the_one_that_is_named():
    shared = JobConfig.class_traits(config=True).keys() & KubeSpawner.class_traits(config=True).keys()
    assert {f"`JobConfig.{name}`" for name in shared} <= {row[1] for row in OURS}
    assert all(
        row[1] == f"`JobConfig.{name}`" for row in OURS for name in find_names(row[0]) if name in shared
    )


def test_a_default_that_differs_is_said():
    """Traits of the same name have the same default, but for those that only a job sets otherwise."""
    ours, theirs = JobConfig(), KubeSpawner.class_traits(config=True)
    differing = {
        name
        for name, trait in theirs.items()
        if name in JobConfig.class_traits(config=True)
        and (getattr(ours, name) or None) != (trait.default() or None)
    }
    assert differing == {"image"}
