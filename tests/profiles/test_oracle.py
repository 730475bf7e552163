"""Profiles with options, against KubeSpawner: the same choices make the same pod."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import oracle

CONFIG = {
    "image": "base:1",
    "environment": {"A": "1", "B": "1"},
    "node_selector": {"pool": "all"},
    "mem_limit": "1G",
}

CHOICES = {
    "small": {
        "display_name": "Small",
        "kubespawner_override": {"cpu_limit": 1, "environment": {"B": "small"}},
    },
    "large": {
        "display_name": "Large",
        "default": True,
        "kubespawner_override": {"cpu_limit": 8, "mem_limit": "8G"},
    },
}
IMAGES = {
    "display_name": "Image",
    "choices": {
        "new": {
            "display_name": "New",
            "kubespawner_override": {"image": "lab:2", "environment": {"A": "new"}},
        },
        "old": {"display_name": "Old", "kubespawner_override": {"image": "lab:1", "default_url": "/tree"}},
    },
    "unlisted_choice": {
        "enabled": True,
        "display_name": "Name of the image",
        "validation_regex": "^lab:.+$",
        "kubespawner_override": {"image": "{value}", "environment": {"TAG": "is {value}", "A": None}},
    },
}

PROFILES = [
    {"display_name": "Größe 1"},
    {
        "display_name": "With options",
        "slug": "options",
        "kubespawner_override": {
            "environment": {"A": "profile"},
            "node_selector": {"pool": None, "disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "start_timeout": 600,
        },
        "profile_options": {"size": {"display_name": "Size", "choices": CHOICES}, "image": IMAGES},
    },
    {
        "display_name": "Functions",
        "kubespawner_override": {
            "image": lambda spawner: f"{spawner.user.name}:{spawner.user_options['profile']}",
            "node_selector": lambda spawner: {"users": spawner.user.name},
        },
    },
]


async def check(profile_list, options, config=CONFIG):
    request = {"profile_options": {key: each for key, each in options.items() if key != "profile"}}
    if "profile" in options:
        request["profile"] = options["profile"]
    job, server = await oracle.compare(
        "alice", config, groups=["g1"], profile_list=profile_list, user_options=options, request=request
    )
    assert job == server
    return job


SIZES = [{}, {"size": "small"}, {"size": "large"}]
OWN = [
    {},
    {"image": "old"},
    {"image--unlisted-choice": "lab:x"},
    {"image": "old", "image--unlisted-choice": "lab:x"},
]


@pytest.mark.parametrize(("size", "image"), list(itertools.product(SIZES, OWN)))
async def test_the_same_choices_make_the_same_pod(size, image):
    await check(PROFILES, {"profile": "options"} | size | image)


@pytest.mark.parametrize("profile", ["grosse-1", "functions"])
async def test_the_same_profile_makes_the_same_pod(profile):
    await check(PROFILES, {"profile": profile})


@pytest.mark.parametrize(
    "profile_list",
    [
        PROFILES,
        PROFILES[::-1][1:],
        [PROFILES[0], PROFILES[1] | {"default": True}],
        {"b": PROFILES[0], "a": PROFILES[1]},
        {"b": PROFILES[0] | {"default": True}, "a": PROFILES[1]},
        lambda spawner: PROFILES[1:2] if [each.name for each in spawner.user.groups] == ["g1"] else [],
        [],
    ],
    ids=["list", "no default", "default second", "dict", "dict with a default", "function", "none"],
)
async def test_without_a_profile_it_is_the_same_default(profile_list):
    await check(profile_list, {})


async def test_a_profile_list_may_be_an_async_function():
    async def list_profiles(spawner):
        return [{"display_name": spawner.user.name, "kubespawner_override": {"image": "mine:1"}}]

    assert (await check(list_profiles, {}))["container"]["image"] == "mine:1"


async def test_an_image_by_its_old_name_is_the_image():
    entry = {"display_name": "x", "kubespawner_override": {"image_spec": "old:1"}}
    assert (await check([entry], {}))["container"]["image"] == "old:1"


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from(["a:1", "b:2"]),
        "cpu_limit": st.sampled_from([None, 0.5, 3]),
        "environment": st.dictionaries(st.sampled_from("ABC"), st.sampled_from([None, "1", "2"]), max_size=2),
        "node_selector": st.dictionaries(st.sampled_from(["pool", "disk"]), st.sampled_from([None, "x"])),
        "tolerations": st.sampled_from([[], [{"key": "k", "operator": "Exists"}]]),
        "extra_labels": st.dictionaries(st.sampled_from(["l", "m"]), st.sampled_from([None, "x"])),
        "default_url": st.just("/lab"),
    },
)
PARTS = OVERRIDES.map(lambda override: {"kubespawner_override": override})


@st.composite
def choices(draw):
    """Draw profiles, and what a user chooses of one of them."""
    profile_list, chosen = [], {}
    for number in range(draw(st.integers(1, 3))):
        options, wanted = {}, {}
        for name in draw(st.lists(st.sampled_from(["o1", "o2", "o3"]), unique=True)):
            listed = {
                each: draw(PARTS) | {"display_name": each} | draw(st.sampled_from([{}, {"default": True}]))
                for each in draw(st.lists(st.sampled_from("xyz"), min_size=1, unique=True))
            }
            own = {"enabled": True, "kubespawner_override": {"environment": {"OWN": "{value} {username}"}}}
            options[name] = {"display_name": name, "choices": listed, "unlisted_choice": own}
            wanted |= draw(
                st.sampled_from([{}, {name: next(iter(listed))}, {f"{name}--unlisted-choice": "t"}])
            )
        marked = draw(st.sampled_from([{}, {"default": True}]))
        entry = {"display_name": f"Profile {number}", "profile_options": options} | marked | draw(PARTS)
        profile_list.append(entry)
        if draw(st.booleans()):
            chosen = {"profile": f"profile-{number}"} | wanted
    return profile_list, chosen


@settings(max_examples=40, deadline=None)
@given(choices())
async def test_any_choice_of_any_profiles_makes_the_same_pod(drawn):
    await check(*drawn)
