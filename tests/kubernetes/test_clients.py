"""The published kbatch commands, unmodified, against a real hub, proxy and Kubernetes."""

from __future__ import annotations

import re

import pytest

from tests.support.clients import VERSIONS, KBatch
from tests.support.installation import Installation


@pytest.fixture(params=VERSIONS)
def kbatch(request: pytest.FixtureRequest, installation: Installation, tmp_path) -> KBatch:
    """Alice's command."""
    return KBatch(request.param, tmp_path, url=installation.hub.kbatch_url, token=installation.token("alice"))


def wait(installation: Installation, name: str, *statuses: str) -> dict:
    return installation.client("alice").wait(name, *statuses)


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_a_folder_of_code_runs_and_its_log_is_read(kbatch, installation):
    folder = kbatch.home / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "main.sh").write_text('echo "I read: $(cat data/input.txt), $GREETING"; pwd\n')
    (folder / "data/input.txt").write_text("42")
    environment = {"GREETING": "hello"}
    name = kbatch.submit(
        name="folder", image="localhost/busybox:1", command=sh("sh main.sh"), code="project", env=environment
    )
    assert re.fullmatch(r"folder-[a-z0-9]{10}", name)
    assert wait(installation, name)["status"] == "succeeded"
    pod = kbatch.json("pod", "list", "--job-name", name, "--output", "json")["items"][0]["metadata"]["name"]
    logs = kbatch("job", "logs", name) if kbatch.version == "0.5.0b1" else kbatch("pod", "logs", pod)
    assert logs.splitlines()[:2] == ["I read: 42, hello", "/code"]


def test_a_single_file_of_code_runs(kbatch, installation):
    (kbatch.home / "hello.sh").write_text("echo from a file\n")
    # 0.4.2 packs a file under the path that it was named by
    name = kbatch.submit(name="file", image="localhost/busybox:1", command=sh("sh hello.sh"), code="hello.sh")
    assert wait(installation, name)["status"] == "succeeded"
    assert installation.client("alice").logs(name) == "from a file\n"


def test_a_followed_log_comes_line_by_line_without_lines_lost_or_empty_ones_added(kbatch, installation):
    script = "for i in 1 2 3; do echo line $i; sleep 0.4; done; echo; echo last"
    name = kbatch.submit(name="chatty", image="localhost/busybox:1", command=sh(script))
    if kbatch.version == "0.5.0b1":
        printed = kbatch("job", "logs", name, "--stream")  # it waits for the job to start
    else:
        pod = wait(installation, name, "running", "succeeded") and _pods(kbatch, name)[0]
        printed = kbatch("pod", "logs", pod, "--stream")
    assert printed == "line 1\nline 2\nline 3\n\nlast\n"


def test_a_progress_bar_is_printed_as_it_was_at_last(kbatch, installation):
    bar = r"for i in $(seq 0 1000); do printf '\rstep %d/1000' $i; done; "
    bar += r"printf '\n\033[1mINFO\033[0m | saved\n'"
    name = installation.client("alice").submit(bar)["id"]
    wait(installation, name, "succeeded")
    whole = installation.client("alice").logs(name)
    assert whole.startswith("\rstep 0/1000\rstep 1/1000\r")
    [pod] = _pods(kbatch, name)
    for command in (("pod", "logs", pod), ("pod", "logs", pod, "--stream")):
        assert kbatch(*command).rstrip().splitlines() == ["step 1000/1000", "\x1b[1mINFO\x1b[0m | saved"]


def test_the_tables_and_the_json_show_each_job_as_it_is(kbatch, installation):
    good = kbatch.submit(name="good", image="localhost/busybox:1", command=["true"])
    bad = kbatch.submit(name="bad", image="localhost/busybox:1", command=sh("exit 3"))
    waiting = kbatch.submit(name="waiting", image="localhost/nope:1", command=["true"])
    running = kbatch.submit(name="running", image="localhost/busybox:1", command=["sleep", "600"])
    wait(installation, good), wait(installation, bad), wait(installation, running, "running")
    table = kbatch("job", "list", "--output", "table")
    rows = {
        row[0]: row for row in (re.split(r"\s*[│|]\s*", line.strip("│| ")) for line in table.splitlines())
    }
    shown = (
        ("done", "failed", "pending", "running")
        if kbatch.version == "0.5.0b1"
        else ("done", "failed", "active", "active")
    )
    for name, status in zip((good, bad, waiting, running), shown, strict=True):
        assert rows[name][2] == status
    listed = kbatch.json("job", "list", "--output", "json")["items"]
    assert {good, bad, waiting, running} <= {job["metadata"]["name"] for job in listed}
    shown_bad = kbatch.json("job", "show", bad)
    assert shown_bad["status"]["failed"] == 1
    assert "exit code 3" in str(shown_bad)
    assert "Running" in kbatch("pod", "list", "--job-name", running, "--output", "table")
    kbatch("job", "delete", running)
    kbatch("job", "delete", waiting)
    assert running not in kbatch("job", "list", "--output", "json")


def test_a_profile_and_a_job_file_set_what_the_job_is(kbatch, installation):
    assert kbatch.json("profiles")["small"]["image"] == "localhost/busybox:1"
    body = "name: from-file\ncommand: [sh, -c, 'echo $A']\nenv: {A: x}\n"
    # 0.4.2 drops the profile of a job file and ends with a traceback of its own on --profile
    body += "profile: small\n" if kbatch.version == "0.5.0b1" else "image: localhost/busybox:1\n"
    (kbatch.home / "job.yaml").write_text(body)
    job = wait(installation, kbatch("job", "submit", "--output", "name", "--file", "job.yaml").strip())
    assert (job["status"], job["env"]) == ("succeeded", {"A": "x"})
    if kbatch.version == "0.5.0b1":
        assert (job["profile"], job["mem_limit"], job["cpu_limit"]) == ("small", 64 * 2**20, 0.5)


def test_configure_writes_a_file_that_later_commands_use(kbatch, installation):
    url, token = installation.hub.kbatch_url, installation.token("bob")
    kbatch("configure", "--kbatch-url", url, "--token", token)
    del kbatch.environment["KBATCH_URL"], kbatch.environment["JUPYTERHUB_API_TOKEN"]
    name = kbatch.submit(name="bobs", image="localhost/busybox:1", command=["true"])
    assert installation.client("bob").get(name)["user"] == "bob"


def test_cronjobs_are_refused_clearly_until_there_are_schedules(kbatch):
    options = [
        "--name",
        "nightly",
        "--schedule",
        "0 3 * * *",
        "--image",
        "localhost/busybox:1",
        "--command",
        '["true"]',
    ]
    for command in (["submit", *options], ["list"], ["show", "x"], ["delete", "x"]):
        done = kbatch.run("cronjob", *command)
        assert done.returncode != 0
        assert "501" in done.stderr + done.stdout
        if kbatch.version == "0.5.0b1":
            assert re.fullmatch(
                r"kbatch-proxy error 501: Cronjobs are not supported yet.*", done.stderr.strip()
            )


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"image": "evil/image:1"}, 400, "is not allowed"),
        ({"name": "a/b"}, 400, "name"),
        ({"command": []}, 400, "command"),
    ],
)
def test_an_error_is_printed_in_words(kbatch, options, status, said):
    options = {"name": "x", "image": "localhost/busybox:1", "command": ["true"]} | options
    words = [word for key, value in options.items() for word in (f"--{key}", str(value).replace("'", '"'))]
    done = kbatch.run("job", "submit", *words)
    assert done.returncode != 0
    assert said in done.stderr + done.stdout
    if kbatch.version == "0.5.0b1":  # 0.4.2 prints a traceback of its own around every answer but 200
        assert done.stderr.startswith(f"kbatch-proxy error {status}: ")
        assert "Traceback" not in done.stderr


def test_a_job_of_another_is_not_there(kbatch, installation):
    job = installation.client("bob").submit()
    for command in (["job", "show"], ["job", "delete"]):
        done = kbatch.run(*command, job["id"])
        assert done.returncode != 0
        assert "404" in done.stderr + done.stdout
    assert job["id"] not in kbatch("job", "list", "--output", "json")


def _pods(kbatch: KBatch, job: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in kbatch.json("pod", "list", "--job-name", job, "--output", "json")["items"]
    ]
