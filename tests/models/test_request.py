"""Checked input: each wrong field is named, with what it may be."""

import pytest

from kbatch_server.errors import InvalidRequest
from kbatch_server.models.job import JobSpec
from kbatch_server.models.request import MAX_ENV_BYTES, JobRequest, parse_memory

GOOD = {"name": "train", "command": ["python", "main.py"]}

WRONG = [
    ({}, "name"),
    ({"name": ""}, "name"),
    ({"name": None}, "name"),
    ({"name": 7}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": "../a"}, "name"),
    ({"name": "ünï"}, "name"),
    ({"name": "x" * 300}, "name"),
    ({"name": "a\n"}, "name"),
    ({"command": []}, "command"),
    ({"command": [""]}, "command"),
    ({"command": "python main.py"}, "command"),
    ({"command": ["a", 1]}, "command[1]"),
    ({"command": ["a\0b"]}, "command"),
    ({"command": ["x" * 100_000]}, "command"),
    ({"command": ["\ud800"]}, "command[0]"),
    ({"args": "x"}, "args"),
    ({"args": [""] * 100_000}, "args"),
    ({"mem_limit": "9" * 400 + "T"}, "mem_limit"),
    ({"env": {f"V{i}": "" for i in range(1001)}}, "env"),
    ({"env": {"V" * 201: ""}}, "env"),
    ({"image": ""}, "image"),
    ({"image": "a b"}, "image"),
    ({"env": {"A": 1}}, "env.A"),
    ({"env": {"A B": "x"}}, "env"),
    ({"env": {"": "x"}}, "env"),
    ({"env": {"A": "x\0"}}, "env"),
    ({"env": {"A": "x" * 10_000_000}}, "env"),
    ({"env": [["A", "x"]]}, "env"),
    ({"tags": {"a": 1}}, "tags.a"),
    ({"tags": {"a b": "x"}}, "tags"),
    ({"tags": {f"t{i}": "x" for i in range(33)}}, "tags"),
    ({"cpu_limit": 0}, "cpu_limit"),
    ({"cpu_limit": 1e-10}, "cpu_limit"),
    ({"cpu_limit": 0.0009}, "cpu_limit"),
    ({"mem_limit": 1}, "mem_limit"),
    ({"mem_limit": "4"}, "mem_limit"),
    ({"mem_limit": "0.1K"}, "mem_limit"),
    ({"cpu_limit": "2"}, "cpu_limit"),
    ({"cpu_limit": float("nan")}, "cpu_limit"),
    ({"mem_limit": "2 apples"}, "mem_limit"),
    ({"mem_limit": -1}, "mem_limit"),
    ({"mem_limit": True}, "mem_limit"),
    ({"shm_size": "2 apples"}, "shm_size"),
    ({"retries": -1}, "retries"),
    ({"retries": 1.5}, "retries"),
    ({"retry_delay_seconds": -1}, "retry_delay_seconds"),
    ({"retry_delay_seconds": 90000}, "retry_delay_seconds"),
    ({"retry_backoff": "never"}, "retry_backoff"),
    ({"active_deadline_seconds": 0}, "active_deadline_seconds"),
    ({"description": "x" * 5000}, "description"),
    ({"working_dir": "/etc"}, "working_dir"),
    ({"working_dir": "../x"}, "working_dir"),
    ({"working_dir": "a/../../x"}, "working_dir"),
    ({"working_dir": "a\0b"}, "working_dir"),
    ({"working_dir": "x" * 2001}, "working_dir"),
    ({"hostPath": "/etc"}, "hostPath"),
    ({"serviceAccountName": "admin"}, "serviceAccountName"),
]


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_a_wrong_field_is_named(change, field):
    body = (GOOD | change) if change else {"command": ["x"]}
    with pytest.raises(InvalidRequest) as caught:
        JobRequest.from_json(body)
    assert [each["field"] for each in caught.value.details] == [field]
    assert caught.value.message.startswith(f"{field}: ")
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(InvalidRequest, match="body: must be a JSON object"):
        JobRequest.from_json(body)


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(InvalidRequest) as caught:
        JobRequest.from_json({"name": "a/b", "command": [], "foo": 1})
    assert [each["field"] for each in caught.value.details] == ["name", "command", "foo"]


def test_the_size_of_a_large_environment_is_told_and_not_its_content():
    with pytest.raises(InvalidRequest) as caught:
        JobRequest.from_json(GOOD | {"env": {"TOKEN": "hunter2" * 100_000}})
    assert str(MAX_ENV_BYTES) in caught.value.message
    assert "hunter2" not in str(caught.value.to_dict())


def test_null_is_the_same_as_absent():
    assert JobRequest.from_json(GOOD | {"image": None, "env": None, "args": None}) == JobRequest.from_json(
        GOOD
    )


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 * 2**20), ("2G", 2**31), ("2Gi", 2**31), ("1.5K", 1536), (7, 7)]
)
def test_memory_is_read_as_jupyterhub_reads_it(text, size):
    assert parse_memory(text) == size


def test_a_body_of_a_million_unknown_fields_gets_a_short_answer():
    with pytest.raises(InvalidRequest, match="has 100002 fields"):
        JobRequest.from_json(GOOD | {f"f{i}": 1 for i in range(100_000)})


def test_not_every_one_of_many_wrong_values_is_named():
    with pytest.raises(InvalidRequest) as caught:
        JobRequest.from_json(GOOD | {"args": [1] * 1000})
    assert len(caught.value.details) == 50


def test_the_time_between_attempts_doubles_up_to_ten_minutes_or_stays():
    def find_delays(**spec):
        made = JobSpec(image="x", **spec)
        return [made.get_retry_delay_seconds(failures) for failures in (1, 2, 3, 9)]

    assert find_delays() == [10, 20, 40, 600]
    assert find_delays(retry_delay_seconds=400) == [400, 600, 600, 600]
    assert find_delays(retry_delay_seconds=3600) == [3600] * 4
    assert find_delays(retry_delay_seconds=5, retry_backoff="fixed") == [5] * 4
