"""The form of a new job, as a user sees it: code, errors beside the fields, progress, a notebook."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.support.environments import NOTEBOOKS
from tests.support.notebooks import make_notebook
from tests.support.zips import make_zip

PARAMETERS = """
layers = [64, 32]
zip_code = "00501"  # with its zeros
color = "#ff0000"
lr = 1/3
cfg = {"a": 1,
       "b": 2}
""".strip()
NOTEBOOK = make_notebook("#:# Hello", f"P:{PARAMETERS}", "print([layers, zip_code, color, lr, cfg])")


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
    page.page.get_by_label("Choose folder").set_input_files(folder)
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
    expect(page.find("kbatch-code")).to_contain_text(re.compile(r"Same code as first-\w+\."))
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
    made = {"name": "args-only", "command": ["true"]} | asked
    job = alice.call("POST", "api/v1/jobs", status=201, json=made)
    # of a launcher whose images bring commands of their own
    shown = json.dumps(alice.get(job["id"]) | {"command": None})
    page.page.route(f"**/api/v1/jobs/{job['id']}", lambda route: route.fulfill(body=shown))
    page.expected.append("400")
    page.go(f"submit?from={job['id']}")
    expect(page.page.get_by_label("Name", exact=True)).to_have_value("args-only")
    with page.page.expect_request("**/api/v1/jobs") as request:
        page.page.get_by_role("button", name="Submit").click()
    again = request.value.post_data_json
    assert {name: again[name] for name in asked} == asked
    assert "command" not in again
    expect(page.find("#command-problem")).to_contain_text("is required")


def test_a_job_that_is_like_the_server_asks_for_no_profile_and_for_results_at_home(site, page):
    """The hub of these tests has no server with a pod: the page gets what a service says that has one."""
    user = site.client("alice").call("GET", "api/v1/user") | {"like": True, "home": True}
    names = {"": "Default server", "gpu": "GPU"}
    servers = [
        {"name": name, "display_name": shown, "is_running": not name, "like": f"server:{name}".rstrip(":")}
        for name, shown in names.items()
    ]
    page.page.route("**/api/v1/user", lambda route: route.fulfill(json=user))
    page.page.route("**/api/v1/servers", lambda route: route.fulfill(json={"items": servers}))
    page.expected.append("400")
    page.go("submit")
    page.page.get_by_label("Name", exact=True).fill("like-mine")
    expect(page.page.get_by_label("Small")).to_be_visible()
    page.page.get_by_label("Mount my home folder").check()
    expect(page.page.get_by_label("Save the results in my home folder")).to_be_visible()
    page.page.get_by_label("Same as my server").check()
    expect(page.page.get_by_label("Small")).to_have_count(0)
    expect(page.page.get_by_label("Mount my home folder")).to_have_count(0)
    page.page.get_by_label("Server", exact=True).select_option("GPU (stopped)")
    page.page.get_by_label("Save the results in my home folder").check()
    page.shoot("like-my-server")
    with page.page.expect_request("**/api/v1/jobs") as request:
        page.page.get_by_role("button", name="Submit").click()
    asked = request.value.post_data_json
    assert {name: asked[name] for name in ("like", "results_to_home")} == {
        "like": "server:gpu",
        "results_to_home": True,
    }
    assert not {"profile", "home"} & asked.keys()
    # this service cannot do it, and says so where it was asked for
    expect(page.find("kbatch-server-choice .problem")).to_contain_text("ask an admin")


def test_a_zip_with_one_folder_at_the_top_is_run_in_that_unless_the_user_says_no(page, tmp_path):
    archive = tmp_path / "repo-main.zip"
    archive.write_bytes(make_zip({"repo-main/main.sh": "pwd; ls", "__MACOSX/._repo-main": "x"}))
    page.page.get_by_label("Choose files").set_input_files(archive)
    choice = page.page.get_by_label("Run in folder repo-main")
    expect(choice).to_be_checked()
    expect(page.find("kbatch-submit")).to_contain_text("All files in this ZIP are in this folder.")
    page.page.get_by_label("Command").fill("sh main.sh")
    page.page.get_by_role("button", name="Submit").click()
    expect(status(page)).to_have_text("succeeded")
    text = page.find(".line .text")
    expect(text.filter(has_text="/repo-main")).to_have_count(1)
    # again, from above
    page.page.get_by_role("link", name="with changes").click()
    expect(choice).to_be_checked()
    choice.uncheck()
    page.page.get_by_label("Command").fill("ls")
    page.page.get_by_role("button", name="Submit").click()
    expect(status(page)).to_have_text("succeeded")
    expect(text.filter(has_text="repo-main")).to_have_count(1)
    expect(text.filter(has_text="__MACOSX")).to_have_count(0)


def test_a_folder_that_only_the_service_finds_is_offered_before_the_job_is_submitted(page, tmp_path):
    archive = tmp_path / "repo-main.zip"
    archive.write_bytes(make_zip({"repo-main/main.sh": "pwd"}))
    page.page.evaluate("Blob.prototype.slice = () => new Blob()")  # it cannot be read here
    page.page.get_by_label("Choose files").set_input_files(archive)
    page.page.get_by_label("Command").fill("sh main.sh")
    asked = []
    page.page.on("request", lambda request: asked.append(request.url.endswith("api/v1/jobs")))
    page.page.get_by_role("button", name="Submit").click()
    choice = page.page.get_by_label("Run in folder repo-main")
    expect(choice).to_be_checked()
    expect(choice).to_be_focused()
    expect(choice).to_be_in_viewport()
    form = page.find("kbatch-submit")
    expect(form).to_contain_text("All files in this ZIP are in this folder.")
    expect(form).to_contain_text("Choose whether the command runs in this folder, then submit again.")
    page.shoot("submit-folder")
    assert not any(asked)
    page.page.get_by_role("button", name="Submit").click()
    expect(status(page)).to_have_text("succeeded")
    expect(page.find(".line .text", "/repo-main")).to_have_count(1)


@pytest.mark.parametrize("names", [["main.sh"], ["a/main.sh", "b/x"], ["a/main.sh", "x"]])
def test_a_zip_without_such_a_folder_is_run_as_it_is(page, tmp_path, names):
    archive = tmp_path / "code.zip"
    archive.write_bytes(make_zip(dict.fromkeys(names, "")))
    page.page.get_by_label("Choose files").set_input_files(archive)
    expect(page.find("kbatch-code")).to_contain_text("code.zip")
    expect(page.page.get_by_label("Run in folder")).to_have_count(0)


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
    expect(page.find("#name-problem")).to_have_text("Enter a name.")
    expect(page.page.get_by_label("Name", exact=True)).to_be_focused()
    page.page.get_by_label("Name", exact=True).fill("not a name!")
    page.page.get_by_label("Command").fill("echo 'open")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("#command-problem")).to_have_text("Close the ' in the command.")
    page.page.get_by_label("Command").fill("echo 'closed'")
    page.find("summary").click()
    page.page.get_by_label("CPU limit").fill("64")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("#name-problem")).to_contain_text("letters (A to Z), digits")
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
    expect(page.find("form [role=status]", "Uploading")).to_be_visible()
    page.page.get_by_role("button", name="Cancel").click()
    expect(page.find(".alert")).to_contain_text("Cancelled. The job was not submitted.")
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
        (413, "A proxy in front of the hub rejected the upload because it is too large (413). Ask an admin"),
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


def set_path(page, folder):
    """Have the job find the programs of a folder, and give it what a kernel takes."""
    page.page.get_by_role("radio", name="Large").check()  # of address space, a kernel takes more than it uses
    page.page.get_by_role("button", name="Add variable").click()
    page.page.get_by_label("Name of variable 1").fill("PATH")
    page.page.get_by_label("Value of variable 1").fill(f"{folder}:/usr/bin:/bin")


def choose_notebook(page, folder, text, name="my report.ipynb"):
    (folder / name).write_text(text)
    page.page.get_by_label("Choose files").set_input_files(folder / name)


def submit(page):
    """Submit, and return what was asked for and the job's id."""
    with page.page.expect_response("**/api/v1/jobs") as answer:
        page.page.get_by_role("button", name="Submit").click()
    return answer.value.request.post_data_json, answer.value.json()["id"]


def wait_for_end(site, page, job_id, status_wanted="succeeded"):
    expect(status(page)).to_have_text(re.compile("succeeded|failed"), timeout=120_000)
    assert site.client("alice").get(job_id)["status"] == status_wanted, site.client("alice").logs(job_id)
    return site.client("alice").logs(job_id)


def test_a_notebook_shows_its_parameters_as_they_are_and_runs_untouched(site, page, tmp_path, papermill):
    choose_notebook(page, tmp_path, NOTEBOOK)
    expect(page.page.get_by_label("Name", exact=True)).to_have_value("my-report")
    for name, value in {
        "layers": "[64, 32]",
        "zip_code": "00501",
        "color": "#ff0000",
        "lr": "1/3",
        "cfg": '{"a": 1,\n       "b": 2}',
    }.items():
        expect(page.page.get_by_label(name, exact=True)).to_have_value(value)
    expect(page.page.get_by_label("Type of zip_code")).to_have_value("text")
    expect(page.page.get_by_label("Type of lr")).to_have_value("code")
    expect(page.find("kbatch-parameters")).to_contain_text("with its zeros")
    set_path(page, papermill)
    page.shoot("submit-notebook")
    asked, job_id = submit(page)
    assert asked["notebook"] == {
        "path": "my report.ipynb",
        "parameters": {},
        "expressions": {},
        "kernel": None,
    }
    assert "command" not in asked
    log = wait_for_end(site, page, job_id)
    assert log == "[[64, 32], '00501', '#ff0000', 0.3333333333333333, {'a': 1, 'b': 2}]\n"
    expect(page.page.get_by_role("link", name="my report.ipynb")).to_be_visible()
    expect(page.find(".notebook")).to_have_text("Notebook my report.ipynb")


def test_only_what_was_changed_is_asked_for_with_its_type_and_so_it_is_again(site, page, tmp_path, papermill):
    choose_notebook(page, tmp_path, NOTEBOOK)
    page.page.get_by_label("layers", exact=True).fill("[1.0, 2]")
    page.page.get_by_label("zip_code", exact=True).fill("007")
    page.page.get_by_label("cfg", exact=True).fill('{"a": None}')
    page.page.get_by_label("color", exact=True).fill("red")
    page.page.get_by_label("Reset color").click()
    set_path(page, papermill)
    asked, job_id = submit(page)
    changed = {"parameters": {"zip_code": "007", "cfg": {"a": None}}, "expressions": {"layers": "[1.0, 2]"}}
    assert asked["notebook"] == {"path": "my report.ipynb", "kernel": None} | changed
    printed = "[[1.0, 2], '007', '#ff0000', 0.3333333333333333, {'a': None}]\n"
    assert wait_for_end(site, page, job_id) == printed
    said = 'Notebook my report.ipynb, parameters: zip_code = "007", cfg = {"a":null}, layers = [1.0, 2]'
    expect(page.find(".notebook")).to_have_text(said)
    page.shoot("job-notebook")
    # again: what it could set is read from the notebook that came back
    page.page.get_by_role("link", name="Run again with changes").click()
    expect(page.page.get_by_label("zip_code", exact=True)).to_have_value("007")
    expect(page.page.get_by_label("layers", exact=True)).to_have_value("[1.0, 2]")
    expect(page.page.get_by_label("lr", exact=True)).to_have_value("1/3")
    page.page.get_by_label("lr", exact=True).fill("0.5")
    page.page.get_by_label("Reset cfg").click()
    asked, job_id = submit(page)
    changed = {"parameters": {"zip_code": "007", "lr": 0.5}, "expressions": {"layers": "[1.0, 2]"}}
    assert asked["notebook"] == {"path": "my report.ipynb", "kernel": None} | changed
    assert wait_for_end(site, page, job_id) == "[[1.0, 2], '007', '#ff0000', 0.5, {'a': 1, 'b': 2}]\n"


def test_a_job_of_the_api_keeps_the_types_of_its_parameters_when_it_is_run_again_on_the_page(site, page):
    alice = site.client("alice")
    notebook = {
        "path": "a.ipynb",
        "parameters": {"rate": 2.0, "big": 2**60, "text": "1.0", "all": [1.0, {"x": True}]},
        "expressions": {"lr": "1/3"},
        "kernel": "python3",
    }
    body = {"name": "by-api", "upload": alice.upload({"a.ipynb": "{}"}), "notebook": notebook}
    job = alice.call("POST", "api/v1/jobs", status=201, json=body)
    page.go(f"submit?from={job['id']}")
    expect(page.page.get_by_label("Value of rate")).to_have_value("2.0")
    expect(page.page.get_by_label("Type of text")).to_have_value("text")
    asked, _ = submit(page)
    assert asked["notebook"] == {
        "path": "a.ipynb",
        "parameters": {"text": "1.0"},
        "expressions": {"rate": "2.0", "big": str(2**60), "all": '[1.0, {"x": True}]', "lr": "1/3"},
        "kernel": "python3",
    }


def test_what_is_wrong_with_a_parameter_stands_beside_it(page, tmp_path):
    choose_notebook(page, tmp_path, NOTEBOOK)
    page.page.get_by_label("lr", exact=True).fill("1/3)(")
    page.page.get_by_role("button", name="Add parameter").click()
    page.page.get_by_label("Name of parameter 6").fill("not a name")
    page.page.get_by_label("Value of not a name").fill("5")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.page.get_by_label("lr", exact=True)).to_be_focused()
    problem = page.find("kbatch-parameters .problem")
    expect(problem).to_contain_text("Enter a Python value or expression.")
    expect(problem).to_be_in_viewport()
    page.shoot("submit-notebook-wrong")
    page.expected.append("400")
    page.page.get_by_label("lr", exact=True).fill("1/4")
    expect(problem).to_have_count(0)
    page.page.get_by_role("button", name="Submit").click()
    expect(problem).to_contain_text("'not a name' is not a valid variable name")


def test_what_else_a_notebook_s_cell_has_is_shown_and_left_alone(page, tmp_path):
    code = "a, b = 1, 2  # sizes\nc = d = 3"
    choose_notebook(page, tmp_path, make_notebook(f"P:lr = 1/3\n{code}", "print(a, b, c, d)"))
    expect(page.page.get_by_label("lr", exact=True)).to_have_value("1/3")
    expect(page.find("kbatch-parameters pre")).to_have_text(code)
    expect(page.find("kbatch-parameters .parameter")).to_have_count(1)
    page.shoot("submit-notebook-code")
    page.page.get_by_role("button", name="Add parameter").click()
    page.page.get_by_label("Name of parameter 2").fill("d")
    page.page.get_by_label("Value of d").fill("4")
    asked, _ = submit(page)
    assert asked["notebook"] == {
        "path": "my report.ipynb",
        "parameters": {"d": 4},
        "expressions": {},
        "kernel": None,
    }


def test_a_notebook_of_another_language_shows_its_cell(page, tmp_path):
    choose_notebook(page, tmp_path, make_notebook("P:lr <- 1/3", "print(lr)", kernel="ir", language="R"))
    expect(page.find("kbatch-parameters pre")).to_have_text("lr <- 1/3")
    page.page.get_by_role("button", name="Add parameter").click()
    page.page.get_by_label("Name of parameter 1").fill("lr")
    page.page.get_by_label("Value of lr").fill("0.5")
    page.page.get_by_role("button", name="Add parameter").click()
    page.page.get_by_label("Name of parameter 2").fill("n")
    page.page.get_by_label("Value of n").fill("1:10")
    asked, _ = submit(page)
    assert asked["notebook"] == {
        "path": "my report.ipynb",
        "parameters": {"lr": 0.5},
        "expressions": {"n": "1:10"},
        "kernel": None,
    }


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Untitled (1).ipynb", "Untitled-1"),
        ("-_x_-.py", "x"),
        ("データ.ipynb", "notebook"),
        ("データ.py", "job"),
        ("a" * 80 + ".py", "a" * 63),
    ],
)
def test_the_name_that_is_suggested_is_one_that_the_service_accepts(page, tmp_path, file, name):
    choose_notebook(page, tmp_path, NOTEBOOK if file.endswith(".ipynb") else "pass", file)
    expect(page.page.get_by_label("Name", exact=True)).to_have_value(name)
    if not file.endswith(".ipynb"):
        page.page.get_by_label("Command").fill("true")
    asked, _ = submit(page)
    assert asked["name"] == name


@pytest.mark.parametrize("width", [1280, 390])
def test_what_is_wrong_with_any_field_is_seen_without_scrolling(visit, width):
    page = visit("alice", "submit", width=width)
    page.page.set_viewport_size({"width": width, "height": 500})
    page.expected.append("400")
    page.page.get_by_label("Name", exact=True).fill("a-name")
    page.page.get_by_label("Command").fill("true")
    for _ in range(6):
        page.page.get_by_role("button", name="Add variable").click()
    page.find("summary").click()
    for label, value, good, words in [
        ("Name of variable 6", "a b", "a", "is not a valid environment variable name"),
        ("CPU limit", "many", "1", "Enter a number."),
        ("Memory limit", "lots", "512M", "must be a number of bytes"),
        ("Priority among your jobs", "5000", "5", "less than or equal to 1000"),
        ("Image", "an image", "", "match pattern"),
        ("Name", "no name!", "a-name", "letters (A to Z), digits"),
        ("Command", "echo 'open", "true", "Close the '"),
    ]:
        field = page.page.get_by_label(label, exact=True)
        field.fill(value)
        page.page.get_by_role("button", name="Submit").click()
        problem = page.find(".problem").filter(has_text=words)
        expect(problem).to_be_in_viewport()
        if label != "Name of variable 6":
            expect(field).to_be_focused()
            expect(field).to_be_in_viewport()
        field.fill(good)
        expect(problem).to_have_count(0)


def test_a_name_that_cannot_be_is_told_as_soon_as_its_field_is_left(page):
    page.page.get_by_label("Name", exact=True).fill("Untitled-1-")
    page.page.get_by_label("Command").focus()
    expect(page.find("#name-problem")).to_contain_text("Start and end with a letter or digit.")
    page.page.get_by_label("Name", exact=True).fill("Untitled-1")
    expect(page.find("#name-problem")).to_have_count(0)


def test_files_of_the_working_folder_are_results_where_that_is_ticked(site, page, tmp_path):
    (tmp_path / "main.sh").write_text("echo 1 > beside.txt")
    page.page.get_by_label("Choose files").set_input_files(tmp_path / "main.sh")
    page.page.get_by_label("Command").fill("sh main.sh")
    page.page.get_by_label("Keep new and changed files").check()
    asked, job_id = submit(page)
    assert asked["collect"] == "workdir"
    wait_for_end(site, page, job_id)
    expect(page.page.get_by_role("link", name="beside.txt")).to_be_visible()
    page.page.get_by_role("link", name="Run again with changes").click()
    expect(page.page.get_by_label("Keep new and changed files")).to_be_checked()


def test_results_that_did_not_fit_are_named_on_the_jobs_page(site, page):
    script = "cd $KBATCH_OUTPUT_DIR; for i in $(seq 1001 1025); do echo > $i; done"
    alice = site.client("alice")
    body = {"name": "many", "command": ["sh", "-c", script]}
    job = alice.wait(alice.call("POST", "api/v1/jobs", status=201, json=body)["id"])
    page.go(f"job/{job['id']}")
    expect(page.find(".message")).to_contain_text("Results incomplete: 5 files")
    page.page.get_by_text("Files not kept").click()
    expect(page.find("kbatch-outputs li")).to_have_count(5)
    expect(page.find("kbatch-outputs li").first).to_contain_text("1021")
    page.shoot("job-results-cut")


def test_the_options_of_a_profile_are_chosen_as_on_the_spawn_page(site, page):
    model, season = page.page.get_by_label("Model"), page.page.get_by_label("Season")
    page.page.get_by_label("Name", exact=True).fill("grid")
    page.page.get_by_label("Command").fill("sh -c 'echo the grid is $GRID'")
    expect(model).to_have_count(0)
    page.page.get_by_label("Simulation").check()
    expect(model).to_have_value("coarse")  # the default, not the first
    assert model.locator("option").all_inner_texts() == ["Fine grid", "Coarse grid", "Another…"]
    expect(season).to_have_value("dry")
    season.select_option("Wet")
    model.select_option("Another…")
    own = page.page.get_by_label("Size of the grid")
    expect(page.find("kbatch-profile-options")).to_contain_text("A number of kilometres, like 5 km.")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("kbatch-profile-options .problem")).to_have_text(
        "Enter a value, or choose one of the list."
    )
    expect(own).to_be_focused()
    own.fill("far")
    page.expected.append("400")
    page.page.get_by_role("button", name="Submit").click()
    expect(page.find("kbatch-profile-options .problem")).to_have_text("A number of kilometres, like 5 km.")
    expect(page.find("form")).to_contain_text("Check these fields: Profile options.")
    page.shoot("submit-options")
    own.fill("25 km")
    page.page.get_by_role("button", name="Submit").click()
    expect(status(page)).to_have_text("succeeded")
    expect(page.find(".line .text", "the grid is 25 km")).to_have_count(1)
    expect(page.find("kbatch-request")).to_contain_text("model: 25 km, season: wet")
    page.shoot("job-options")
    # again, with what was chosen, and something else
    page.page.get_by_role("link", name="Run again with changes").click()
    expect(own).to_have_value("25 km")
    expect(season).to_have_value("wet")
    model.select_option("Fine grid")
    expect(own).to_have_count(0)
    with page.page.expect_request("**/api/v1/jobs") as request:
        page.page.get_by_role("button", name="Submit").click()
    assert request.value.post_data_json["profile_options"] == {"model": "fine", "season": "wet"}
    expect(page.find(".line .text", "the grid is 1")).to_have_count(1)


def test_a_choice_that_is_gone_since_is_the_default_again(site, page):
    made = {"name": "old", "command": ["true"], "profile": "simulation"}
    job = site.client("alice").call("POST", "api/v1/jobs", status=201, json=made)
    shown = json.dumps(job | {"profile_options": {"model": "gone", "season": "wet", "year": "2029"}})
    page.page.route(f"**/api/v1/jobs/{job['id']}", lambda route: route.fulfill(body=shown))
    page.go(f"submit?from={job['id']}")
    expect(page.page.get_by_label("Season")).to_have_value("wet")
    expect(page.page.get_by_label("Model")).to_have_value("coarse")
    with page.page.expect_request("**/api/v1/jobs") as request:
        page.page.get_by_role("button", name="Submit").click()
    assert request.value.post_data_json["profile_options"] == {"season": "wet"}
