"""Names: always valid for Kubernetes, never the same for two different users."""

import re

import pytest

from kbatch_server.slugs import MAX_JOB_ID, MAX_LABEL, make_job_id, make_slug

USERS = [
    "Alice",
    "alice",
    "a.b",
    "a_b",
    "a-b",
    "a--b",
    "kube-system",
    "x" * 300,
    "x" * 299,
    "Ünïcödé",
    "日本語",
    "9lives",
    "-",
    "",
    "alice-",
    "ALICE",
    "a b",
    "user@example.org",
    "\ud800",
]
LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def test_every_user_has_a_slug_of_their_own():
    slugs = [make_slug(user) for user in USERS]
    assert len(set(slugs)) == len(USERS)


@pytest.mark.parametrize("user", USERS)
def test_a_slug_is_a_label_and_a_namespace_name(user):
    slug = make_slug(user)
    assert LABEL.fullmatch(slug)
    assert len(slug) <= MAX_LABEL


def test_a_plain_name_stays_as_it_is():
    assert make_slug("alice") == "alice"
    assert make_slug("team-7") == "team-7"


def test_nobody_can_call_himself_like_the_slug_of_another():
    slug = make_slug("Alice")
    assert make_slug(slug) != slug


def test_a_shorter_limit_holds_and_keeps_names_apart():
    slugs = {make_slug(user, max_length=30) for user in USERS}
    assert len(slugs) == len(USERS)
    assert max(map(len, slugs)) <= 30


@pytest.mark.parametrize("name", ["train", "Train.v2_final", "9", "x" * 63, "a--b", "-" * 5, "ü"])
def test_a_job_id_is_a_label_with_room_for_the_pods_suffix_and_never_the_same_twice(name):
    first, second = make_job_id(name), make_job_id(name)
    assert first != second
    assert LABEL.fullmatch(first)
    assert len(first) <= MAX_JOB_ID <= MAX_LABEL - len("-abcde")
