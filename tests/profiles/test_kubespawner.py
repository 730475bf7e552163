"""What a job takes of KubeSpawner's traits."""

from __future__ import annotations

import pytest
from kubespawner import KubeSpawner

from kbatch_server.profiles.kubespawner import JOB_TRAITS, KUBESPAWNER_TRAITS, get_trait_name, take_traits

HOME = {"name": "home", "persistentVolumeClaim": {"claimName": "claim-{user_server}"}}
DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
AT_HOME = {"name": "home", "mountPath": "/home/jovyan"}
AT_DATA = {"name": "data", "mountPath": "/data"}


def test_every_trait_of_kubespawner_is_known():
    assert set(KubeSpawner.class_traits(config=True)) - KUBESPAWNER_TRAITS == set()


def test_older_names_mean_the_same():
    for old, (new, _) in KubeSpawner._deprecated_traits.items():
        if (
            old != "singleuser_allow_privilege_escalationsingleuser_lifecycle_hooks"
        ):  # a comma is missing there
            assert get_trait_name(old) == get_trait_name(new)
    assert get_trait_name("image_spec") == "image"
    assert get_trait_name("imgae") is None


def test_a_job_takes_what_it_has_itself_and_names_the_rest():
    taken = take_traits({"image_spec": "lab:1", "default_url": "/lab", "cpu_limit": 2, "cmd": ["x"]})
    assert taken.values == {"image": "lab:1", "cpu_limit": 2}
    assert taken.ignored == ["default_url", "cmd"]
    assert {"image", "volumes", "node_selector", "tolerations"} <= JOB_TRAITS


@pytest.mark.parametrize(
    ("volumes", "mounts", "kept"),
    [
        ([HOME, DATA], [AT_HOME, AT_DATA], ([DATA], [AT_DATA])),
        # as zero-to-jupyterhub's storage.type: static
        (
            [{"name": "home", "persistentVolumeClaim": {"claimName": "all-homes"}}, DATA],
            [AT_HOME | {"subPath": "{username}"}, AT_DATA],
            ([DATA], [AT_DATA]),
        ),
        # the same volume for all users' files and for shared ones
        (
            [{"name": "nfs", "nfs": {"server": "s", "path": "/"}}],
            [
                {"name": "nfs", "mountPath": "/home/jovyan", "subPath": "home/{username}"},
                {"name": "nfs", "mountPath": "/shared", "subPath": "shared"},
            ],
            (
                [{"name": "nfs", "nfs": {"server": "s", "path": "/"}}],
                [{"name": "nfs", "mountPath": "/shared", "subPath": "shared"}],
            ),
        ),
        ({"a": HOME, "b": DATA}, {"a": AT_HOME, "b": AT_DATA}, ({"b": DATA}, {"b": AT_DATA})),
        ([{"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}}], [AT_HOME], ([], [])),
        ([DATA], [AT_DATA], ([DATA], [AT_DATA])),
    ],
)
def test_the_users_home_is_not_taken(volumes, mounts, kept):
    taken = take_traits({"volumes": volumes, "volume_mounts": mounts})
    assert (taken.values["volumes"], taken.values["volume_mounts"]) == kept
    assert bool(taken.ignored) == (kept != (volumes, mounts))


def test_a_mount_of_a_home_that_was_left_out_before_is_left_out_too():
    homes = set()
    take_traits({"volumes": [HOME]}, homes=homes)
    assert take_traits({"volume_mounts": [AT_HOME, AT_DATA]}, homes=homes).values == {
        "volume_mounts": [AT_DATA]
    }
