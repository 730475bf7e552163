"""What may be asked for of a notebook: each field is checked, costs a bounded time, and is kept as it was."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from kbatch_server.engine.reconciler import explain_end
from kbatch_server.errors import InvalidRequest
from kbatch_server.jobs.service import make_request
from kbatch_server.models.job import Job, JobSpec, JobStatus, Status
from kbatch_server.models.request import JobRequest
from kbatch_server.models.times import utcnow
from kbatch_server.notebooks import request as notebook_request
from kbatch_server.notebooks.files import make_files
from kbatch_server.notebooks.launch import EXIT_REASONS, SETTINGS_FILE
from kbatch_server.notebooks.request import Notebook

PARAMETERS = {"layers": [64, 32], "zip_code": "00501", "lr": 1.0, "cfg": {"a": None, "ü": [True, 2**70]}}
ASKED = {
    "path": "a b/train.ipynb",
    "parameters": PARAMETERS,
    "expressions": {"rate": "1/3"},
    "kernel": "python3",
}


def ask(**fields):
    return JobRequest.from_json({"name": "x", "notebook": {"path": "a.ipynb"} | fields})


def test_a_notebook_is_kept_with_the_types_of_its_parameters_and_asked_for_again():
    asked = JobRequest.from_json({"name": "x", "upload": "u", "image": "i", "notebook": ASKED})
    spec = JobSpec(image="i", upload="u", notebook=asked.notebook, collect=asked.get_collect())
    spec = JobSpec.model_validate_json(spec.model_dump_json())
    job = Job(id="x-1", user="alice", name="x", spec=spec, created_at=utcnow())
    again = make_request(job, {})
    assert again.notebook == asked.notebook
    assert repr(again.notebook.parameters) == repr(PARAMETERS)
    assert job.to_dict()["notebook"] == ASKED
    assert (again.get_collect(), job.to_dict()["collect"]) == ("workdir", "workdir")
    settings = json.loads(make_files(again.notebook, "src")[SETTINGS_FILE])
    assert (repr(settings["parameters"]), settings.pop("working_dir")) == (repr(PARAMETERS), "src")
    assert Notebook(**settings) == asked.notebook


@pytest.mark.parametrize(
    ("fields", "collect"),
    [
        ({"upload": "u", "notebook": {"path": "a.ipynb"}}, "workdir"),
        ({"upload": "u", "notebook": {"path": "a.ipynb"}, "collect": "outputs"}, "outputs"),
        ({"notebook": {"path": "/home/jovyan/a.ipynb"}}, "outputs"),
        ({"upload": "u", "command": ["true"]}, "outputs"),
        ({"command": ["true"], "collect": "workdir"}, "workdir"),
    ],
)
def test_what_a_notebook_writes_beside_itself_is_a_result_unless_something_else_is_said(fields, collect):
    assert JobRequest.from_json({"name": "x"} | fields).get_collect() == collect


DEEP = [[]]
for _ in range(30):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"path": "main.py"}, "notebook.path", "must be the path of a notebook"),
        ({"path": "../a.ipynb"}, "notebook.path", "must stay inside the code"),
        ({"path": "a\0.ipynb"}, "notebook.path", "NUL"),
        ({"path": "x" * 1000 + ".ipynb"}, "notebook.path", "1000"),
        ({"kernel": "-x"}, "notebook.kernel", "pattern"),
        ({"kernel": "a b"}, "notebook.kernel", "pattern"),
        ({"parameters": [1]}, "notebook.parameters", "dict"),
        (
            {"parameters": {"not a name": 1}},
            "notebook.parameters",
            "'not a name' is not a valid variable name",
        ),
        ({"parameters": {"1a": 1}}, "notebook.parameters", "not a valid variable name"),
        ({"parameters": {"a; import os": 1}}, "notebook.parameters", "not a valid variable name"),
        ({"parameters": {"x": "y" * 70_000}}, "notebook.parameters", "65536 bytes"),
        ({"parameters": {"x": [0] * 70_000}}, "notebook.parameters", "65536 bytes"),
        ({"parameters": {"x": DEEP}}, "notebook.parameters", "nested more than 20 deep"),
        ({"parameters": {"x": [10**4000] * 20}}, "notebook.parameters", "65536 bytes"),
        ({"parameters": {"x": float("inf")}}, "notebook.parameters", "not finite"),
        ({"parameters": {"x": ["\ud800"]}}, "notebook.parameters", "surrogate"),
        ({"parameters": {"x": {"\0": 1}}}, "notebook.parameters", "NUL"),
        ({"parameters": {f"x{n}": 1 for n in range(201)}}, "notebook.parameters", "201 names"),
        ({"expressions": {"x": " "}}, "notebook.expressions.x", "must not be empty"),
        ({"expressions": {"x": 1}}, "notebook.expressions.x", "string"),
        ({"expressions": {"x": "1" * 5000}}, "notebook.expressions.x", "4096"),
        ({"expressions": {"x y": "1"}}, "notebook.expressions", "not a valid variable name"),
        ({"parameters": {"x": 1}, "expressions": {"x": "1"}}, "notebook", "x is both a parameter and"),
        ({"cells": []}, "notebook.cells", "not a known field"),
    ],
)
def test_what_is_wrong_is_said_of_its_field(fields, field, words):
    with pytest.raises(InvalidRequest) as told:
        ask(**fields)
    [detail] = told.value.details
    assert detail["field"] == field
    assert words in detail["message"]


@pytest.mark.parametrize("command", [{"command": ["true"]}, {"args": ["x"]}])
def test_a_notebook_is_run_in_the_place_of_a_command(command):
    with pytest.raises(InvalidRequest, match="together with a command"):
        JobRequest.from_json({"name": "x", "notebook": {"path": "a.ipynb"}} | command)


@pytest.mark.parametrize("part", [0, "x", [], {}])
def test_a_look_at_parameters_ends_where_they_are_too_many(part, monkeypatch):
    looks = []
    measure = notebook_request._measure
    monkeypatch.setattr(notebook_request, "_measure", lambda each: looks.append(1) or measure(each))
    with pytest.raises(ValidationError):
        Notebook(path="a.ipynb", parameters={"x": [part] * 10**6})
    assert len(looks) <= notebook_request.MAX_PARAMETER_BYTES


@pytest.mark.parametrize("code", EXIT_REASONS)
def test_how_a_notebook_ended_is_said_in_words(code):
    job = Job(
        id="x", user="u", name="x", spec=JobSpec(image="i", notebook={"path": "a.ipynb"}), created_at=utcnow()
    )
    seen = JobStatus(status=Status.FAILED, reason="Error", message="It ended.", exit_code=code)
    told = explain_end(job, seen)
    assert (told.reason, told.message, told.exit_code) == (*EXIT_REASONS[code], code)
    for other in (
        seen.model_copy(update={"reason": "OOMKilled"}),
        seen.model_copy(update={"exit_code": 143}),
        JobStatus(status=Status.SUCCEEDED, exit_code=0),
    ):
        assert explain_end(job, other) == other
    job.spec = JobSpec(image="i", command=["x"])
    assert explain_end(job, seen) == seen
