"""What users choose of a profile, what is refused, and what stops the start."""

from __future__ import annotations

import asyncio
import logging
import re
import time

import pytest
from traitlets import TraitError
from traitlets.config import Config

from kbatch_server.errors import InvalidRequest
from kbatch_server.jobs.service import make_request
from kbatch_server.models.job import JobSpec
from kbatch_server.models.request import JobRequest
from kbatch_server.models.user import User
from kbatch_server.profiles.patterns import MATCH_SECONDS
from kbatch_server.profiles.profiles import Profiles
from tests.support.web import make_job

ALICE = User(name="alice", groups=("gpu-users",))

OPTIONS = {
    "image": {
        "display_name": "Image",
        "choices": {
            "stable": {"display_name": "Stable", "kubespawner_override": {"image": "lab:1"}},
            "next": {"display_name": "Next", "kubespawner_override": {"image": "lab:2"}},
        },
        "unlisted_choice": {
            "enabled": True,
            "display_name": "Image's name",
            "display_name_in_choices": "Another image…",
            "validation_regex": r"quay\.io/.+:.+",
            "validation_message": "Must be an image of quay.io, with a tag.",
            "kubespawner_override": {"image": "{value}"},
        },
    },
    "size": {
        "choices": {
            2: {"kubespawner_override": {"cpu_limit": 2, "environment": {"CPUS": "2"}}},
            "4": {"default": True, "kubespawner_override": {"cpu_limit": 4, "environment": {"CPUS": "4"}}},
        },
    },
}
ENTRY = {"display_name": "Lab", "profile_options": OPTIONS}


def own_text(**unlisted):
    """Return a profile with one option, whose choice is always the user's own text."""
    unlisted = {"enabled": True, "kubespawner_override": {"image": "{value}"}} | unlisted
    return {"display_name": "x", "profile_options": {"a": {"unlisted_choice": unlisted}}}


async def make(profile_list, options=None, *, profile=None, **fields):
    profiles = Profiles(profile_list=profile_list, config=Config(JobConfig={"image": "base:1"}))
    request = JobRequest(
        name="job", command=["true"], profile=profile, profile_options=options or {}, **fields
    )
    return await profiles.make_spec(ALICE, request)


@pytest.mark.parametrize(
    ("options", "recorded", "image", "cpus"),
    [
        ({}, {"image": "stable", "size": "4"}, "lab:1", 4),
        ({"image": "next", "size": ""}, {"image": "next", "size": "4"}, "lab:2", 4),
        (
            {"image": "unlisted-choice", "image--unlisted-choice": "quay.io/x:3", "size": "2"},
            {"image--unlisted-choice": "quay.io/x:3", "size": "2"},
            "quay.io/x:3",
            2,
        ),
    ],
)
async def test_the_job_is_what_was_chosen_and_its_record_says_so(options, recorded, image, cpus):
    spec = await make([ENTRY], options)
    assert (spec.profile, spec.profile_options) == ("lab", recorded)
    assert (spec.image, spec.cpu_limit) == (image, cpus)
    again = make_request(make_job(spec=spec), {})
    assert again.profile_options == recorded
    assert (await make([ENTRY], again.profile_options, profile=again.profile)).image == image


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"images": "next"}, "images", r"profile 'lab' has no such option; options: image, size"),
        ({"image": "nope"}, "image", r"'nope' is not a choice; choices: stable, next"),
        ({"image": "unlisted-choice"}, "image--unlisted-choice", "is required"),
        ({"size--unlisted-choice": "8"}, "size--unlisted-choice", r"only a choice of the list.*2, 4"),
        (
            {"image--unlisted-choice": "docker.io/x:1"},
            "image--unlisted-choice",
            "Must be an image of quay.io",
        ),
        # KubeSpawner looks at the beginning only
        ({"image--unlisted-choice": "quay.io/x:1\n"}, "image--unlisted-choice", "one line"),
        ({"image--unlisted-choice": "quay.io/{username}:1"}, "image--unlisted-choice", "without braces"),
    ],
)
async def test_what_the_profile_does_not_offer_is_refused_with_its_field(options, field, said):
    with pytest.raises(InvalidRequest, match=said) as error:
        await make([ENTRY], options)
    assert error.value.details[0]["field"] == f"profile_options.{field}"


async def test_the_whole_text_must_match_not_only_its_beginning():
    entry = own_text(validation_regex="lab:[0-9]")
    assert (await make([entry], {"a--unlisted-choice": "lab:1"})).image == "lab:1"
    with pytest.raises(InvalidRequest, match=r"must match lab:\[0-9\]"):
        await make([entry], {"a--unlisted-choice": "lab:1@evil"})


async def test_an_option_without_choices_must_be_set():
    with pytest.raises(InvalidRequest, match=r"profile_options.a--unlisted-choice: is required"):
        await make([own_text()])


async def test_a_text_that_makes_no_valid_setting_is_the_users_mistake():
    entry = own_text(kubespawner_override={"mem_limit": "{value}"})
    with pytest.raises(InvalidRequest, match=r"profile_options.a--unlisted-choice: is not valid"):
        await make([entry], {"a--unlisted-choice": "lots"})


async def test_options_need_profiles():
    with pytest.raises(InvalidRequest, match="there are no profiles"):
        await make([], {"a": "b"})


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"([a-z]+)*[A-Z]", r"(?=(a+))(\w|\d)+\1!"])
async def test_no_text_holds_up_the_service_whatever_the_admins_expression(pattern):
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    counting = asyncio.create_task(count_turns())
    begun = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"must match|takes too long"):
        await make([own_text(validation_regex=pattern)], {"a--unlisted-choice": "a" * 500 + "?"})
    seconds = time.monotonic() - begun
    counting.cancel()
    # how long it takes depends on the machine: the others' turns come meanwhile
    assert seconds < 10
    assert turns >= int(min(seconds, MATCH_SECONDS) / 0.05)


async def test_our_overrides_are_on_top_at_the_profile_and_at_each_choice():
    entry = {
        "display_name": "x",
        "kubespawner_override": {"image": "theirs", "node_selector": {"a": "1", "b": "1"}},
        "kbatch_override": {"image": "ours", "max_cpu_limit": 8, "node_selector": {"b": None}},
        "profile_options": {
            "size": {
                "choices": {
                    "small": {},
                    "large": {
                        "kubespawner_override": {"image": "large"},
                        "kbatch_override": {"node_selector": {"c": "1"}},
                    },
                }
            }
        },
    }
    small = await make([entry], {"size": "small"})
    assert (small.image, small.cpu_limit, small.node_selector) == ("ours", 8, {"a": "1"})
    large = await make([entry], {"size": "large"})
    assert (large.image, large.cpu_limit, large.node_selector) == ("large", 8, {"a": "1", "c": "1"})


HOME = {"name": "home", "persistentVolumeClaim": {"claimName": "claim-{username}"}}
DATA = {"name": "data", "emptyDir": {}}
AT_HOME = {"name": "home", "mountPath": "/home/jovyan"}
AT_DATA = {"name": "data", "mountPath": "/data"}


@pytest.mark.parametrize(
    ("part", "volumes", "mounts"),
    [
        # what servers have, less the home
        (
            {"kubespawner_override": {"volumes": [HOME, DATA], "volume_mounts": [AT_HOME, AT_DATA]}},
            [DATA],
            [AT_DATA],
        ),
        ({"kubespawner_override": {"volumes": [HOME]}}, [], []),
        # what the admin says of jobs
        ({}, [HOME], [AT_HOME]),
        ({"kbatch_override": {"volumes": [HOME, DATA]}}, [HOME, DATA], [AT_HOME]),
    ],
)
async def test_a_profile_for_servers_gives_a_job_no_home_but_one_for_jobs_may(part, volumes, mounts):
    config = Config(JobConfig={"image": "x", "volumes": [HOME], "volume_mounts": [AT_HOME]})
    profiles = Profiles(profile_list=[{"display_name": "x"} | part], config=config)
    spec = await profiles.make_spec(ALICE, JobRequest(name="job", command=["true"]))
    assert (spec.volumes, spec.volume_mounts) == (volumes, mounts)


async def test_values_may_be_async_functions():
    async def find_image(spawner):
        return f"{spawner.user_options['size']}-{spawner.user.groups[0].name}"

    entry = {
        "display_name": "x",
        "profile_options": {"size": {"choices": {"s": {"kubespawner_override": {"image": find_image}}}}},
    }
    assert (await make([entry], {"size": "s"})).image == "s-gpu-users"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"kubespawner_overide": {}},
            r"kubespawner_overide: unknown key; did you mean kubespawner",
        ),
        ({"allowed_groups": ["a"]}, r"allowed_groups: unknown key"),
        ({"kubespawner_override": {"cpu_limits": 1}}, r"cpu_limits: KubeSpawner has no such.*mean cpu_limit"),
        ({"kbatch_override": {"imge": "x"}}, r"kbatch_override.imge: JobConfig has no such.*mean image"),
        ({"kubespawner_override": {"cpu_limit": "many"}}, r".*cpu_limit"),
        (
            {"profile_options": {"a": {"choice": {}}}},
            r"profile_options.a.choice: unknown key; did you mean choices",
        ),
        (
            {"profile_options": {"a": {"choices": {"b": {"kubespawner_override": {"uid": "root"}}}}}},
            r"profile_options.a.choices.b: .*uid",
        ),
        (
            {"profile_options": {"a": {"unlisted_choice": {"enabled": True, "validation_regex": "("}}}},
            r"profile_options.a.unlisted_choice.validation_regex: is not a regular expression",
        ),
        (
            {"profile_options": {"a": {"unlisted_choice": {"kubespawner_override": {"image": "{"}}}}},
            r"profile_options.a.unlisted_choice.kubespawner_override.image: is not a template",
        ),
    ],
)
def test_a_mistake_in_a_list_stops_the_start_with_the_profile_and_the_key(change, said):
    with pytest.raises(TraitError, match=rf"Profiles.profile_list: profile 'P': .*{said}"):
        Profiles(profile_list=[{"display_name": "P"} | change])


def test_two_profiles_with_one_slug_stop_the_start():
    with pytest.raises(TraitError, match=r"two profiles have the same slug, 'grosse'"):
        Profiles(profile_list=[{"display_name": "Größe"}, {"display_name": "GROSSE"}])


async def test_what_a_job_has_no_use_for_is_said_once(caplog):
    caplog.set_level(logging.INFO)
    entry = ENTRY | {"kubespawner_override": {"default_url": "/lab", "cmd": ["x"]}}
    fancy = {
        "display_name": "Fancy",
        "kubespawner_override": {"default_url": "/tree"},
        "profile_options": {
            "image": {
                "display_name": "Image",
                "dynamic_image_building": {"enabled": True},
                "unlisted_choice": {"enabled": True, "description_in_choices": "yours"},
                "choices": {"a": {"display_name": "A", "description": "the first", "slug": "a"}},
            }
        },
    }
    profiles = Profiles(
        profile_list=[entry, fancy],
        config=Config(JobConfig={"image": "x"}),
        log=logging.getLogger("profiles"),
    )
    for _ in range(3):
        await profiles.make_spec(ALICE, JobRequest(name="job", command=["true"]))
    said = [each.getMessage() for each in caplog.records if "ignored" in each.getMessage()]
    assert len(said) == 2
    assert "default_url" in said[0]
    assert "cmd" in said[1]


@pytest.mark.parametrize(
    ("entry", "error", "said"),
    [
        ({"display_nam": "x"}, Exception, "display_nam"),
        ({"display_name": "x", "kbatch_override": {"cpu_limit": "many"}}, TraitError, "cpu_limit"),
    ],
)
async def test_a_functions_mistake_is_not_the_users(entry, error, said):
    with pytest.raises(error, match=said) as raised:
        await make(lambda spawner: [entry])
    assert not isinstance(raised.value, InvalidRequest)


async def test_a_function_that_takes_the_user_as_before_says_what_it_has():
    with pytest.raises(AttributeError, match=r"a job's spawner has no 'groups'; it has: user"):
        await make(lambda user: [{"display_name": user.groups[0]}])


async def test_the_environment_is_that_of_the_choices():
    profiles = Profiles(profile_list=[ENTRY], config=Config(JobConfig={"environment": {"A": "1"}}))
    spec = JobSpec(image="x", profile="lab", profile_options={"image": "next", "size": "2"})
    assert await profiles.get_environment(ALICE, spec) == {"A": "1", "CPUS": "2"}
    # of a choice that is gone since
    gone = spec.model_copy(update={"profile_options": {"image": "gone", "size": "64", "x": "y"}})
    assert await profiles.get_environment(ALICE, gone) == {"A": "1", "CPUS": "4"}


async def test_profiles_are_shown_with_their_options_in_the_admins_order():
    [shown] = await Profiles(profile_list=[ENTRY], config=Config(JobConfig={"image": "x"})).list(ALICE)
    assert (shown.default, shown.image, shown.cpu_limit) == (True, "lab:1", 4)
    image, size = shown.profile_options
    assert [(each.name, each.display_name, each.default) for each in image.choices] == [
        ("stable", "Stable", True),
        ("next", "Next", False),
    ]
    assert image.unlisted_choice.display_name_in_choices == "Another image…"
    assert image.unlisted_choice.validation_message == "Must be an image of quay.io, with a tag."
    assert [(each.name, each.display_name, each.default) for each in size.choices] == [
        ("2", "2", False),
        ("4", "4", True),
    ]
    assert (size.display_name, size.unlisted_choice) == ("size", None)


@pytest.mark.parametrize(
    ("user_options", "profile", "options", "problems"),
    [
        ({}, "lab", {"image": "stable", "size": "4"}, []),
        ({"profile": "lab", "image": "next", "x": 1}, "lab", {"image": "next", "size": "4"}, []),
        (
            {"profile": "lab", "image--unlisted-choice": "quay.io/a:1", "size": "2"},
            "lab",
            {"image--unlisted-choice": "quay.io/a:1", "size": "2"},
            [],
        ),
        ({"profile": "gone", "image": "next"}, None, {}, ["profile 'gone' no longer exists"]),
        ({"profile": "lab", "image": "gone"}, "lab", {"size": "4"}, ["choice for 'Image'.*'gone' is not a"]),
        ({"profile": "lab", "size": ["2"]}, "lab", {"image": "stable"}, ["choice for 'size'"]),
        ({"profile": ["lab"]}, None, {}, ["no longer exists"]),
        (
            {"profile": "lab", "image--unlisted-choice": "evil:1"},
            "lab",
            {"size": "4"},
            ["choice for 'Image'.*Must be an image of quay.io"],
        ),
    ],
)
async def test_the_choices_of_a_server_are_checked_again(user_options, profile, options, problems):
    profiles = Profiles(profile_list=[ENTRY], config=Config(JobConfig={"image": "x"}))
    read = await profiles.read_user_options(ALICE, user_options)
    assert (read.profile, read.profile_options) == (profile, options)
    assert len(read.problems) == len(problems)
    for said, expected in zip(read.problems, problems, strict=True):
        assert re.search(expected, said)
