"""What jobs write under ``$KBATCH_OUTPUT_DIR`` on a real Kubernetes: kept, however they end, and read."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Iterator

import kubernetes
import pytest

from kbatch_server.launchers.kube.apply import MIN_GRACE_SECONDS
from tests.support.installation import API, Installation
from tests.support.waiting import wait_until


@pytest.fixture
def alice(installation: Installation) -> API:
    return installation.client("alice")


@pytest.fixture(scope="module")
def kube(installation: Installation) -> Iterator[kubernetes.client.CoreV1Api]:
    """An administrator's client, for what happens behind the service's back."""
    with kubernetes.config.new_client_from_config(str(installation.cluster.kubeconfig)) as api_client:
        yield kubernetes.client.CoreV1Api(api_client)


def find_pods(installation, kube, job):
    selector = f"kbatch.jupyter.org/job-id={job['id']}"
    return kube.list_namespaced_pod(installation.namespace, label_selector=selector).items


def wait_for_grace(installation, kube, job):
    """Wait until the job's pod is told to end, and return the seconds that it gets for that."""

    def find_grace():
        return [
            pod.metadata.deletion_grace_period_seconds
            for pod in find_pods(installation, kube, job)
            if pod.metadata.deletion_timestamp
        ]

    [seconds] = wait_until(find_grace)
    return seconds


def read(alice, job, path):
    answer = alice.http.get(f"api/v1/jobs/{job['id']}/outputs/{path}")
    assert answer.status_code == 200, answer.text
    return answer.content


WRITE = "mkdir -p $KBATCH_OUTPUT_DIR/sub; echo result > $KBATCH_OUTPUT_DIR/sub/out.txt"


def test_results_are_read_after_the_pod_is_deleted(alice, installation, kube):
    links = (
        "ln -s /etc/passwd $KBATCH_OUTPUT_DIR/link; ln -s $KBATCH_OUTPUT_DIR/sub $KBATCH_OUTPUT_DIR/latest"
    )
    job = alice.submit(f"{WRITE}; {links}; mkfifo $KBATCH_OUTPUT_DIR/fifo")
    done = alice.wait(job["id"])
    print(done["message"], done["outputs"])
    assert (done["status"], done["outputs"]["state"], done["outputs"]["files"]) == ("succeeded", "kept", 2)
    assert "2 entries were skipped" in done["outputs"]["message"]
    [pod] = find_pods(installation, kube, job)
    kube.delete_namespaced_pod(pod.metadata.name, installation.namespace)
    wait_until(lambda: not find_pods(installation, kube, job))
    listing = alice.call("GET", f"api/v1/jobs/{job['id']}/outputs")
    found = [(item["path"], item["size"]) for item in listing["items"]]
    assert found == [("latest/out.txt", 7), ("sub/out.txt", 7)]
    assert read(alice, job, "sub/out.txt") == b"result\n"
    answer = alice.http.get(f"api/v1/jobs/{job['id']}/outputs.zip")
    assert zipfile.ZipFile(io.BytesIO(answer.content)).read("sub/out.txt") == b"result\n"


def test_a_large_binary_file_arrives_as_it_was_written(alice):
    script = "head -c 50000000 /dev/urandom > $KBATCH_OUTPUT_DIR/x.bin; sha256sum < $KBATCH_OUTPUT_DIR/x.bin"
    job = alice.submit(script)
    begun = time.monotonic()
    done = alice.wait(job["id"])
    print(f"{time.monotonic() - begun:.1f} s", done["outputs"])
    assert done["status"] == "succeeded"
    digest = alice.logs(job["id"]).split()[0]
    assert hashlib.sha256(read(alice, job, "x.bin")).hexdigest() == digest


def test_the_results_of_a_failed_job_are_kept_and_of_its_last_attempt(alice):
    script = f"{WRITE}; echo $HOSTNAME > $KBATCH_OUTPUT_DIR/who.txt; exit 3"
    done = alice.wait(alice.submit(script, retries=1)["id"])
    print(done["message"], done["outputs"])
    assert (done["status"], done["reason"], done["exit_code"], done["attempts"]) == ("failed", "Error", 3, 2)
    assert "Results" not in done["message"]
    assert read(alice, done, "who.txt").decode().strip() == done["outputs"]["pod"]


def test_the_results_of_a_cancelled_job_that_ends_within_its_grace_are_kept(alice):
    script = f"trap '{WRITE}; exit 0' TERM; echo ready; sleep 600 & wait"
    job = alice.submit(script)
    wait_until(lambda: "ready" in alice.http.get(f"api/v1/jobs/{job['id']}/logs").text)
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    done = alice.wait(job["id"])
    assert done["status"] == "cancelled"
    assert read(alice, done, "sub/out.txt") == b"result\n"


def test_a_cancelled_job_that_ignores_term_is_killed_after_its_own_grace(alice, installation, kube):
    job = alice.submit(f"{WRITE}; trap '' TERM; while :; do sleep 1; done")
    alice.wait(job["id"], "running")
    alice.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    # the command's own grace, or the least that there is: not the 302 s that the pod has for its results, too
    assert wait_for_grace(installation, kube, job) == MIN_GRACE_SECONDS
    done = alice.wait(job["id"])
    print(done["message"], done["outputs"])
    assert done["status"] == "cancelled"
    assert find_pods(installation, kube, job) == []
    assert read(alice, done, "sub/out.txt") == b"result\n"


@pytest.mark.parametrize("trap", [f"sleep 1; {WRITE}; exit 1", ""])
def test_a_job_past_its_deadline_is_killed_after_its_own_grace_and_its_results_are_kept(
    alice, installation, kube, trap
):
    script = f"trap '{trap}' TERM; {'true' if trap else WRITE}; while :; do sleep 1 & wait; done"
    job = alice.submit(script, active_deadline_seconds=4)
    assert wait_for_grace(installation, kube, job) == MIN_GRACE_SECONDS
    done = alice.wait(job["id"])
    print(done["message"], done["outputs"])
    assert (done["status"], done["reason"]) == ("failed", "DeadlineExceeded")
    assert "time limit of 4 seconds" in done["message"]
    assert find_pods(installation, kube, done) == []
    assert read(alice, done, "sub/out.txt") == b"result\n"


def test_results_arrive_when_the_service_was_away_at_the_jobs_end(alice, installation):
    job = alice.submit(f"echo ready; sleep 3; {WRITE}")
    alice.wait(job["id"], "running")
    installation.service.kill()
    time.sleep(20)
    installation.service.start()
    done = alice.wait(job["id"])
    assert (done["status"], done["outputs"]["state"]) == ("succeeded", "kept")
    assert read(alice, done, "sub/out.txt") == b"result\n"


def test_of_results_that_are_too_many_the_first_are_kept_and_the_rest_is_named(alice):
    script = "cd $KBATCH_OUTPUT_DIR; mkdir d; for i in $(seq 100 150); do echo > d/$i; done; ln -s d/100 a"
    done = alice.wait(alice.submit(script)["id"])
    print(done["message"])
    assert (done["status"], done["outputs"]["state"], done["outputs"]["files"]) == ("succeeded", "kept", 50)
    assert "Results incomplete: 2 files (2 bytes) were not saved; the limits are 50 files" in done["message"]
    listing = alice.call("GET", f"api/v1/jobs/{done['id']}/outputs")
    assert [item["path"] for item in listing["items"]] == ["a", *(f"d/{i}" for i in range(100, 149))]
    assert listing["omitted"] == [{"path": "d/149", "size": 1}, {"path": "d/150", "size": 1}]
    assert read(alice, done, "a") == b"\n"


def test_what_is_new_or_changed_in_the_working_folder_is_kept_where_that_is_asked_for(alice):
    upload = alice.upload(
        {"main.sh": "echo 1 >new.txt; echo 2 >data/b; ln -s new.txt link", "data/a": "a", "data/b": "b"}
    )
    fields = {"command": ["sh", "main.sh"], "upload": upload, "collect": "workdir"}
    done = alice.wait(alice.submit(**fields)["id"])
    listing = alice.call("GET", f"api/v1/jobs/{done['id']}/outputs")
    assert [item["path"] for item in listing["items"]] == ["data/b", "link", "new.txt"]
    assert read(alice, done, "data/b") == b"2\n"
    assert read(alice, done, "link") == b"1\n"
    done = alice.wait(alice.submit("echo 1 >new.txt", collect="workdir")["id"])  # without code
    assert read(alice, done, "new.txt") == b"1\n"


def test_the_url_that_results_are_sent_to_is_in_no_pod_log_or_answer(alice, installation, kube):
    job = alice.submit(WRITE)
    done = alice.wait(job["id"])
    [pod] = find_pods(installation, kube, job)
    secret = kube.read_namespaced_secret(job["id"], installation.namespace)
    assert "outputs-url" in secret.data
    shown = str(pod.to_dict()) + str(done) + installation.service.log.read_text()
    assert "/outputs/ey" not in shown
    assert "POST /services/kbatch/outputs/[secret]" in shown
