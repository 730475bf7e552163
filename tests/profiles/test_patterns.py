"""The admin's regular expressions: as Python reads them, of the whole text, and in time."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbatch_server.profiles import patterns
from kbatch_server.profiles.patterns import MATCH_SECONDS, check_pattern, matches

# what is in the docs of KubeSpawner, of zero-to-jupyterhub and of hubs
USUAL = [r"^pangeo/.*$", r"^.+:.+$", r"(?!evil).*", r"[\w.-]+", r"^(a|b)\1$", r"(?i)quay\.io/.+", r"\d{1,3}"]


@given(st.sampled_from(USUAL), st.text("ab1.:/-\nQquayio.pangeo", max_size=30))
def test_they_mean_what_they_mean_to_python(pattern, text):
    assert matches(pattern, text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(a|a?)+$", r"([a-z]|\w)*!", r"(.*)*(.*)*(.*)*x"])
def test_none_takes_longer_than_its_limit(pattern):
    begun = time.process_time()
    assert matches(pattern, "a" * 500 + "?") in (None, False)
    assert time.process_time() - begun < 5 * MATCH_SECONDS


def test_each_use_has_a_limit():
    calls = [
        each
        for each in ast.walk(ast.parse(Path(patterns.__file__).read_text()))
        if isinstance(each, ast.Call)
    ]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr != "compile":
            assert {each.arg for each in call.keywords} >= {"timeout", "concurrent"}


def test_what_is_no_expression_is_refused():
    with pytest.raises(ValueError, match=r"is not a regular expression: missing \)"):
        check_pattern("(")
