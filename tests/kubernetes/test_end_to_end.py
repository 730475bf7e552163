"""Jobs from a hub's users to their ends, on a real Kubernetes: what a user does, sees and reads."""

from __future__ import annotations

import base64
import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest

from tests.support.folders import find_files
from tests.support.installation import API, Installation
from tests.support.waiting import wait_until
from tests.support.zips import NAME, make_mixed_zip, make_zip


@pytest.fixture
def alice(installation: Installation) -> API:
    return installation.client("alice")


@pytest.fixture
def bob(installation: Installation) -> API:
    return installation.client("bob")


@pytest.fixture(scope="module")
def kube(installation: Installation) -> Iterator[kubernetes.client.CoreV1Api]:
    """An administrator's client, for what happens behind the service's back."""
    with kubernetes.config.new_client_from_config(str(installation.cluster.kubeconfig)) as api_client:
        yield kubernetes.client.CoreV1Api(api_client)


@pytest.fixture
def bell(installation: Installation) -> Iterator[Bell]:
    bell = Bell(installation.cluster.host_address)
    yield bell
    bell.close()


class Bell:
    """A server that jobs ring at, once for each time that they really run."""

    def __init__(self, address: str) -> None:
        self.rings: Counter[str] = Counter()
        rings = self.rings

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rings[self.path.strip("/")] += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(str(rings[self.path.strip("/")]).encode())

            def log_message(self, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.url = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def script(self, then: str = "true") -> str:
        return f"wget -q -O /dev/null {self.url}/$KBATCH_JOB_ID; {then}"


def test_the_code_runs_with_its_environment_and_the_log_is_read_in_every_way(alice):
    upload = alice.upload({"run.sh": "for i in $(seq 5); do echo $GREETING $i; done\n"})
    job = alice.submit(command=["sh", "run.sh"], upload=upload, env={"GREETING": "hej"}, tags={"x": "y"})
    assert job["status"] == "queued"
    lines = [f"hej {i}\n" for i in range(1, 6)]
    assert alice.logs(job["id"], follow="true") == "".join(lines)
    done = alice.wait(job["id"])
    assert (done["status"], done["exit_code"], done["attempts"], done["tags"]) == (
        "succeeded",
        0,
        1,
        {"x": "y"},
    )
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    assert alice.logs(job["id"]) == "".join(lines)
    assert alice.logs(job["id"], tail=2) == "".join(lines[-2:])
    reasons = [event["reason"] for event in alice.call("GET", f"api/v1/jobs/{job['id']}/events")["items"]]
    assert "Scheduled" in reasons


def test_a_job_submits_another_from_inside_its_pod_with_a_token_that_only_its_secret_has(
    alice, installation, kube
):
    script = """
    auth="Authorization: token $KBATCH_JOB_TOKEN"
    wget -q -O - --header "$auth" "${KBATCH_URL}api/v1/jobs/$KBATCH_JOB_ID" >/dev/null || exit 3
    wget -q -O /dev/null --header "$auth" --header "Content-Type: application/json" \\
        --post-data '{"name": "part", "command": ["true"]}' "${KBATCH_URL}api/v1/jobs" || exit 4
    echo "token $KBATCH_JOB_TOKEN"
    """
    job = alice.wait(alice.submit(command=["sh", "-c", script])["id"])
    assert (job["status"], job["children"]) == ("succeeded", 1), alice.logs(job["id"])
    [child] = alice.call("GET", "api/v1/jobs", params={"parent": job["id"]})["items"]
    assert alice.wait(child["id"])["status"] == "succeeded"
    token = alice.logs(job["id"]).split()[-1]
    assert token.startswith("kbatch-job-")
    pods = kube.list_pod_for_all_namespaces(label_selector=f"job-name={job['id']}").items
    assert pods
    assert token not in str(pods)


def test_names_and_links_of_a_zip_are_as_they_were_meant(alice):
    zipped = {"file": ("code.zip", make_mixed_zip(), "application/zip")}
    upload = alice.call("POST", "api/v1/uploads", status=201, files=zipped)
    command = ["sh", "-c", f"cat ../{NAME} link; echo; find .."]
    job = alice.wait(alice.submit(command=command, upload=upload["id"], working_dir="sub")["id"])
    assert job["status"] == "succeeded", job
    content, *paths = alice.logs(job["id"]).splitlines()
    assert content == "hellolinked"
    assert sorted(paths) == ["..", "../data", f"../{NAME}", "../sub", "../sub/link"]
    job = alice.wait(alice.submit(command=["true"], upload=upload["id"], working_dir="sup")["id"])
    assert (job["status"], job["reason"]) == ("failed", "CodeFetchFailed")
    assert "the ZIP has no folder 'sup' (working_dir)" in job["message"]


def test_the_timeline_has_all_that_a_job_went_through_when_its_pod_is_gone(alice, installation, kube):
    upload = alice.upload({"run.sh": "echo hello\n"})
    job = alice.submit(command=["sh", "run.sh"], upload=upload)
    alice.wait(job["id"])
    label = f"kbatch.jupyter.org/job-id={job['id']}"
    kube.delete_collection_namespaced_pod(installation.namespace, label_selector=label)
    timeline = alice.call("GET", f"api/v1/jobs/{job['id']}/timeline")
    assert [each["step"] for each in timeline["items"]] == [
        "accepted",
        "handed_over",
        "scheduled",
        "code_fetched",
        "image_pulled",
        "running",
        "attempt_ended",
        "ended",
    ]
    assert [each["exit_code"] for each in timeline["attempts"]] == [0]


def test_no_secret_stands_in_the_pod_the_answers_or_the_database(alice, installation, kube):
    upload = alice.upload({"a": "b"})
    job = alice.submit("sleep 600", upload=upload, env={"PASSWORD": "hunter2-for-tests"})
    alice.wait(job["id"], "running")
    pods = kube.list_namespaced_pod(
        installation.namespace, label_selector=f"kbatch.jupyter.org/job-id={job['id']}"
    )
    jobs = kubernetes.client.BatchV1Api(kube.api_client).read_namespaced_job(
        job["id"], installation.namespace
    )
    spec = str(pods.to_dict()) + str(jobs.to_dict())
    assert "hunter2-for-tests" not in spec
    secret = kube.read_namespaced_secret(job["id"], installation.namespace)
    code_url = base64.b64decode(secret.data["code-url"]).decode()
    payload, _, signature = code_url.rpartition("/")[2].split(".")
    answers = "".join(
        str(alice.call("GET", path))
        for path in (
            f"api/v1/jobs/{job['id']}",
            f"api/v1/jobs/{job['id']}/events",
            f"jobs/{job['id']}",
            "jobs",
        )
    )
    kept = b"".join(path.read_bytes() for path in installation.service.folder.glob("*.sqlite*"))
    assert job["id"].encode() in kept
    assert b"hunter2-for-tests" not in kept
    log = installation.service.log.read_text()
    assert "hunter2-for-tests" not in log
    assert installation.token("alice") not in log
    assert "GET /services/kbatch/code/[secret]" in log
    for part in (payload, signature):
        assert part not in spec + answers + log
        assert part.encode() not in kept
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")


FAILURES = [
    ({"command": ["sh", "-c", "exit 3"]}, "Error", "exit code 3"),
    ({"command": ["no-such-program"]}, None, "no-such-program"),
    ({"command": ["sh", "-c", "head -c 300m /dev/zero | tail"], "mem_limit": "24M"}, "OOMKilled", "memory"),
    ({"command": ["sleep", "600"], "active_deadline_seconds": 2}, "DeadlineExceeded", "2 seconds"),
    ({"image": "localhost/nope:1", "profile": "impatient"}, None, "localhost/nope:1"),
    ({"cpu_limit": 1500, "profile": "impatient"}, "Unschedulable", "1500 CPU"),
]


@pytest.mark.parametrize(("fields", "reason", "words"), FAILURES)
def test_a_job_that_fails_says_why_in_words(alice, fields, reason, words):
    job = alice.wait(alice.submit(**fields)["id"])
    print(job["reason"], "|", job["message"])
    assert job["status"] == "failed"
    assert reason in (None, job["reason"])
    assert words in job["message"]


def test_a_job_whose_code_is_gone_says_so(alice, installation):
    upload = alice.upload({"gone.txt": "x"})
    [stored] = [path for path in find_files(installation.service.folder) if upload in path.name]
    stored.unlink()
    job = alice.wait(alice.submit(upload=upload)["id"])
    print(job["reason"], "|", job["message"])
    assert job["status"] == "failed"
    assert "code" in job["message"]


@pytest.mark.parametrize("refusal", ["quota", "admission"])
def test_a_job_that_the_namespace_refuses_fails_after_its_limit_with_the_words_of_why(
    alice, installation, kube, refusal
):
    namespace = installation.namespace
    if refusal == "quota":
        kube.create_namespaced_resource_quota(
            namespace, {"metadata": {"name": "none"}, "spec": {"hard": {"requests.cpu": "0"}}}
        )
        wait_until(lambda: kube.read_namespaced_resource_quota("none", namespace).status.hard)
    else:
        label = "pod-security.kubernetes.io/enforce"
        kube.patch_namespace(namespace, {"metadata": {"labels": {label: "restricted"}}})
        time.sleep(1)  # the API server looks namespaces up in a cache
    try:
        job = alice.wait(alice.submit(profile="impatient", cpu_limit=0.1)["id"])
    finally:
        if refusal == "quota":
            kube.delete_namespaced_resource_quota("none", namespace)
        else:
            kube.patch_namespace(namespace, {"metadata": {"labels": {label: None}}})
    print(job["reason"], "|", job["message"])
    assert job["status"] == "failed"
    assert {"quota": "quota", "admission": "security"}[refusal] in job["message"].lower()


ENDS_ON_TERM = "trap 'exit 143' TERM;"
"""What others than the service end has, if it ignores TERM, the time for its results as well: minutes."""


def evict(alice, installation, kube, job) -> None:
    alice.wait(job["id"], "running")
    selector = f"kbatch.jupyter.org/job-id={job['id']}"
    [pod] = kube.list_namespaced_pod(installation.namespace, label_selector=selector).items
    eviction = {"metadata": {"name": pod.metadata.name, "namespace": installation.namespace}}
    kube.create_namespaced_pod_eviction(pod.metadata.name, installation.namespace, eviction)


def test_an_evicted_job_fails_and_says_so(alice, installation, kube):
    job = alice.submit(f"{ENDS_ON_TERM} sleep 600 & wait")
    evict(alice, installation, kube, job)
    job = alice.wait(job["id"])
    print(job["reason"], "|", job["message"])
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert "evicted" in f"{job['reason']} {job['message']}".lower()


def test_an_evicted_job_that_may_be_tried_again_is(alice, installation, kube, bell):
    again = f"n=$(wget -q -O - {bell.url}/$KBATCH_JOB_ID); [ $n -gt 1 ] && exit"
    job = alice.submit(f"{ENDS_ON_TERM} {again}; sleep 600 & wait", retries=1)
    evict(alice, installation, kube, job)
    job = alice.wait(job["id"])
    assert (job["status"], job["attempts"]) == ("succeeded", 2)


def test_a_pending_job_is_cancelled(alice):
    job = alice.submit(image="localhost/nope:1")
    alice.wait(job["id"], "pending")
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    assert alice.wait(job["id"])["status"] == "cancelled"


def test_a_running_job_is_cancelled_and_nothing_of_it_stays(alice, installation, kube):
    job = alice.submit("trap 'exit 0' TERM; sleep 600 & wait")
    alice.wait(job["id"], "running")
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    assert alice.wait(job["id"])["status"] == "cancelled"
    selector = f"kbatch.jupyter.org/job-id={job['id']}"
    assert kube.list_namespaced_pod(installation.namespace, label_selector=selector).items == []
    assert kube.list_namespaced_secret(installation.namespace, label_selector=selector).items == []


def test_a_finished_job_is_not_cancelled_and_a_cancelled_one_stays_so(alice):
    job = alice.submit()
    alice.wait(job["id"])
    error = alice.call("POST", f"api/v1/jobs/{job['id']}/cancel", status=409)
    assert error["reason"] == "JobEnded"
    assert "succeeded" in error["message"]
    cancelled = alice.submit(image="localhost/nope:1")["id"]
    alice.call("POST", f"api/v1/jobs/{cancelled}/cancel")
    alice.wait(cancelled)
    assert alice.call("POST", f"api/v1/jobs/{cancelled}/cancel")["status"] == "cancelled"


def test_a_deleted_job_is_gone_with_all_that_was_made_for_it(alice, installation, kube):
    job = alice.submit("sleep 600")
    alice.wait(job["id"], "running")
    alice.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)
    alice.call("GET", f"api/v1/jobs/{job['id']}", status=404)
    selector = f"kbatch.jupyter.org/job-id={job['id']}"
    wait_until(lambda: not kube.list_namespaced_pod(installation.namespace, label_selector=selector).items)


def test_the_same_idempotency_key_makes_one_job(alice):
    headers = {"Idempotency-Key": f"key-{time.time()}"}
    body = {"name": "once", "command": ["true"]}
    first = alice.call("POST", "api/v1/jobs", status=201, json=body, headers=headers)
    again = alice.call("POST", "api/v1/jobs", status=200, json=body, headers=headers)
    assert again["id"] == first["id"]
    alice.call("POST", "api/v1/jobs", status=409, json=body | {"args": ["x"]}, headers=headers)


def test_nobody_sees_or_touches_what_is_anothers(alice, bob):
    upload = alice.upload({"secret.txt": "alice's"})
    job = alice.submit("sleep 600", upload=upload)
    alice.wait(job["id"], "running")
    pod = alice.http.get("pods/", params={"job_name": job["id"]}).json()["items"][0]["metadata"]["name"]
    for method, path in [
        ("GET", f"api/v1/jobs/{job['id']}"),
        ("DELETE", f"api/v1/jobs/{job['id']}"),
        ("POST", f"api/v1/jobs/{job['id']}/cancel"),
        ("POST", f"api/v1/jobs/{job['id']}/rerun"),
        ("GET", f"api/v1/jobs/{job['id']}/logs"),
        ("GET", f"api/v1/jobs/{job['id']}/events"),
        ("GET", f"api/v1/uploads/{upload}"),
        ("GET", f"jobs/{job['id']}"),
        ("DELETE", f"jobs/{job['id']}"),
        ("GET", f"jobs/logs/{job['id']}/"),
        ("GET", f"pods/{pod}"),
        ("GET", f"pods/logs/{pod}/"),
        ("GET", f"jobs/logs/{pod}/"),
    ]:
        bob.call(method, path, status=404)
    assert pod not in str(bob.call("GET", "pods/"))
    assert job["id"] not in str(bob.call("GET", "api/v1/jobs"))
    assert job["id"] not in str(bob.call("GET", "jobs/"))
    bob.call("GET", "api/v1/jobs", params={"user": "alice"}, status=403)
    error = bob.call(
        "POST", "api/v1/jobs", status=404, json={"name": "x", "command": ["true"], "upload": upload}
    )
    assert error["reason"] == "NotFound"
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")


NAMES = ["alice", "Alice", "a.b", "a_b", "kube-system", "ünïcode", "x" * 300]


def test_users_whose_names_look_alike_each_have_their_own(installation):
    jobs = {}
    for name in NAMES:
        jobs[name] = installation.client(name).submit(f"echo this is {len(name)}")["id"]
    for name, job_id in jobs.items():
        client = installation.client(name)
        assert client.wait(job_id)["status"] == "succeeded"
        assert client.logs(job_id) == f"this is {len(name)}\n"
        for other in set(NAMES) - {name}:
            client.call("GET", f"api/v1/jobs/{jobs[other]}", status=404)


def test_the_first_clients_wire(alice):
    files = {"file": ("code.zip", make_zip({"run.sh": "echo from the first client\n"}), "application/zip")}
    upload = alice.call("POST", "uploads/", status=201, files=files)
    body = {
        "name": "first",
        "command": ["sh", "run.sh"],
        "image": "localhost/busybox:1",
        "upload": upload["url"],
    }
    job = alice.call("POST", "jobs/", status=201, json=body)
    assert (job["upload"], job["name"], job["user"]) == (upload["url"], "first", "alice")
    assert alice.logs(job["id"], follow="true") == "from the first client\n"
    data = {"name": "run.sh", "content": "echo from a text\n"}
    job = alice.call("POST", "jobs/", status=201, json=body | {"upload": None, "upload_data": data})
    assert alice.logs(job["id"], follow="true") == "from a text\n"
    no_zip = {"file": ("code.txt", b"just a text", "text/plain")}
    error = alice.call("POST", "uploads/", status=400, files=no_zip)
    assert error == {"file": ["The submitted file must be a ZIP archive."]}
    alice.call("POST", "jobs/", status=400, json=body | {"upload_data": data})


def test_bad_input_is_refused_by_name_and_leaves_nothing_behind(alice, installation):
    before = _count_files(installation), len(alice.call("GET", "api/v1/jobs", params={"limit": 500})["items"])
    good = make_zip({"a.txt": "x" * 10_000})
    headers = {"Content-Type": "application/zip"}
    for content in (b"", b"not a zip", good[:-30], good[: len(good) // 2], good + b"x" * 100_000):
        error = alice.call("POST", "api/v1/uploads", status=400, content=content, headers=headers)
        assert error["details"][0]["field"] == "file"
    job = {"name": "x", "command": ["true"]}
    for change, field in [
        ({"command": []}, "command"),
        ({"image": "evil:1"}, "image"),
        ({"cpu_limit": 5000}, "cpu_limit"),
        ({"cpu_limit": 3000}, "cpu_limit"),
        ({"env": {"A": "x" * 1_000_000}}, "env"),
        ({"name": "a/b"}, "name"),
        ({"name": "ü"}, "name"),
        ({"name": "x" * 300}, "name"),
        ({"hostNetwork": True}, "hostNetwork"),
        ({"upload_data": {}}, "upload_data"),
    ]:
        error = alice.call("POST", "api/v1/jobs", status=400, json=job | change)
        assert error["details"][0]["field"] == field
        assert field in error["message"]
    alice.call("POST", "api/v1/jobs", status=413, json=job | {"env": {"A": "x" * 10_000_000}})
    alice.call("POST", "api/v1/jobs", status=404, json=job | {"upload": "0" * 40})
    alice.call("POST", "api/v1/jobs", status=400, content=b"{", headers={"Content-Type": "application/json"})
    after = _count_files(installation), len(alice.call("GET", "api/v1/jobs", params={"limit": 500})["items"])
    assert after == before


def test_odd_input_is_the_users_mistake_and_not_ours(alice):
    deep = [1]
    for _ in range(600):
        deep = [deep]
    job = {"name": "x", "command": ["true"]}
    for method, path, kwargs in [
        ("POST", "api/v1/jobs", {"json": job | {"mem_limit": "9" * 400 + "T"}}),
        ("POST", "jobs/", {"json": {"job": {"spec": deep}}}),
        ("GET", "api/v1/jobs", {"params": {"since": "0001-01-01T00:00:00+14:00"}}),
        ("GET", "api/v1/jobs", {"params": {"tag": ["a"] * 200}}),
    ]:
        alice.call(method, path, status=400, **kwargs)
    alice.call("GET", "api/v1/jobs", params={"status": ["queued"] * 600})


def test_a_token_that_may_not_read_is_told_which_job_it_is_and_no_more(installation, alice):
    job = alice.submit("sleep 600", env={"PASSWORD": "hunter2"})
    scopes = ["access:services!service=kbatch", "custom:kbatch:jobs:cancel"]
    client = API(installation.hub.kbatch_url, installation.hub.make_token("alice", scopes))
    cancelled = client.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    assert set(cancelled) == {"id", "user", "name", "status", "created_at"}
    error = client.call("GET", f"api/v1/jobs/{job['id']}", status=403)
    assert error["details"] == {"scope": "custom:kbatch:jobs:read"}
    client.http.close()


def test_a_pod_spec_cannot_be_smuggled_in(alice):
    for path, change in [
        ("job.spec.template.spec.hostNetwork", {"hostNetwork": True}),
        ("job.spec.template.spec.volumes", {"volumes": [{"name": "x", "hostPath": {"path": "/etc"}}]}),
        ("job.spec.template.spec.serviceAccountName", {"serviceAccountName": "admin"}),
        ("job.spec.template.spec.nodeName", {"nodeName": "x"}),
        ("job.spec.template.spec.containers", {"containers": [{"name": "a", "image": "b"}] * 2}),
        (
            "job.spec.template.spec.containers[0].securityContext",
            {"containers": [{"name": "a", "image": "b", "securityContext": {"privileged": True}}]},
        ),
    ]:
        pod = {"containers": [{"name": "job", "image": "localhost/busybox:1"}]} | change
        body = {"job": {"metadata": {"generateName": "x-"}, "spec": {"template": {"spec": pod}}}}
        error = alice.call("POST", "jobs/", status=400, json=body)
        assert error["details"][0]["field"].startswith(path)
        assert path in error["detail"]
    body = {"job": {"metadata": {"name": "x", "namespace": "kube-system"}, "spec": {}}}
    assert "job.metadata.namespace" in alice.call("POST", "jobs/", status=400, json=body)["detail"]


def test_a_service_killed_between_submit_and_start_runs_each_job_exactly_once(alice, installation, bell):
    jobs = [alice.submit(bell.script())["id"] for _ in range(8)]
    installation.service.kill()
    installation.service.start()
    for job_id in jobs:
        assert alice.wait(job_id)["status"] == "succeeded"
    assert bell.rings == dict.fromkeys(jobs, 1)


def test_a_service_killed_while_jobs_start_and_run_loses_none_and_runs_none_twice(alice, installation, bell):
    jobs = []
    for pause in (0.05, 0.2, 0.6, 1.2):
        jobs += [alice.submit(bell.script("sleep 2"))["id"] for _ in range(3)]
        time.sleep(pause)
        installation.service.kill()
        installation.service.start()
    for job_id in jobs:
        assert alice.wait(job_id)["status"] == "succeeded"
    assert bell.rings == dict.fromkeys(jobs, 1)


def test_a_job_that_ends_while_the_service_is_down_is_seen_to_have_ended(alice, installation, bell):
    job = alice.submit(bell.script("sleep 1; exit 4"))["id"]
    alice.wait(job, "running")
    installation.service.kill()
    time.sleep(3)
    installation.service.start()
    done = alice.wait(job)
    assert (done["status"], done["exit_code"], bell.rings[job]) == ("failed", 4, 1)


def test_the_log_is_there_when_the_pod_and_its_job_are_gone(alice, installation, kube):
    job = alice.submit("for i in $(seq 2000); do echo line $i; done; sleep 600")
    lines = [f"line {i}\n" for i in range(1, 2001)]
    alice.wait(job["id"], "running")
    wait_until(lambda: alice.logs(job["id"]) == "".join(lines))
    selector = f"kbatch.jupyter.org/job-id={job['id']}"
    [pod] = kube.list_namespaced_pod(installation.namespace, label_selector=selector).items
    # as kubectl delete --grace-period=1: else a command that does not heed TERM gets the time for its results
    kube.delete_namespaced_pod(pod.metadata.name, installation.namespace, grace_period_seconds=1)
    assert alice.wait(job["id"])["status"] == "failed"
    batch = kubernetes.client.BatchV1Api(kube.api_client)
    batch.delete_namespaced_job(job["id"], installation.namespace, propagation_policy="Background")
    wait_until(lambda: not kube.list_namespaced_pod(installation.namespace, label_selector=selector).items)
    assert alice.logs(job["id"]) == alice.logs(job["id"], follow="true") == "".join(lines)
    assert alice.logs(job["id"], tail=3) == "".join(lines[-3:])
    assert alice.logs(job["id"], search="LINE 1999") == "1999:line 1999\n"
    part = alice.http.get(f"api/v1/jobs/{job['id']}/logs", headers={"Range": "bytes=7-13"})
    assert (part.status_code, part.text) == (206, "line 2\n")
    assert alice.http.get(f"pods/logs/{pod.metadata.name}/").text == "".join(lines)


def test_each_attempt_has_its_log(alice, bell):
    script = f"n=$(wget -q -O - {bell.url}/$KBATCH_JOB_ID); echo attempt $n; [ $n -gt 2 ]"
    job = alice.submit(script, retries=2)
    followed = alice.logs(job["id"], follow="true")
    assert (alice.wait(job["id"])["status"], alice.get(job["id"])["attempts"]) == ("succeeded", 3)
    assert followed == "attempt 1\nattempt 2\nattempt 3\n"
    assert [alice.logs(job["id"], attempt=n) for n in (1, 2, 3)] == [f"attempt {n}\n" for n in (1, 2, 3)]
    assert alice.logs(job["id"]) == "attempt 3\n"


def test_the_next_attempt_begins_when_the_time_that_was_chosen_is_over(alice, installation, kube, bell):
    again = f"n=$(wget -q -O - {bell.url}/$KBATCH_JOB_ID); [ $n -gt 1 ]"
    job = alice.submit(again, retries=1, retry_delay_seconds=14, retry_backoff="fixed")
    wait_until(lambda: "Attempt 2 of 2 starts 14 s after that." in alice.get(job["id"])["message"])
    installation.service.kill()
    installation.service.start()  # it is let go by what is seen, not by what was remembered
    done = alice.wait(job["id"])
    assert (done["status"], done["attempts"], bell.rings[job["id"]]) == ("succeeded", 2, 2)
    selector = f"kbatch.jupyter.org/job-id={job['id']}"
    pods = kube.list_namespaced_pod(installation.namespace, label_selector=selector).items
    ends = [pod.status.container_statuses[0].state.terminated for pod in pods]
    first, second = sorted(ends, key=lambda end: end.started_at)
    assert 14 <= (second.started_at - first.finished_at).total_seconds() < 30


def test_a_service_killed_in_the_middle_of_a_chatty_job_keeps_each_line_once(alice, installation):
    # less than the kubelet rotates: what is rotated away while no service is there is lost
    job = alice.submit("for i in $(seq 5000); do echo line $i; [ $((i % 25)) != 0 ] || sleep 0.06; done")
    alice.wait(job["id"], "running")
    for pause in (0.3, 1, 2.3):
        time.sleep(pause)
        installation.service.kill()
        installation.service.start()
    assert alice.wait(job["id"])["status"] == "succeeded"
    assert alice.logs(job["id"]) == "".join(f"line {i}\n" for i in range(1, 5001))


def test_an_api_server_that_is_away_delays_jobs_and_loses_none(alice, installation, bell):
    if not installation.cluster.is_ours:
        pytest.skip("the API server of a cluster that is not ours is not stopped")
    running = alice.submit(bell.script("sleep 3"))["id"]
    alice.wait(running, "running")
    installation.cluster.stop_apiserver()
    try:
        waiting = alice.submit(bell.script())["id"]
        time.sleep(2)
        assert alice.get(waiting)["status"] == "queued"
        assert alice.get(running)["status"] == "running"
    finally:
        installation.cluster.start_apiserver()
    assert alice.wait(running)["status"] == "succeeded"
    assert alice.wait(waiting)["status"] == "succeeded"
    assert bell.rings == {running: 1, waiting: 1}


def test_dropped_log_streams_leave_nothing_open(alice, installation):
    job = alice.submit("echo begun; sleep 600")
    alice.wait(job["id"], "running")
    pid = installation.service.process.pid
    idle = _count_sockets(pid)
    for _ in range(60):
        with alice.http.stream("GET", f"api/v1/jobs/{job['id']}/logs", params={"follow": "true"}) as answer:
            assert next(answer.iter_raw()) == b"begun\n"
    wait_until(lambda: _count_sockets(pid) <= idle + 4)
    began = time.monotonic()
    alice.get(job["id"])
    assert time.monotonic() - began < 5
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")


def _count_sockets(pid: int) -> int:
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue  # closed since it was listed
    return count


def _count_files(installation: Installation) -> int:
    return len(find_files(installation.service.folder / "kbatch-storage"))
