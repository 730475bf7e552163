"""Secrets as a user keeps them: set on their page, never shown again, and given to a job in its form."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

VALUE = "s3cr3t-of-the-page"
KEY = '{\n  "private_key": "-----BEGIN-----\\nx"\n}\n'


@pytest.fixture
def page(site, visit):
    client = site.client("bob")
    for each in client.call("GET", "api/v1/secrets")["items"]:
        client.call("DELETE", f"api/v1/secrets/{each['name']}", status=204)
    return visit("bob", "secrets")


def row(page, name):
    return page.find("kbatch-secrets tbody tr", name)


def press(page, name):
    page.page.get_by_role("button", name=name, exact=True).click()


def add_value(page, name, value):
    page.page.get_by_label("Name", exact=True).fill(name)
    page.page.get_by_label("Value", exact=True).last.fill(value)
    press(page, "Add")
    expect(row(page, name)).to_be_visible()


def test_a_secret_is_added_replaced_and_deleted_and_its_value_is_not_shown_again(page):
    answers = []
    page.page.on("response", lambda answer: answers.append(answer) if "/api/v1/" in answer.url else None)
    expect(page.find("kbatch-secrets")).to_contain_text("You have no secrets.")
    value = page.page.locator("#value")
    assert (value.get_attribute("type"), value.get_attribute("autocomplete")) == ("password", "new-password")
    add_value(page, "wandb-key", VALUE)
    expect(value).to_have_value("")
    expect(row(page, "wandb-key")).to_contain_text("never")
    # credentials
    page.page.get_by_label("Registry credentials").check()
    page.page.get_by_label("Name", exact=True).fill("quay")
    page.page.get_by_label("Registry", exact=True).fill("quay.io")
    page.page.get_by_label("User name").fill("robot")
    password = page.page.get_by_label("Password or token")
    assert password.get_attribute("type") == "password"
    password.fill(VALUE)
    press(page, "Add")
    expect(row(page, "quay")).to_contain_text("Registry credentials")
    page.shoot("secrets")
    # another value
    press(page, "Replace wandb-key")
    expect(value).to_be_focused()
    value.fill("another")
    press(page, "Replace")
    expect(page.find("kbatch-secrets [role=status]")).to_contain_text("Secret wandb-key replaced.")
    press(page, "Delete quay")
    dialog = page.page.get_by_role("dialog", name="Delete quay?")
    page.check_access("the dialog")
    dialog.get_by_role("button", name="Delete").click()
    expect(row(page, "quay")).to_have_count(0)
    expect(row(page, "wandb-key")).to_have_count(1)
    assert VALUE not in page.page.content()
    told = [answer.text() for answer in answers if answer.request.method == "GET"]
    assert len(told) == 4
    assert not [text for text in told if VALUE in text or "another" in text]


def test_what_is_wrong_stands_beside_its_field(page):
    page.expected.append("400")
    press(page, "Add")
    expect(page.find("#name-problem")).to_have_text("Enter a name.")
    expect(page.find("#value-problem")).to_have_text("Enter a value.")
    page.page.get_by_label("Name", exact=True).fill("no spaces")
    page.page.locator("#value").fill("x")
    press(page, "Add")
    expect(page.find("#name-problem")).to_contain_text("must be letters, digits")
    expect(page.page.get_by_label("Name", exact=True)).to_be_focused()
    page.page.get_by_label("Name", exact=True).fill("twice")
    press(page, "Add")
    expect(row(page, "twice")).to_be_visible()
    page.page.get_by_label("Name", exact=True).fill("twice")
    page.page.locator("#value").fill("y")
    press(page, "Add")
    expect(page.find("#name-problem")).to_contain_text("You have a secret with this name.")
    page.page.get_by_label("Registry credentials").check()
    page.page.get_by_label("Name", exact=True).fill("login")
    page.page.get_by_label("Registry", exact=True).fill("https://quay.io")
    page.page.get_by_label("User name").fill("robot")
    page.page.get_by_label("Password or token").fill("x")
    press(page, "Add")
    expect(page.find("#server-problem")).to_contain_text("must be the host of a registry")


def test_a_job_gets_the_secrets_that_its_form_names(site, page, tmp_path):
    add_value(page, "wandb-key", VALUE)
    (tmp_path / "gcp.json").write_text(KEY)
    page.page.get_by_label("Name", exact=True).fill("gcp")
    page.page.get_by_label("Choose a file").set_input_files(tmp_path / "gcp.json")
    expect(page.find("kbatch-secrets form [role=status]")).to_contain_text("Content of gcp.json")
    press(page, "Add")
    expect(row(page, "gcp")).to_be_visible()
    page.page.get_by_role("link", name="New job").click()
    page.page.get_by_label("Name", exact=True).fill("with-secrets")
    page.page.get_by_label("Command").fill(
        'test "$WANDB" = ' + VALUE + " && cat $KBATCH_SECRETS_DIR/key.json"
    )
    page.page.get_by_label("Run in a shell").check()
    press(page, "Add secret")
    press(page, "Add secret")
    expect(page.page.get_by_label("Secret 1", exact=True)).to_have_value("gcp")
    expect(page.page.get_by_label("Variable of secret 2")).to_have_value("WANDB_KEY")
    page.page.get_by_label("Variable of secret 2").fill("WANDB")
    page.page.get_by_label("Use of secret 1").select_option("file")
    page.page.get_by_label("File of secret 1").fill("../key.json")
    page.expected.append("400")
    press(page, "Submit")
    expect(page.find("kbatch-secret-uses .problem")).to_contain_text("must be a name like key.json")
    page.page.get_by_label("File of secret 1").fill("key.json")
    page.shoot("submit-secrets")
    press(page, "Submit")
    expect(page.find("[role=status].status")).to_have_text("succeeded")
    expect(page.find(".line .text", "private_key")).to_have_count(1)
    expect(page.find("kbatch-request dl")).to_contain_text("wandb-key as WANDB, gcp as file key.json")
    assert VALUE not in page.find("kbatch-request pre").inner_text().replace(" = " + VALUE, "")
    # again, with the same
    page.page.get_by_role("link", name="Run again with changes").click()
    expect(page.page.get_by_label("Variable of secret 1")).to_have_value("WANDB")
    with page.page.expect_request("**/api/v1/jobs") as request:
        press(page, "Submit")
    again = request.value.post_data_json
    assert (again["secret_env"], again["secret_files"]) == ({"WANDB": "wandb-key"}, {"key.json": "gcp"})
    assert "registry_secrets" not in again
    # one that is gone by then is told
    page.page.get_by_role("link", name="Run again with changes").click()
    site.client("bob").call("DELETE", "api/v1/secrets/gcp", status=204)
    page.page.reload()
    expect(page.page.get_by_label("Secret 2", exact=True)).to_have_value("gcp (missing)")
    press(page, "Submit")
    expect(page.find("kbatch-secret-uses .problem")).to_contain_text("you have no secret 'gcp'")
