"""The page of one job, as a user sees it: log, timeline, results, request, and again."""

from __future__ import annotations

import base64
import re
import time

import pytest
from playwright.sync_api import expect

PNG = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAF0lEQVR4nGP4z8BAEiJN9f9RDaMahp0GACh0/wFC1wBqAAAAAElFTkSuQmCC"
    )
).decode()

TALKATIVE = """
printf 'plain <b>not bold</b>\\n'
printf '\\033[31mred words\\033[0m and \\033[1;32mgreen\\033[0m\\n'
printf ' 10%%\\r 50%%\\r100%% done\\n'
echo "results" > "$KBATCH_OUTPUT_DIR/table.csv"
echo "<script>alert(1)</script>" > "$KBATCH_OUTPUT_DIR/page.html"
echo PNG | base64 -d > "$KBATCH_OUTPUT_DIR/plot.png"
for i in $(seq 1 6); do sleep 0.3; echo "tick $i"; done
""".replace("PNG", PNG)


@pytest.fixture
def page(visit):
    return visit("alice")


def show(page, job):
    page.go(f"job/{job['id']}")
    expect(page.find("h1")).to_have_text(job["name"])


HIDE = """(isHidden) => {
    Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_that_nobody_looks_at_lets_go_of_the_log_and_takes_it_up_again(site, visit):
    """A browser has six connections to a hub: they are not for tabs in the background."""
    alice = site.client("alice")
    job = alice.submit("for i in $(seq 600); do echo line $i; sleep 0.5; done", name="steady")
    page = visit("alice")
    page.page.clock.install()
    page.go(f"job/{job['id']}")
    expect(page.find(".line .text", "line 2")).to_have_count(1)
    ended = []
    page.page.on("requestfailed", lambda request: ended.append(request.url))
    page.page.evaluate(HIDE, True)
    page.page.clock.fast_forward(31_000)
    page.page.wait_for_timeout(500)
    assert any("/logs?follow=true" in url for url in ended)
    page.page.evaluate(HIDE, False)
    seen = page.find(".line .text").count()
    page.page.clock.resume()
    expect(page.find(".line .text").nth(seen + 2)).to_be_visible()
    alice.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)


def test_a_log_is_followed_and_results_are_looked_at_and_downloaded(site, page, tmp_path):
    job = site.client("alice").submit(
        TALKATIVE, name="talkative", description="says a lot", tags={"run": "7"}
    )
    show(page, job)
    text = page.find(".line .text")
    expect(text.nth(0)).to_have_text("plain <b>not bold</b>")
    expect(page.find(".line .ansi-red")).to_have_text("red words")
    expect(text.nth(2)).to_have_text("100% done")
    expect(page.find(".line .text", "tick 2")).to_be_visible()
    expect(page.find(".line .text", "tick 6")).to_be_visible()
    expect(page.find("[role=status].status")).to_have_text("succeeded")
    steps = page.find("ol li > div")
    expect(steps).to_have_text(["Accepted", "Launched", "Running", "Succeeded"])
    rows = page.find("kbatch-outputs tbody tr")
    expect(rows).to_have_count(3)
    page.shoot("job")
    # HTML is not shown, only saved
    expect(rows.filter(has_text="page.html").get_by_role("button")).to_have_count(0)
    page.page.get_by_label("Preview table.csv").click()
    expect(page.find("dialog[open] pre")).to_have_text("results\n")
    page.page.get_by_role("button", name="Close").click()
    page.page.get_by_label("Preview plot.png").click()
    image = page.find("dialog[open] img")
    expect(image).to_have_js_property("naturalWidth", 16)
    page.shoot("job-result")
    page.page.get_by_role("button", name="Close").click()
    with page.page.expect_download() as download:
        page.page.get_by_role("link", name="table.csv").click()
    assert download.value.path().read_text() == "results\n"
    with page.page.expect_download() as download:
        page.page.get_by_role("link", name="Download all").click()
    assert download.value.suggested_filename == f"{job['id']}.zip"
    with page.page.expect_download() as download:
        page.find("kbatch-log").get_by_role("link", name="Download").click()
    assert "tick 6" in download.value.path().read_text()


DRAWN = """
import time
for i in range(1001):
    print(f"\\rstep {i}/1000 [{'#' * (i // 20):50}]", end="")
    time.sleep(1 if i in (300, 600) else 0)
print()
print("\\x1b[1mINFO\\x1b[0m | saved")
print("see \\x1b]8;;https://example.org/docs\\x1b\\\\the \\x1b[31mdocs\\x1b[0m\\x1b]8;;\\x1b\\\\, "
      "not \\x1b]8;;javascript:alert(1)\\x1b\\\\this\\x1b]8;;\\x1b\\\\")
print("\\x1b]0;a title\\x07\\x1b[?25lthe end")
"""


def test_a_progress_bar_is_its_last_state_and_links_lead_somewhere_safe(site, page):
    job = site.client("alice").submit(name="drawn", command=["python3", "-c", DRAWN])
    show(page, job)
    text = page.find(".line .text")
    bar = "step 1000/1000 [" + "#" * 50 + "]"
    lines = [bar, "INFO | saved", "see the docs, not this", "the end"]
    expect(text).to_have_text(lines)
    link = page.find(".line .text a")
    expect(link).to_have_count(1)
    expect(link).to_have_text("the docs")
    expect(link).to_have_attribute("href", "https://example.org/docs")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    expect(page.find("[role=status].status")).to_have_text("succeeded")
    page.go(f"job/{job['id']}")  # what is read afterwards is what was followed
    expect(text).to_have_text(lines)
    expect(link).to_have_count(1)
    expect(page.find(".line .ansi-red")).to_have_text("docs")
    none = "No matches"
    for words, found in (("INFO | saved", "1 of 1"), ("1000/1000", "1 of 1"), ("500/1000", none)):
        search = page.page.get_by_label("Search the log")
        search.fill(words)
        search.press("Enter")
        expect(page.find("kbatch-log [role=status]")).to_have_text(found)


def test_what_python_prints_is_seen_at_once_and_kept_when_it_is_cancelled(site, page):
    slow = "import time\nfor i in range(40):\n    print('line', i); time.sleep(1)"
    alice = site.client("alice")
    job = alice.submit(name="slow", command=["python3", "-c", slow])
    show(page, job)
    expect(page.find(".line .text").nth(1)).to_have_text("line 1")
    page.page.get_by_role("button", name="Cancel").click()
    expect(page.find("[role=status].status")).to_have_text("cancelled")
    assert alice.logs(job["id"]).startswith("line 0\nline 1\n")


def test_a_job_is_cancelled_and_run_again(site, page):
    job = site.client("alice").submit("echo begun; sleep 300", name="endless", env={"SECRET": "geheim"})
    show(page, job)
    expect(page.find(".line .text", "begun")).to_be_visible()
    assert "geheim" not in page.page.inner_text("kbatch-job")
    page.page.get_by_role("button", name="Cancel").click()
    expect(page.find("[role=status].status")).to_have_text("cancelled")
    expect(page.find("ol")).to_contain_text("Cancel requested")
    page.page.get_by_role("button", name="Run again").click()
    page.page.wait_for_url(re.compile(r"/job/endless-(?!" + job["id"].removeprefix("endless-") + ")"))
    expect(page.find("[role=status].status")).to_have_text("running")
    page.find("summary").click()
    page.page.get_by_role("button", name="Show environment values").click()
    expect(page.find("details pre")).to_contain_text('"SECRET": "geheim"')
    page.page.get_by_role("button", name="Delete").click()
    page.page.get_by_role("button", name="Delete job").click()
    page.page.wait_for_url(site.hub.kbatch_url)


def test_why_a_job_failed_is_said_with_each_of_its_attempts(site, page):
    job = site.client("alice").submit("echo attempt; exit 3", name="stubborn", retries=1)
    site.client("alice").wait(job["id"])
    show(page, job)
    expect(page.find(".message")).to_contain_text("exit code 3")
    expect(page.find("[aria-labelledby=attempts] tbody tr")).to_have_count(2)
    page.find("kbatch-log select").select_option("1")
    expect(page.find(".line .text", "attempt")).to_have_count(1)
    page.shoot("job-failed")


def test_a_log_of_a_million_lines_is_smooth_and_found_in(site, page):
    script = "seq -f 'line %.0f of a log that is long' 1000000"
    job = site.client("alice").submit(script, name="million")
    site.client("alice").wait(job["id"])
    show(page, job)
    expect(page.find("kbatch-log h2")).to_contain_text("1,000,000 lines")
    expect(page.find(".line .text", "line 1000000 of")).to_be_visible()
    began = time.monotonic()
    for part in (0.1, 0.9, 0.3, 0.5):  # as fast as somebody may drag
        page.page.evaluate(
            """part => {
                const scroller = document.querySelector("kbatch-app").shadowRoot.querySelector("kbatch-job")
                    .shadowRoot.querySelector("kbatch-log").shadowRoot.querySelector(".scroller");
                scroller.scrollTop = part * scroller.scrollHeight;
            }""",
            part,
        )
        lines = page.find(
            ".line .text", re.compile(rf"line {int(part * 10)}\d{{5}} of|line {int(part * 10) - 1}9")
        )
        lines.first.wait_for()
    assert time.monotonic() - began < 5
    assert page.find(".line").count() < 150
    expect(page.page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    page.find("#words").fill("LINE 77777")
    page.find("#words").press("Enter")
    expect(page.find(".line.hit .text")).to_have_text("line 77777 of a log that is long")
    expect(page.find("[role=status]", "1 of 11")).to_be_visible()
    page.page.get_by_label("Next match").click()
    expect(page.find(".line.hit .text")).to_have_text("line 777770 of a log that is long")
    page.page.get_by_role("button", name="Wrap").click()
    page.page.get_by_role("button", name="Follow").click()
    expect(page.find(".line .text", "line 1000000 of")).to_be_visible()
    page.go(f"job/{job['id']}#L500000")
    page.page.reload()
    expect(page.find(".line.marked .text")).to_have_text("line 500000 of a log that is long")


REPORTING = """
curl -sf -X PUT -H "Authorization: token $KBATCH_JOB_TOKEN" -H "Content-Type: application/json" \\
    -d '{"done": 30, "total": 120, "message": "epoch 3"}' \\
    "${KBATCH_URL}api/v1/jobs/$KBATCH_JOB_ID/progress" || exit 1
curl -sf -H "Authorization: token $KBATCH_JOB_TOKEN" -H "Content-Type: application/json" \\
    -d '{"name": "part", "command": ["true"]}' "${KBATCH_URL}api/v1/jobs" || exit 1
exec sleep 600
"""


def test_progress_is_a_bar_and_a_jobs_jobs_lead_to_each_other(site, page):
    alice = site.client("alice")
    job = alice.submit(REPORTING, name="reporting")
    show(page, job)
    bar = page.find("kbatch-progress progress")
    expect(bar).to_have_attribute("value", "30")
    expect(page.find("kbatch-progress")).to_contain_text("30 of 120 (25 %)")
    expect(page.find("kbatch-progress")).to_contain_text("epoch 3")
    page.find(".family a", "1 job").click()
    expect(page.find("tbody td.name a")).to_have_text(["part"])
    page.find("tbody td.name a").click()
    expect(page.find(".family")).to_contain_text(f"Submitted by the job {job['id']}")
    page.find(".family a").click()
    expect(page.find("h1")).to_have_text("reporting")
    page.go("")
    expect(page.find("tr", job["id"]).locator("kbatch-progress progress")).to_be_visible()
    alice.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)
