"""What a client sees of secrets: set once, listed, replaced, deleted, and never shown again by any answer."""

from __future__ import annotations

import json
import logging

import pytest

from tests.support.hub_double import ACCESS, ACTIONS

SUBMIT, READ, _ = ACTIONS
LOGIN = {"server": "registry.example.org:5000", "username": "robot", "password": "hunter22-hunter22"}
VALUE = "s3cr3t-s3cr3t"


@pytest.fixture
def web_settings():
    return {"Secrets": {"max_secrets": 3}}


async def test_a_secret_is_set_listed_replaced_and_deleted(web):
    async with web.client() as client:
        made = await client.put("api/v1/secrets/token", json={"value": VALUE})
        assert (made.status_code, made.json()["name"], made.json()["kind"]) == (201, "token", "value")
        again = await client.put("api/v1/secrets/token", json={"value": VALUE})
        assert (again.status_code, again.json()["created_at"]) == (200, made.json()["created_at"])
        assert (await client.put("api/v1/secrets/quay", json={"registry": LOGIN})).status_code == 201
        listed = await client.get("api/v1/secrets")
        assert [(each["name"], each["kind"]) for each in listed.json()["items"]] == [
            ("quay", "registry"),
            ("token", "value"),
        ]
        assert set(listed.json()["items"][0]) == {
            *("name", "kind", "created_at", "updated_at", "used_at", "is_lost")
        }
        for answer in (made, again, listed):
            assert VALUE not in answer.text
            assert "hunter22" not in answer.text
            assert "robot" not in answer.text
        assert (await client.get("api/v1/secrets/token")).status_code == 405
        assert (await client.delete("api/v1/secrets/token")).status_code == 204
        gone = await client.delete("api/v1/secrets/token")
        assert (gone.status_code, gone.json()["message"]) == (404, "Secret 'token' not found.")


async def test_users_and_admins_reach_only_their_own(web):
    async with web.client() as alice:
        await alice.put("api/v1/secrets/token", json={"value": VALUE})
    for token in ("bob-token", "admin-token"):
        async with web.client(token) as other:
            assert (await other.get("api/v1/secrets")).json() == {"items": []}
            assert (await other.get("api/v1/secrets?user=alice")).status_code == 400
            assert (await other.delete("api/v1/secrets/token")).status_code == 404
            # under the same name it is a secret of their own
            assert (await other.put("api/v1/secrets/token", json={"value": "x"})).status_code == 201
    async with web.client() as alice:
        [kept] = (await alice.get("api/v1/secrets")).json()["items"]
        assert kept["created_at"] == kept["updated_at"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "body: must have either value or registry"),
        ({"value": VALUE, "registry": LOGIN}, "body: must have either value or registry"),
        ({"value": ""}, "value: String should have at least 1 character"),
        ({"value": [VALUE]}, "value: Input should be a valid string"),
        ({"value": VALUE + "\0"}, "value: contains a NUL character; encode binary data"),
        ({"value": VALUE * 5042}, "value: String should have at most 65536 characters"),
        ({"value": VALUE + "é" * 32768}, "value: has 65549 bytes; the limit is 65536"),
        ({"value": VALUE, "user": "bob"}, "user: is not a known field"),
        (
            {"registry": LOGIN | {"server": f"https://{VALUE}"}},
            "registry.server: must be the host of a registry, like quay.io",
        ),
        ({"registry": LOGIN | {"username": f"{VALUE}:x"}}, "registry.username: must not contain ':'"),
        ({"registry": LOGIN | {"password": 12345}}, "registry.password: Input should be a valid string"),
        ({"registry": VALUE}, "registry: Input should be"),
        ([VALUE], "body: must be a JSON object"),
        ('{"value": "s3cr3t-s3cr3t', "body: is not JSON"),
        (r'{"value": "s3cr3t-s3cr3t\ud800"}', "body: is not JSON"),
    ],
)
async def test_what_is_wrong_with_a_secret_is_told_without_it(web, caplog, body, said):
    content = body if isinstance(body, str) else json.dumps(body)
    with caplog.at_level(logging.DEBUG):
        async with web.client() as client:
            answer = await client.put("api/v1/secrets/token", content=content)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(said)
    for secret in ("s3cr3t", "hunter22", "12345"):
        assert secret not in answer.text
        assert secret not in caplog.text


async def test_no_log_has_a_secret_that_was_set(web, caplog):
    with caplog.at_level(logging.DEBUG):
        async with web.client() as client:
            await client.put("api/v1/secrets/token", json={"value": VALUE})
            await client.put("api/v1/secrets/quay", json={"registry": LOGIN})
            await client.delete("api/v1/secrets/quay")
    assert "set-secret token of alice by alice" in caplog.text
    for secret in (VALUE, LOGIN["password"], LOGIN["username"]):
        assert secret not in caplog.text


@pytest.mark.parametrize("name", ["-x", "a%20b", "a%2Fb", "é", "x" * 64, "..", ".a"])
async def test_a_name_that_no_secret_can_have_is_refused(web, name):
    async with web.client() as client:
        answer = await client.put(f"api/v1/secrets/{name}", json={"value": VALUE})
        assert answer.status_code in {400, 404, 405}
        assert (await client.get("api/v1/secrets")).json() == {"items": []}


async def test_a_body_that_no_secret_has_is_refused_before_it_is_read(web):
    async with web.client() as client:
        answer = await client.put("api/v1/secrets/token", content=b"x" * 600_000)
        assert answer.status_code == 413
        escaped = '{"value": "' + r"\u0041" * 65536 + '"}'
        assert (await client.put("api/v1/secrets/token", content=escaped)).status_code == 201


async def test_a_user_has_so_many_secrets_and_no_more(web):
    async with web.client() as client:
        for number in range(3):
            await client.put(f"api/v1/secrets/s{number}", json={"value": VALUE})
        refused = await client.put("api/v1/secrets/s3", json={"value": VALUE})
        assert (refused.status_code, refused.json()["reason"]) == (403, "TooManySecrets")
        assert refused.json()["message"] == "You have 3 secrets; the limit is 3. Delete one first."


async def test_a_token_that_may_only_read_sets_and_deletes_nothing(web):
    web.hub.add_token("reader", scopes=(ACCESS, READ))
    web.hub.add_token("submitter", scopes=(ACCESS, SUBMIT))
    async with web.client("reader") as reader, web.client("submitter") as submitter:
        assert (await reader.put("api/v1/secrets/token", json={"value": VALUE})).status_code == 403
        assert (await submitter.put("api/v1/secrets/token", json={"value": VALUE})).status_code == 201
        assert (await reader.delete("api/v1/secrets/token")).status_code == 403
        assert (await submitter.get("api/v1/secrets")).status_code == 403
        assert len((await reader.get("api/v1/secrets")).json()["items"]) == 1


async def test_a_job_that_names_a_secret_shows_its_name_to_all_who_see_the_job(web):
    async with web.client() as client:
        await client.put("api/v1/secrets/token", json={"value": VALUE})
        body = {"name": "a", "command": ["true"], "secret_env": {"TOKEN": "token"}}
        job = (await client.post("api/v1/jobs", json=body)).json()
        assert (job["secret_env"], job["env"]) == ({"TOKEN": "token"}, {})
        answer = await client.post("api/v1/jobs", json=body | {"secret_env": {"TOKEN": "nope"}})
        assert answer.status_code == 400
        assert answer.json()["details"] == [
            {
                "field": "secret_env.TOKEN",
                "message": "you have no secret 'nope' with a value; you have: token",
            }
        ]
    async with web.client("admin-token") as admin:
        assert VALUE not in (await admin.get(f"api/v1/jobs/{job['id']}")).text
