"""The form of a new job, as a user sees it: code, errors beside the fields, progress, a notebook."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.environments import NOTEBOOKS

NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": "# Hello", "metadata": {}},
        {
            "cell_type": "code",
            "source": ["rate = 0.5  # how much\n", 'name = "world"\n'],
            "metadata": {"tags": ["parameters"]},
            "outputs": [],
            "execution_count": None,
        },
        {
            "cell_type": "code",
            "source": "print(f'{name} at {rate}')",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        },
    ],
    "metadata": {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture
def page(visit):
    return visit("alice", "submit")


def status(page):
    return page.find("[role=status].status")


def test_code_is_packed_and_sent_and_its_log_is_there(page, tmp_path):
    folder = tmp_path / "experiment"
    (folder / "part").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / "main.sh").write_text("cat part/words.txt; ls -a; echo $GREETING")
    (folder / "part" / "words.txt").write_text("from the part\n" * 3)
    page.page.get_by_label("Name", exact=True).fill("first")
    page.page.get_by_label("Choose a folder").set_input_files(folder)
    expect(page.find("kbatch-code")).to_contain_text("main.sh")
    page.page.get_by_label("Command").fill("sh main.sh")
    page.page.get_by_role("button", name="Add variable").click()
    page.page.get_by_label("Name of variable 1").fill("GREETING")
    page.page.get_by_label("Value of variable 1").fill("hello you")
    page.shoot("submit")
    page.page.get_by_role("button", name="Submit").click()
    expect(status(page)).to_have_text("succeeded")
    text = page.find(".line .text")
    expect(text.filter(has_text="from the part")).to_have_count(3)
    expect(text.filter(has_text="hello you")).to_have_count(1)
    expect(text.filter(has_text=".git")).to_have_count(0)
    # again, with the same code and something else
    page.page.get_by_role("link", name="Run again with changes").click()
    expect(page.page.get_by_label("Name", exact=True)).to_have_value("first")
    expect(page.find("kbatch-code")).to_contain_text("The code of the job before is used again.")
    page.page.get_by_label("Value of variable 1").fill("hello again")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find(".line .text", "hello again")).to_have_count(1)


def test_a_job_run_again_unchanged_asks_for_the_same(site, page):
    asked = {
        "args": ["--epochs", "3"],
        "retries": 1,
        "retry_delay_seconds": 7,
        "retry_backoff": "fixed",
        "active_deadline_seconds": 500,
    }
    alice = site.client("alice")
    job = alice.call("POST", "api/v1/jobs", json={"name": "args-only"} | asked, status=201)
    page.go(f"submit?from={job['id']}")
    expect(page.page.get_by_label("Name", exact=True)).to_have_value("args-only")
    with page.page.expect_response("**/api/v1/jobs") as answer:
        page.page.get_by_role("button", name="Submit").click()
    again = answer.value.json()
    assert again["id"] != job["id"]
    assert {name: again[name] for name in asked} == asked
    assert again["command"] is None


def test_files_that_are_dropped_are_the_code(page):
    dropped = page.page.evaluate_handle(
        """() => {
            const dropped = new DataTransfer();
            dropped.items.add(new File(["echo it was dropped"], "main.sh"));
            return dropped;
        }"""
    )
    page.find("kbatch-code .zone").dispatch_event("drop", {"dataTransfer": dropped})
    expect(page.find("kbatch-code")).to_contain_text("main.sh")
    page.page.get_by_label("Name", exact=True).fill("dropped")
    page.page.get_by_label("Command").fill("sh main.sh")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find(".line .text", "it was dropped")).to_have_count(1)


def test_what_is_wrong_stands_beside_the_field(page):
    page.expected.append("400")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("#name-problem")).to_have_text("must be there")
    expect(page.page.get_by_label("Name", exact=True)).to_be_focused()
    page.page.get_by_label("Name", exact=True).fill("not a name!")
    page.page.get_by_label("Command").fill("echo 'open")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("#command-problem")).to_have_text("has a ' that is not closed")
    page.page.get_by_label("Command").fill("echo 'closed'")
    page.find("summary").click()
    page.page.get_by_label("CPUs at most").fill("64")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("#name-problem")).to_contain_text("must be letters, digits")
    page.shoot("submit-wrong")
    page.page.get_by_label("Name", exact=True).fill("a-name")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("#cpu_limit-problem")).to_contain_text("8")


def test_an_upload_is_cancelled_and_a_bad_zip_is_refused_at_its_field(page, tmp_path):
    page.expected.append("400")
    page.page.get_by_label("Name", exact=True).fill("zip")
    (tmp_path / "large.bin").write_bytes(b"x" * 30_000_000)
    page.page.get_by_label("Choose files").set_input_files(tmp_path / "large.bin")
    # as slow as many a network
    held = []
    page.page.route("**/api/v1/uploads", lambda route: held.append(route))
    page.expected.append("ERR_")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("form [role=status]", "Sending")).to_be_visible()
    page.page.get_by_role("button", name="Cancel").click()
    expect(page.find(".alert")).to_contain_text("It was cancelled")
    for route in held:
        route.abort()
    page.page.unroute("**/api/v1/uploads")
    (tmp_path / "bad.zip").write_bytes(b"this is no zip")
    page.page.get_by_label("Choose files").set_input_files(tmp_path / "bad.zip")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("kbatch-code #problem")).to_contain_text("must be a ZIP archive")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (413, "A proxy in front of the hub refused the upload because of its size (413). Ask an admin"),
        (502, "A proxy in front of the service can't reach it (502)."),
        (504, "A proxy in front of the service stopped waiting for its answer (504)."),
    ],
)
def test_an_error_of_a_proxy_is_named_as_the_proxy_s(page, tmp_path, status, words):
    page.expected.append(str(status))
    (tmp_path / "main.py").write_text("print(1)")
    page.page.get_by_label("Name", exact=True).fill("proxied")
    page.page.get_by_label("Choose files").set_input_files(tmp_path / "main.py")
    html = f"<html><head><title>{status}</title></head><body><hr><center>nginx</center></body></html>"
    page.page.route(
        "**/api/v1/uploads",
        lambda route: route.fulfill(status=status, content_type="text/html", body=html),
    )
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("[role=alert]", words)).to_be_visible()
    page.page.unroute("**/api/v1/uploads")


@pytest.fixture(scope="module")
def papermill(site):
    """The folder of programs of an environment with papermill and nbconvert, as an image would have it."""
    folder = site.service.folder / "papermill"
    NOTEBOOKS.copy_to(folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def nbconvert(site, papermill):
    """The same without papermill."""
    folder = site.service.folder / "nbconvert"
    folder.mkdir()
    for name in ("jupyter", "jupyter-nbconvert"):
        (folder / name).symlink_to(papermill / name)
    return folder


def set_path(page, folder):
    """Have the job find the programs of a folder, and give it what a kernel takes."""
    page.page.get_by_role("radio", name="Large").check()  # of address space, a kernel takes more than it uses
    page.page.get_by_role("button", name="Add variable").click()
    page.page.get_by_label("Name of variable 1").fill("PATH")
    page.page.get_by_label("Value of variable 1").fill(f"{folder}:/usr/bin:/bin")


def read_executed(site, page, name):
    """Wait for the end of the job that is shown, and return what the last cell of its notebook printed."""
    expect(status(page)).to_have_text(re.compile("succeeded|failed"), timeout=120_000)
    job_id = page.page.url.rstrip("/").rpartition("/")[2]
    assert site.client("alice").get(job_id)["status"] == "succeeded", site.client("alice").logs(job_id)
    with page.page.expect_download() as downloading:
        page.page.get_by_role("link", name=name).click()
    return json.loads(downloading.value.path().read_text())["cells"][-1]["outputs"][0]["text"]


def test_a_notebook_comes_back_executed_with_its_parameters(site, page, tmp_path, papermill):
    (tmp_path / "my report.ipynb").write_text(json.dumps(NOTEBOOK))
    page.page.get_by_label("Choose files").set_input_files(tmp_path / "my report.ipynb")
    expect(page.page.get_by_label("Name", exact=True)).to_have_value("my-report")
    expect(page.page.get_by_label("Value of parameter 1")).to_have_value("0.5")
    expect(page.page.get_by_label("Value of parameter 2")).to_have_value("world")
    page.page.get_by_label("Value of parameter 2").fill("you")
    page.shoot("submit-notebook")
    page.page.get_by_role("button", name="Submit").click()
    expect(status(page)).to_have_text("failed")
    expect(page.find(".line .text", "The image has no papermill, which parameters take.")).to_have_count(1)
    page.page.get_by_role("link", name="Run again with changes").click()
    expect(page.page.get_by_label("Value of parameter 2")).to_have_value("you")
    set_path(page, papermill)
    page.page.get_by_role("button", name="Submit").click()
    assert read_executed(site, page, "my report.ipynb") == ["you at 0.5\n"]


def test_a_notebook_without_parameters_takes_no_papermill(site, page, tmp_path, nbconvert):
    plain = NOTEBOOK | {"cells": [cell | {"metadata": {}} for cell in NOTEBOOK["cells"]]}
    (tmp_path / "plain.ipynb").write_text(json.dumps(plain))
    page.page.get_by_label("Choose files").set_input_files(tmp_path / "plain.ipynb")
    set_path(page, nbconvert)
    page.page.get_by_role("button", name="Submit").click()
    assert read_executed(site, page, "plain.ipynb") == ["world at 0.5\n"]
