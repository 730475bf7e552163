"""The settings of the home of a server, and what a request may ask of it."""

from __future__ import annotations

from typing import Any

import pytest
from traitlets import TraitError

from kbatch_server.errors import InvalidRequest
from kbatch_server.models.request import JobRequest
from kbatch_server.profiles.config import JobConfig


def make_spec(config: JobConfig, **fields: Any) -> Any:
    return config.make_spec(JobRequest.from_json({"name": "a", "image": "x"} | fields))


@pytest.mark.parametrize("form", [list, dict])
def test_a_volume_at_the_home_already_stops_the_start(form: type) -> None:
    def make(path: str) -> JobConfig:
        mount = {"name": "h", "mountPath": path}
        mounts = [mount] if form is list else {"a": mount}
        return JobConfig(home="same-node", volume_mounts=mounts)

    assert make("/data").home == "same-node"
    with pytest.raises(TraitError, match=r"JobConfig\.home: .*/home/jovyan already"):
        make("/home/jovyan/")


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"home": "yes"}, "'home' trait"),
        ({"home_mount_path": "home"}, r"JobConfig\.home_mount_path: 'home' must be a folder"),
        ({"home_mount_path": "/code"}, r"JobConfig\.home_mount_path"),
        ({"home_mount_path": "/"}, r"JobConfig\.home_mount_path"),
        ({"home_subpath": "../{username}"}, r"JobConfig\.home_subpath: .* inside the claim"),
        ({"home_subpath": "/homes"}, r"JobConfig\.home_subpath: .* inside the claim"),
        ({"home_subpath": "{user}"}, r"JobConfig\.home_subpath: .* known field"),
    ],
)
def test_a_wrong_setting_stops_the_start(traits: dict[str, Any], words: str) -> None:
    with pytest.raises(TraitError, match=words):
        JobConfig(**traits)


@pytest.mark.parametrize(
    ("fields", "home", "to_home"),
    [
        ({}, None, False),
        ({"home": True}, "server", True),
        ({"home": "server:gpu"}, "server:gpu", True),
        ({"home": True, "results_to_home": False}, "server", False),
        ({"like": "server:gpu"}, "server:gpu", True),
        ({"like": "server", "home": False}, None, False),
    ],
)
def test_a_job_has_the_home_that_it_asks_for(fields: dict[str, Any], home: str | None, to_home: bool) -> None:
    spec = make_spec(JobConfig(home="any", results_to_home=True), **fields)
    assert (spec.home, spec.results_to_home, spec.home_placement) == (home, to_home, "any")


@pytest.mark.parametrize(
    ("traits", "fields", "field"),
    [
        ({}, {"home": True}, "home"),
        ({"home": "any"}, {"results_to_home": True}, "results_to_home"),
        ({"home": "any", "keep_outputs": False}, {"home": True, "results_to_home": True}, "results_to_home"),
        ({"home": "any"}, {"home": "alice"}, "home"),
        ({"home": "any"}, {"like": "server:"}, "like"),
        ({"home": "any"}, {"like": "server:../x"}, "like"),
    ],
)
def test_what_it_may_not_have_is_said_of_the_field(
    traits: dict[str, Any], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make_spec(JobConfig(**traits), **fields)
    assert [each["field"] for each in refused.value.details] == [field]
