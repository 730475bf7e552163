"""The page of jobs, as a user sees it: live, filtered, searched, a page at a time, several at once."""

from __future__ import annotations

from playwright.sync_api import expect


def test_the_table_of_jobs(site, visit):
    bob = site.client("bob")
    for name, script in (("good", "echo fine"), ("bad", "exit 3"), ("long", "sleep 300")):
        bob.submit(script, name=name)
    page = visit("bob")
    rows = page.find("tbody tr")
    expect(rows).to_have_count(3)
    expect(page.find("tr", "good").locator(".status")).to_have_text("succeeded")
    expect(page.find("tr", "bad").locator(".status")).to_have_text("failed")
    expect(page.find("tr", "bad")).to_contain_text("exit code 3")
    expect(page.find("tr", "long").locator(".status")).to_have_text("running")
    page.shoot("jobs")
    # what came to a page before its list
    assert sum(page.sizes.values()) < 200_000, page.sizes
