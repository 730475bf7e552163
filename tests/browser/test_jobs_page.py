"""The page of jobs, as a user sees it: live, filtered, searched, a page at a time, several at once."""

from __future__ import annotations

import re
import sqlite3

import pytest
from playwright.sync_api import expect


@pytest.fixture
def page(site, visit):
    """A page of a user who has no jobs yet."""
    bob = site.client("bob")
    for job in bob.call("GET", "api/v1/jobs?limit=500")["items"]:
        bob.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)
    return visit("bob")


def row(page, name):
    return page.find("tbody tr").filter(has=page.page.get_by_role("link", name=name, exact=True))


def status_of(page, name):
    return row(page, name).locator(".status")


def count_of(page, status):
    return page.page.get_by_role("button", name=re.compile(rf"^{status}"))


def test_jobs_come_and_change_without_a_reload(site, page):
    expect(page.find(".empty")).to_contain_text("You have no jobs yet.")
    bob = site.client("bob")
    bob.submit("echo fine", name="good")
    bob.submit("exit 3", name="bad", profile="large")
    long = bob.submit("sleep 300", name="long")
    expect(status_of(page, "good")).to_have_text("succeeded")
    expect(status_of(page, "bad")).to_have_text("failed")
    expect(row(page, "bad")).to_contain_text("exit code 3")
    expect(row(page, "bad")).to_contain_text("large")
    expect(status_of(page, "long")).to_have_text("running")
    expect(count_of(page, "running")).to_have_text(re.compile(r"running\s+1"))
    page.shoot("jobs")
    bob.call("POST", f"api/v1/jobs/{long['id']}/cancel")
    expect(status_of(page, "long")).to_have_text("cancelled")
    bob.call("DELETE", f"api/v1/jobs/{long['id']}", status=204)
    expect(row(page, "long")).to_have_count(0)


def test_a_page_is_small(site, visit):
    site.client("bob").submit("true", name="small")
    page = visit("bob")
    expect(row(page, "small")).to_have_count(1)
    page.sizes.clear()
    page.page.context.clear_cookies(name="nothing")
    page.go("")
    expect(row(page, "small")).to_have_count(1)
    assert any("app-" in url for url in page.sizes)
    assert sum(page.sizes.values()) < 200_000, page.sizes


def test_jobs_are_filtered_searched_and_linked_to(site, page):
    bob = site.client("bob")
    for name, script in (("Train-one", "true"), ("train_two", "exit 1"), ("other", "true")):
        bob.wait(bob.submit(script, name=name)["id"])
    page.page.get_by_label("Search by name").fill("RAIN")
    page.page.get_by_label("Search by name").press("Enter")
    expect(page.find("tbody tr")).to_have_count(2)
    count_of(page, "failed").click()
    expect(page.find("tbody tr")).to_have_count(1)
    expect(status_of(page, "train_two")).to_have_text("failed")
    assert "search=RAIN" in page.page.url
    assert "status=failed" in page.page.url
    page.page.reload()
    expect(page.find("tbody tr")).to_have_count(1)
    expect(page.page.get_by_label("Search by name")).to_have_value("RAIN")
    row(page, "train_two").get_by_role("link").click()
    expect(page.find("h1")).to_have_text("train_two")
    page.page.go_back()
    expect(page.find("tbody tr")).to_have_count(1)
    page.page.get_by_label("Search by name").fill("%")
    page.page.get_by_label("Search by name").press("Enter")
    expect(page.find(".empty")).to_have_text("No jobs match. Clear filters")
    page.page.get_by_role("button", name="Clear filters").click()
    expect(page.find("tbody tr")).to_have_count(3)
    expect(page.page.get_by_label("Search by name")).to_have_value("")
    page.go("?tag=none:1")
    expect(page.find(".empty")).to_contain_text("No jobs match.")


def test_several_jobs_are_cancelled_and_deleted_at_once(site, page):
    bob = site.client("bob")
    for number in range(3):
        bob.submit("sleep 300", name=f"many-{number}")
    expect(page.find(".status.running")).to_have_count(3)
    page.page.get_by_label("Select many-0").check()
    page.page.get_by_label("Select many-1").check()
    page.page.get_by_role("button", name="Cancel", exact=True).click()
    page.check_access("the question")
    page.page.get_by_role("button", name="Cancel 2 jobs").click()
    expect(page.find(".status.cancelled")).to_have_count(2)
    expect(status_of(page, "many-2")).to_have_text("running")
    page.page.get_by_label("Select all on this page").check()
    page.page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.find("dialog[open]")).to_contain_text("1 job is still active and will be cancelled.")
    page.page.get_by_role("button", name="Delete 3 jobs").click()
    expect(page.find(".empty")).to_contain_text("You have no jobs yet.")


def test_a_hundred_thousand_jobs_are_a_page_at_a_time(site, page):
    job = site.client("bob").submit("true", name="first")
    site.client("bob").wait(job["id"])
    copy_job(site, job["id"], 100_000)
    page.go("")
    expect(page.find("tbody tr")).to_have_count(50)
    expect(count_of(page, "succeeded")).to_contain_text("100,001")
    expect(row(page, "copy-100000")).to_have_count(1)
    page.page.get_by_label("Rows per page").select_option("500")
    expect(page.find("tbody tr")).to_have_count(500)
    page.page.get_by_role("button", name="Older").click()
    expect(row(page, "copy-99500")).to_have_count(1)
    page.page.get_by_role("button", name="Newer").click()
    expect(row(page, "copy-100000")).to_have_count(1)
    page.page.get_by_label("Search by name").fill("py-777")
    page.page.get_by_label("Search by name").press("Enter")
    expect(page.find("tbody tr")).to_have_count(111)  # 777, and what has one or two digits more
    page.page.get_by_label("Search by name").fill("first")
    page.page.get_by_label("Search by name").press("Enter")
    expect(row(page, "first")).to_have_count(1)
    with sqlite3.connect(site.service.folder / "jobs.sqlite", timeout=30) as database:
        database.execute("DELETE FROM jobs WHERE name LIKE 'copy-%'")


def copy_job(site, job_id, count):
    """Put many copies of a job into the record, as years of use would."""
    with sqlite3.connect(site.service.folder / "jobs.sqlite", timeout=30) as database:
        cursor = database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,))
        names = [each[0] for each in cursor.description]
        values = dict(zip(names, cursor.fetchone(), strict=True))
        del values["seq"]
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" for _ in values)
        copies = (
            tuple((values | {"id": f"copy-{number}", "name": f"copy-{number}"}).values())
            for number in range(1, count + 1)
        )
        database.executemany(f"INSERT INTO jobs ({columns}) VALUES ({marks})", copies)


def test_nobody_sees_the_jobs_of_another(site, visit):
    job = site.client("bob").submit("true", name="private-of-bob")
    alice = visit("alice")
    alice.find("h1").wait_for()
    expect(row(alice, "private-of-bob")).to_have_count(0)
    expect(alice.page.get_by_role("link", name="Admin")).to_have_count(0)
    alice.expected.append("404")
    alice.go(f"job/{job['id']}")
    expect(alice.find("h1")).to_have_text("Job not found")


@pytest.mark.parametrize("path", ["", "job/{id}"])
def test_a_page_takes_no_404_of_the_proxy_for_an_answer(site, page, path):
    """The hub's proxy knows no way to the service for a while when both were started again."""
    bob = site.client("bob")
    job = bob.submit("echo begun; sleep 300", name="unrouted")
    page.expected += ["404"]
    page.page.route("**/api/v1/jobs**", answer_as_the_proxy)
    page.go(path.format(id=job["id"]))
    expect(page.find("[role=alert]", "The service isn't responding (404)")).to_be_visible()
    expect(page.find("h1", "Job not found")).to_have_count(0)
    page.page.unroute("**/api/v1/jobs**")
    expect(page.find(".status.running")).to_be_visible()
    expect(page.find("[role=alert]")).to_have_count(0)
    bob.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    expect(page.find(".status.cancelled")).to_be_visible()


def answer_as_the_proxy(route):
    route.fulfill(status=404, content_type="text/html", body="<h1>404 : Not Found</h1>")


def test_the_page_goes_on_when_the_hub_and_the_service_were_restarted(site, page):
    bob = site.client("bob")
    job = bob.submit("echo begun; sleep 300", name="patient")
    expect(status_of(page, "patient")).to_have_text("running")
    page.expected += ["503", "502", "404", "ERR_"]
    site.service.kill()
    site.hub.stop()
    expect(page.find("[role=status]", "Reconnecting")).to_be_visible()
    expect(row(page, "patient")).to_have_count(1)
    site.hub.start()
    site.service.start()
    expect(page.find("[role=status]", "Reconnecting")).to_have_count(0, timeout=30_000)
    bob.call("POST", f"api/v1/jobs/{job['id']}/cancel")
    expect(status_of(page, "patient")).to_have_text("cancelled")
