"""What a request's JSON may cost before anything is made of it."""

from __future__ import annotations

import json

import pytest

from kbatch_server.errors import InvalidRequest
from kbatch_server.handlers.compat import first_client as flat
from kbatch_server.handlers.compat import requests as kbatch
from kbatch_server.models.request import CancelRequest, JobRequest
from kbatch_server.validation import MAX_DEPTH, MAX_VALUES, checked, parse_json
from tests.support.fuzzing import peak_below

MIB = 2**20


def say(**fields: object) -> bytes:
    return json.dumps({"name": "x", **fields}).encode()


def say_kbatch(**container: object) -> bytes:
    pod = {"containers": [{"name": "job"} | container]}
    job = {"metadata": {"name": "x"}, "spec": {"template": {"spec": pod}}}
    return json.dumps({"job": job}).encode()


READERS = {
    "api": JobRequest.from_json,
    "flat": flat.read_body,
    "kbatch": lambda data: kbatch.read_body(data, {}),
    "cancel": lambda data: checked(CancelRequest, data),
}

MANY = 500_000
HOSTILE = {
    "numbers in args": ("api", say(args=[1] * MANY)),
    "texts in command": ("api", say(command=[""] * MANY)),
    "env": ("api", say(env=dict.fromkeys(map(str, range(50_000)), 1))),
    "tags": ("api", say(tags=dict.fromkeys(map(str, range(50_000)), 1))),
    "fields": ("api", say(**dict.fromkeys(map(str, range(50_000)), 1))),
    "lists in a list": ("api", b'{"name": "x", "args": [' + b"[]," * MANY + b"[]]}"),
    "a deep list": ("api", b'{"name": "x", "args": ' + b"[" * MANY),
    "deep objects": ("api", b'{"a":' * MANY),
    "no JSON at all": ("api", b"," * MANY),
    "args of the first client": ("flat", say(args=[1] * MANY)),
    "upload_data": ("flat", say(upload_data=[1] * MANY)),
    "args of the kbatch command": ("kbatch", say_kbatch(args=[1] * MANY)),
    "env of the kbatch command": ("kbatch", say_kbatch(env=[{}] * MANY)),
    "containers": ("kbatch", say_kbatch().replace(b"[", b"[" + b"{}," * MANY)),
    "a note": ("cancel", b'{"note": [' + b"1," * MANY + b"1]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_many_values_is_refused_before_any_of_them_is_an_object(name):
    wire, body = HOSTILE[name]
    with peak_below(2 * MIB), pytest.raises(InvalidRequest) as refused:
        READERS[wire](parse_json(body))
    assert len(json.dumps(refused.value.to_dict())) < 2000


# few enough to be read, and still more than what is theirs
WRONG = {
    "args": ("api", say(args=[1] * 19_000), "args: has 19000 words; the limit is 5000"),
    "command": ("api", say(command=[1] * 19_000), "command: has 19000 words; the limit is 5000"),
    "env": ("api", say(env=dict.fromkeys(map(str, range(9000)), 1)), "env: has 9000 variables"),
    "tags": (
        "api",
        say(tags=dict.fromkeys(map(str, range(9000)), 1)),
        "tags: has 9000 tags; the limit is 32",
    ),
    "kbatch args": ("kbatch", say_kbatch(args=[1] * 19_000), "args: has 19000 words"),
    "kbatch env": ("kbatch", say_kbatch(env=[{"x": 1}] * 5000), "env: has 5000 variables"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_container_of_too_many_is_refused_before_its_elements_are_looked_at(name):
    wire, body, words = WRONG[name]
    data = parse_json(body)
    with peak_below(2 * MIB), pytest.raises(InvalidRequest, match=words) as refused:
        READERS[wire](data)
    assert len(refused.value.details) == 1


def test_a_request_of_the_largest_size_is_good():
    env = {f"V{i:03}": 'é"\n' * 50 for i in range(1000)}
    data = parse_json(say(args=["x" * 12] * 5000, command=["y" * 12] * 5000, env=env))
    assert len(JobRequest.from_json(data).args) == 5000
    variables = [{"name": name, "value": value} for name, value in env.items()]
    kbatch.read_body(parse_json(say_kbatch(args=["x"] * 5000, command=["y"] * 5000, env=variables)), {})


def test_what_stands_in_a_text_does_not_count():
    text = '[{,\\"' * MAX_VALUES + "\\"
    assert parse_json(json.dumps({"code": text}).encode()) == {"code": text}


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_a_body_is_nested_as_deep_as_may_be(depth):
    body = b"[" * depth + b"]" * depth
    if depth <= MAX_DEPTH:
        parse_json(body)
        return
    with pytest.raises(InvalidRequest, match="body: is nested too deeply"):
        parse_json(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a"', b'{"a": "x', b'"\\', b"\xff", b"{}}", b"NaN", b"[1,]", b"{'a': 1}"]
)
def test_what_is_no_json_is_said_to_be_none(body):
    with pytest.raises(InvalidRequest, match=r"body: is not JSON: .* at line 1 column"):
        parse_json(body)
