"""The names in an admin's templates: what KubeSpawner calls the same user's server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError

from kbatch_server.profiles.config import JobConfig
from kbatch_server.templates import OF_USER, expand, fill_label, find_problem, make_fields
from tests.support import oracle

NAMES = [
    ("alice", "alice", "alice", "alice"),
    ("Alice", "alice---3bc51062", "alice---3bc51062", "-41lice"),
    (
        "alice@example.com",
        "alice-example-com---ff8d9819",
        "alice-example-com---ff8d9819",
        "alice-40example-2ecom",
    ),
    ("a.b", "a-b---2e7336dc", "a-b---2e7336dc", "a-2eb"),
    ("9lives", "x-9lives---bc867356", "x-9lives---bc867356", "9lives"),
    ("a--b", "a-b---90827a2e", "a-b---90827a2e", "a-2d-2db"),
    ("ünïcode", "n-code---b8be8967", "n-code---b8be8967", "-c3-bcn-c3-afcode"),
    ("-", "x---3973e022", "x---3973e022", "-2d"),
    ("x" * 46, "x" * 46, "x" * 46, "x" * 46),
    ("x" * 47, "x" * 47, f"{'x' * 17}--x---cfcbdd85", "x" * 47),
    ("x" * 49, f"{'x' * 37}---55bb9823", f"{'x' * 17}--x---9b942dee", "x" * 49),
]
"""User, and KubeSpawner 7.1.0's ``{username}``, ``{user_server}`` and ``{escaped_username}``."""


@pytest.mark.parametrize(("user", "safe", "user_server", "escaped"), NAMES)
def test_each_name_is_that_of_the_users_server(user, safe, user_server, escaped):
    assert expand("claim-{username}", user) == f"claim-{safe}"
    assert expand("claim-{user_server}", user) == f"claim-{user_server}"
    assert expand("claim-{escaped_username}", user) == f"claim-{escaped}"
    assert expand("{escaped_user_server}", user) == escaped
    assert expand("/home/{unescaped_username}/", user) == f"/home/{user}/"
    assert expand("{username}--{servername}", user) == safe
    assert expand("{safe_username}-", user) == f"{safe}-"
    assert fill_label("jupyter-{username}", user) == f"jupyter-{safe}"


SERVERS = [
    ("alice", "gpu", "alice--gpu", "alice--gpu"),
    ("alice", "GPU 1", "alice--gpu-1---563fe73c", "alice---47-50-55-201"),
    ("alice", "a--b", "alice--a-b---90827a2e", "alice--a-2d-2db"),
    ("a.b", "ü", "a-b---2e7336dc--x---607474ca", "a-2eb---c3-bc"),
    ("a.b", "", "a-b---2e7336dc", "a-2eb"),
    (
        "alice@example.com",
        "gpu",
        "alice-example-com---ff8d9819--gpu",
        "alice-40example-2ecom--gpu",
    ),
    ("x" * 40, "long-name", f"{'x' * 17}--long-name---be30bd16", f"{'x' * 40}--long-2dname"),
    ("a", "b" * 60, f"a--{'b' * 17}---8c09d233", f"a--{'b' * 60}"),
]
"""User, server, and KubeSpawner 7.1.0's ``{user_server}`` by its two schemes."""


@pytest.mark.parametrize(("user", "server", "safe", "escaped"), SERVERS)
def test_a_named_server_has_names_of_its_own_by_both_schemes(user, server, safe, escaped):
    assert expand("claim-{user_server}", user, server) == f"claim-{safe}"
    assert expand("claim-{user_server}", user, server, scheme="escape") == f"claim-{escaped}"
    assert expand(["{safe_user_server}/{unescaped_servername}/"], user, server) == [f"{safe}/{server}/"]


@given(st.text(), st.sampled_from(["{username}", "{user_server}", "jobs-{username}"]))
def test_a_safe_name_is_a_label_whatever_the_user_is_called(user, template):
    name = expand(template, user)
    assert len(name) <= 53
    assert name.isascii()
    assert name[0].islower()
    assert not name.endswith("-")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(
    user=st.sampled_from([name for name, *_ in NAMES]) | st.text(min_size=1),
    server=st.sampled_from(["", "gpu", "My Server", "a--b", "x" * 45]) | st.text(),
    scheme=st.sampled_from(["safe", "escape"]),
)
def test_each_name_is_that_of_kubespawner_for_any_server(user, server, scheme):
    template = " ".join(f"{{{field}}}" for field in OF_USER) + "."
    assert expand(template, user, server, scheme=scheme) == oracle.expand_template(
        template, user, server, scheme=scheme
    )


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ({"a": ["{username}/{{x}}", 1, {"b": "{servername}"}]}, {"a": ["al/{x}", 1, {"b": ""}]}),
        ('{{"who": "{username}"}}', '{"who": "al"}'),
        ("plain-", "plain-"),
    ],
)
def test_strings_are_filled_in_at_any_depth_and_nothing_else(template, filled):
    assert find_problem(template) is None
    assert expand(template, "al") == filled


def test_a_users_name_is_not_filled_in_again():
    assert expand("/home/{unescaped_username}", "{username}") == "/home/{username}"
    assert set(make_fields("al")) == set(make_fields("bo"))


@pytest.mark.parametrize("value", ["{user}", "{}", "{", "a}", "{username!r}", "{username.upper}", '{"a": 1}'])
@pytest.mark.parametrize(
    "trait", ["extra_annotations", "extra_labels", "node_selector", "service_account", "volumes"]
)
def test_a_brace_that_is_no_field_stops_the_start_with_the_fields_that_there_are(trait, value):
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": value}}
    values = {"service_account": value, "volumes": [volume]}
    with pytest.raises(TraitError, match=rf"JobConfig\.{trait}: .* known: {{username}}, {{user_server}},"):
        JobConfig(**{trait: values.get(trait, {"key": value})})
    assert expand(value, "al") == value
