"""The secrets that a job names: checked at the submit, read at the launch, on record by name alone."""

from __future__ import annotations

import pytest

from kbatch_server.audit import AuditQuery
from kbatch_server.errors import InvalidRequest
from kbatch_server.keyring import Keyring
from kbatch_server.launchers.local.launcher import LocalProcessJobLauncher
from kbatch_server.models.request import JobRequest
from kbatch_server.models.secret import SecretRequest
from kbatch_server.models.user import User
from tests.support.stepping import do_step

ALICE, BOB = User(name="alice"), User(name="bob")
LOGIN = {"server": "quay.io", "username": "robot", "password": "hunter22"}
USES = {
    "secret_env": {"TOKEN": "token", "SAME": "token"},
    "secret_files": {"key.json": "key"},
    "registry_secrets": ["quay"],
}


@pytest.fixture
async def filled(world):
    await put(world, "token", value="s3cr3t")
    await put(world, "key", value='{"private": 1}\n')
    await put(world, "quay", registry=LOGIN)
    return world


async def put(world, name, user=ALICE, **content):
    await world.jobs.secrets.set(user, name, SecretRequest.from_json(content))


async def submit(world, user=ALICE, **fields):
    fields = {"name": "job", "image": "busybox", "command": ["true"]} | fields
    return (await world.jobs.submit(user, JobRequest.from_json(fields)))[0]


async def launch(world, job):
    await do_step(world.make_reconciler(), job.id)
    return await world.store.jobs.find(job.id)


async def test_a_job_has_the_secrets_that_it_names_and_so_has_one_like_it(filled):
    job = await submit(filled, env={"PLAIN": "mine"}, **USES)
    again = await filled.jobs.rerun(ALICE, job.id)
    await launch(filled, job)
    await put(filled, "token", value="changed")
    await launch(filled, again)
    first, second = (made for _, made in filled.launcher.launched)
    assert (first.env["TOKEN"], first.env["SAME"], first.env["PLAIN"]) == ("s3cr3t", "s3cr3t", "mine")
    assert first.secret_files == {"key.json": '{"private": 1}\n'}
    [login] = first.registries
    assert login.model_dump() == LOGIN
    assert (second.env["TOKEN"], second.secret_files) == ("changed", first.secret_files)
    assert "s3cr3t" not in repr(first)
    assert "hunter22" not in repr(first)


async def test_nothing_that_is_shown_or_kept_of_a_job_has_the_value(filled):
    job = await submit(filled, **USES)
    await launch(filled, job)
    job = await filled.jobs.get(ALICE, job.id)
    shown = job.to_dict(env=await filled.jobs.read_env(job))
    assert (shown["secret_env"], shown["secret_files"]) == (USES["secret_env"], USES["secret_files"])
    assert (shown["registry_secrets"], shown["env"]) == (["quay"], {})
    for secret in ("s3cr3t", "private", "hunter22"):
        assert secret not in repr(job) + repr(shown)


async def test_the_audit_record_names_the_secrets_of_a_submit(filled):
    job = await submit(filled, **USES)
    await filled.jobs.rerun(ALICE, job.id)
    entries = (await filled.store.audit.list_page(AuditQuery(limit=2))).entries
    assert [(entry.action.value, entry.detail) for entry in entries] == [
        ("rerun", f"of {job.id}, with the secrets key, quay, token"),
        ("submit", "with the secrets key, quay, token"),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"secret_env": {"TOKEN": "tokn"}},
            "secret_env.TOKEN: you have no secret 'tokn' with a value; you have: key, token",
        ),
        (
            {"secret_files": {"a": "quay"}},
            "secret_files.a: the secret 'quay' has credentials for a registry, not a value",
        ),
        (
            {"registry_secrets": ["quay", "nope"]},
            "registry_secrets[1]: you have no secret 'nope' with credentials for a registry; you have: quay",
        ),
        (
            {"registry_secrets": ["token"]},
            "registry_secrets[0]: the secret 'token' has a value, not credentials for a registry",
        ),
        ({"secret_env": {"A": "token"}, "env": {"A": "x"}}, "secret_env: A is also in env: a variable has "),
        ({"secret_env": {"A=B": "token"}}, "secret_env: 'A=B' is not a valid environment variable name"),
        ({"secret_files": {"../a": "key"}}, "secret_files.../a: must be a name like key.json"),
        ({"secret_files": {"..data": "key"}}, "secret_files...data: must be a name like key.json"),
        ({"secret_env": {"A": "a/b"}}, "secret_env.A: must be letters, digits"),
        ({"secret_env": {f"A{i}": "token" for i in range(33)}}, "secret_env: has 33 variables; the limit is"),
    ],
)
async def test_a_job_with_a_secret_that_it_cannot_have_is_refused_with_the_field(filled, fields, said):
    with pytest.raises(InvalidRequest) as error:
        await submit(filled, **fields)
    assert error.value.message.startswith(said)


async def test_another_users_secrets_are_not_there(filled):
    with pytest.raises(InvalidRequest, match="you have no secret 'token' with a value; you have: none"):
        await submit(filled, BOB, secret_env={"TOKEN": "token"})
    with pytest.raises(InvalidRequest, match="you have no secret"):
        await submit(filled, User(name="root", admin=True), secret_env={"TOKEN": "token"})


async def test_a_secret_that_a_job_would_have_too_often_is_refused(filled):
    await put(filled, "large", value="x" * 64 * 1024)
    files = {f"f{number}": "large" for number in range(5)}
    with pytest.raises(InvalidRequest, match="secret_files: the job's secrets have 327680 bytes"):
        await submit(filled, secret_files=files)


async def forget(world):
    await world.jobs.secrets.delete(ALICE, "token")


async def enlarge(world):
    await put(world, "token", value="x" * 64 * 1024)


async def turn_into_a_login(world):
    await put(world, "token", registry=LOGIN)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (
            forget,
            "SecretNotFound",
            "The secret 'token' no longer exists. Set it again, and run the job again.",
        ),
        (turn_into_a_login, "WrongSecret", "The secret 'token' now has credentials for a registry"),
        (enlarge, "TooLarge", "The job's secrets have 327680 bytes now; the limit is 262144."),
    ],
)
async def test_a_secret_that_changes_before_the_launch_ends_the_job_with_a_sentence(
    filled, change, reason, words
):
    job = await submit(filled, secret_env={f"A{number}": "token" for number in range(5)})
    await change(filled)
    job = await launch(filled, job)
    assert (job.status, job.reason) == ("failed", reason)
    assert job.message.startswith(words)
    assert filled.launcher.launched == []


async def test_a_secret_whose_key_the_admin_has_removed_is_told_before_and_at_the_launch(filled):
    job = await submit(filled, secret_env={"TOKEN": "token"})
    filled.store.secrets._keyring = Keyring(["another key, of thirty-two letters"])
    with pytest.raises(InvalidRequest, match="with a key that the service no longer has: set it again"):
        await submit(filled, secret_env={"TOKEN": "token"})
    job = await launch(filled, job)
    assert (job.status, job.reason) == ("failed", "SecretLost")
    assert "Set it again" in job.message


async def test_after_a_change_of_keys_the_old_one_is_soon_not_needed_any_more(filled, caplog):
    old, new = "k" * 32, "n" * 32
    filled.store.secrets._keyring = Keyring([new, old])
    with caplog.at_level("INFO"):
        await filled.engine.retention.sweep(with_orphans=False)
        await filled.engine.retention.sweep(with_orphans=False)
    assert caplog.text.count("encrypted 3 secrets of users anew") == 1
    filled.store.secrets._keyring = Keyring([new])
    job = await submit(filled, **USES)
    assert (await launch(filled, job)).status == "pending"


async def test_what_a_launcher_has_no_place_for_is_refused_before_the_job_is_accepted(filled):
    filled.launcher.has_secret_files = filled.launcher.has_registries = False
    with pytest.raises(InvalidRequest, match="secret_files: is not supported by this launcher: use secret_e"):
        await submit(filled, secret_files={"key": "key"})
    with pytest.raises(InvalidRequest, match="registry_secrets: is not supported by this launcher"):
        await submit(filled, registry_secrets=["quay"])
    await submit(filled, secret_env={"TOKEN": "token"})


async def test_credentials_are_refused_where_no_image_is_pulled(filled):
    filled.launcher.check_spec = LocalProcessJobLauncher().check_spec
    with pytest.raises(InvalidRequest, match="registry_secrets: is not supported"):
        await submit(filled, registry_secrets=["quay"])


async def test_a_forgotten_users_secrets_are_gone(filled):
    await put(filled, "token", BOB, value="of bob")
    done = await filled.jobs.forget_user("alice")
    assert done.secrets == 3
    assert await filled.jobs.secrets.list(ALICE) == []
    assert [each.name for each in await filled.jobs.secrets.list(BOB)] == ["token"]
    [entry] = (await filled.store.audit.list_page(AuditQuery(limit=1))).entries
    assert entry.detail == "0 jobs, 0 uploads, 3 secrets"
