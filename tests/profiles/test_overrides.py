"""What overrides make of traits, beside KubeSpawner's own functions for it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubespawner.utils import recursive_format, recursive_update

from kbatch_server.profiles.overrides import fill_value, merge, override

KEYS = st.sampled_from("abc")
LEAVES = st.one_of(
    st.none(), st.integers(), st.sampled_from(["x", "{value}", "{other}"]), st.lists(st.integers())
)
DICTS = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(LEAVES, inner), max_size=3),
)


def has_dict_over_other(target, changes):
    """Whether a dict is to be merged into what is none: KubeSpawner fails, and we replace it."""
    return any(
        isinstance(value, dict)
        and key in target
        and (not isinstance(target[key], dict) or has_dict_over_other(target[key], value))
        for key, value in changes.items()
    )


@given(DICTS, DICTS)
def test_dicts_are_merged_as_kubespawner_merges_them(target, changes):
    before = copy.deepcopy((target, changes))
    merged = merge(target, changes)
    assert (target, changes) == before
    if not has_dict_over_other(target, changes):
        recursive_update(target, changes)
        assert merged == target


def test_a_dict_in_the_place_of_something_else_replaces_it():
    assert merge({"a": 1}, {"a": {"b": 2, "c": None}}) == {"a": {"b": 2}}


@pytest.mark.parametrize(
    ("current", "value", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1, "b": {"c": 1, "d": 1}}, {"a": None, "b": {"c": None}}, {"b": {"d": 1}}),
        ([1], [2], [2]),
        ({"a": 1}, None, None),
        ("x", {"a": None}, {"a": None}),
    ],
)
def test_only_a_dict_for_a_dict_is_merged(current, value, expected):
    assert override(current, value) == expected


@given(DICTS, st.sampled_from(["", "x", "quay.io/a:1", "{other}", "{value}"]))
def test_the_users_text_is_filled_in_as_kubespawner_does(template, text):
    assert fill_value(template, text) == recursive_format(template, value=text)
