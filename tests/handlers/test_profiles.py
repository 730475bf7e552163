"""Profiles with options over HTTP: shown, chosen, refused, recorded and chosen again."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

PROFILE = {
    "display_name": "Lab",
    "profile_options": {
        "image": {
            "display_name": "Image",
            "choices": {
                "stable": {"display_name": "Stable", "kubespawner_override": {"image": "python:3"}},
                "next": {"display_name": "Next", "kubespawner_override": {"image": "python:4"}},
            },
            "unlisted_choice": {
                "enabled": True,
                "validation_regex": "python:.+",
                "kubespawner_override": {"image": "{value}"},
            },
        }
    },
}


@pytest.fixture
def web_settings():
    return {"Profiles": {"profile_list": [PROFILE]}, "JobConfig": {"allowed_images": []}}


async def submit(api, **fields):
    return await api.post("api/v1/jobs", json={"name": "train", "command": ["true"], **fields})


async def test_a_job_is_what_was_chosen_and_so_is_the_next_one(api):
    [shown] = (await api.get("api/v1/profiles")).json()["items"]
    assert [each["name"] for each in shown["profile_options"][0]["choices"]] == ["stable", "next"]
    job = (await submit(api, profile_options={"image": "next"})).json()
    assert (job["profile"], job["image"]) == ("lab", "python:4")
    assert job["profile_options"] == {"image": "next"}
    assert (await api.get(f"api/v1/jobs/{job['id']}")).json()["profile_options"] == {"image": "next"}
    again = (await api.post(f"api/v1/jobs/{job['id']}/rerun")).json()
    assert (again["image"], again["profile_options"]) == ("python:4", {"image": "next"})
    own = (await submit(api, profile_options={"image--unlisted-choice": "python:3.14"})).json()
    assert (own["image"], own["profile_options"]) == (
        "python:3.14",
        {"image--unlisted-choice": "python:3.14"},
    )
    again = await api.post(f"api/v1/jobs/{own['id']}/rerun")
    assert again.json()["image"] == "python:3.14"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"imagee": "next"}, "profile_options.imagee"),
        ({"image": "last"}, "profile_options.image"),
        ({"image--unlisted-choice": "perl:5"}, "profile_options.image--unlisted-choice"),
        ({"image": 3}, "profile_options.image"),
        ({"image--unlisted-choice": "python:" + "x" * 600}, "profile_options.image--unlisted-choice"),
        (dict.fromkeys(map(str, range(65)), ""), "profile_options"),
        (["next"], "profile_options"),
    ],
)
async def test_what_may_not_be_chosen_is_400_with_its_field(api, options, field):
    answer = await submit(api, profile_options=options)
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, field)


async def test_the_kbatch_command_chooses_by_a_variable(api):
    sent = json.loads((Path(__file__).parents[1] / "data/kbatch-0.5.0b1.json").read_text())["profile"]
    body = copy.deepcopy(sent)
    pod = body["job"]["spec"]["template"]["spec"]
    pod["tolerations"][0]["value"] = "lab"
    pod["containers"][0]["resources"] = None
    variable = {"name": "KBATCH_PROFILE_OPTIONS", "value": '{"image": "next"}'}
    pod["containers"][0]["env"] = [variable]
    made = (await api.post("jobs/", json=body)).json()
    [container] = made["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "python:4"
    variable["value"] = '{"image": "last"}'
    answer = await api.post("jobs/", json=body)
    field = "job.spec.template.spec.containers[0].env.KBATCH_PROFILE_OPTIONS.image"
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, field)


class TestAFunctionOfTheAdmins:
    @pytest.fixture
    def web_settings(self):
        # as it was for functions that took the user
        return {"Profiles": {"profile_list": lambda user: [PROFILE] if list(user.groups) else []}}

    async def test_that_fails_is_500_with_an_id_and_its_error_in_the_log(self, api, caplog):
        for answer in (await submit(api), await api.get("api/v1/profiles")):
            assert answer.status_code == 500
            assert "AttributeError" not in answer.text
            assert answer.headers["X-Request-Id"] in answer.text
        assert "a job's spawner has no 'groups'" in caplog.text
