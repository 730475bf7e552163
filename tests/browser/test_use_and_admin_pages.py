"""What a user uses and may use; and an admin, who sees and ends everybody's jobs."""

from __future__ import annotations

import re

from playwright.sync_api import expect


def test_the_place_of_a_queued_job_is_read_again(site, visit):
    """No event of its own tells a job that those before it have begun."""
    client = site.client("a.b")
    jobs = [client.submit("sleep 300", name=f"placed-{number}") for number in range(3)]
    page = visit("a.b")
    page.page.clock.install()
    page.go(f"job/{jobs[2]['id']}")
    expect(page.find(".message")).to_contain_text("This job is 2nd in your queue")
    client.call("DELETE", f"api/v1/jobs/{jobs[1]['id']}", status=204)
    page.page.clock.fast_forward(20_000)
    expect(page.find(".message")).to_contain_text("This job is 1st in your queue")
    for job in (jobs[0], jobs[2]):
        client.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)


def test_a_user_sees_what_runs_what_waits_in_which_place_and_what_is_allowed(site, visit):
    client = site.client("a.b")
    jobs = [client.submit("sleep 300", name=name) for name in ("sleeper", "next", "last")]
    client.wait(jobs[0]["id"], "running")
    page = visit("a.b", "use")
    tiles = page.find(".tile strong")
    expect(tiles.nth(0)).to_have_text("1")
    expect(tiles.nth(1)).to_have_text("2")
    waiting = page.find("[aria-labelledby=waiting] li")
    expect(waiting.nth(0)).to_contain_text("next")
    expect(waiting.nth(0)).to_contain_text("You may run one job at a time.")
    expect(waiting.nth(1)).to_contain_text("2nd")
    limits = page.find("[aria-labelledby=limits]")
    expect(limits.get_by_role("row", name="Running jobs")).to_have_text(re.compile(r"Running jobs\s*1\s*1"))
    expect(limits.get_by_role("row", name="Memory")).to_contain_text("no limit")
    expect(limits).to_contain_text("Uploads can be up to 1 GiB")
    expect(page.find("[aria-labelledby=who] dl")).to_contain_text("a.b")
    page.shoot("use")
    client.call("POST", f"api/v1/jobs/{jobs[2]['id']}/cancel")
    page.go(f"job/{jobs[2]['id']}")
    expect(page.find("kbatch-log .empty")).to_have_text("The job never started.")
    expect(page.find("kbatch-outputs p")).to_have_text("No result files.")
    for job in jobs:
        client.call("DELETE", f"api/v1/jobs/{job['id']}", status=204)


def test_an_admin_sees_everybodys_jobs_and_ends_one_and_says_why(site, visit):
    bob = site.client("bob")
    failed = bob.submit("exit 7", name="broken")
    bob.wait(failed["id"])
    job = bob.submit("sleep 300", name="greedy")
    bob.wait(job["id"], "running")
    admin = visit("carol", "admin")
    expect(admin.find("[aria-labelledby=top-users] tbody")).to_contain_text("bob")
    expect(admin.find("[aria-labelledby=reasons] tbody")).to_contain_text("broken")
    admin.shoot("admin")
    admin.find("[aria-labelledby=top-users] a", "bob").first.click()
    expect(admin.find("kbatch-jobs tbody tr .user").first).to_have_text("bob")
    his = visit("bob", f"job/{job['id']}")
    expect(his.find("[role=status].status")).to_have_text("running")
    admin.find("kbatch-jobs").get_by_role("link", name="greedy", exact=True).click()
    admin.page.get_by_label("Reason for cancelling").fill("The node goes down at noon.")
    admin.page.get_by_role("button", name="Cancel").click()
    expect(his.find("[role=status].status")).to_have_text("cancelled")
    expect(his.find(".message")).to_have_text("Cancelled by carol: The node goes down at noon.")


def test_somebody_who_is_no_admin_is_told_so(visit):
    page = visit("alice", "admin")
    expect(page.find("kbatch-admin")).to_contain_text("This page is for admins of the service.")
