"""What reads the text of strangers and users takes time in proportion to its length, whatever it is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kbatch_server.handlers import MODULES
from kbatch_server.handlers.outputs import make_disposition
from kbatch_server.scrub import scrub_text, scrub_url
from kbatch_server.web.multipart import FilePart
from tests.support.regexes import Regex, find_regexes, grow, make_attacks, measure, no_hang
from tests.support.web import PREFIX

PACKAGE = Path(__file__).parents[2] / "kbatch_server"

ROUTES = [
    Regex(f"{module.__name__} {pattern}", f"{PREFIX}{pattern}$", 0, ("match",))
    for module in MODULES
    for pattern, _ in module.default_handlers
]

REGEXES = [*find_regexes(PACKAGE), *ROUTES]

SIZES = (16, 64, 256, 1024)
"""A text of each length is compared with one four times as long, from small on: what takes time by the cube
of the length would not end otherwise."""

FULL = 16 * 1024
"""The same, for what is slowest of all with those."""

SLOWEST = 8


def check(run, make, sizes, what):
    """Fail where a text four times as long takes much more than four times as long."""
    for size in sizes:
        with no_hang(f"{what} with {make(1)!r}"):
            ratio = grow(run, make, size)
        assert ratio < 8, (
            f"{what} takes {ratio:.0f} times as long with {make(1)!r} at {4 * size} as at {size}"
        )


def check_all(run, attacks, what):
    """Try a function on texts with a beginning, a part that repeats, and an end."""
    made = []
    for begin, pump, end in attacks:

        def make(size, begin=begin, pump=pump, end=end):
            return begin + pump * max(1, size // len(pump)) + end

        check(run, make, SIZES, what)
        made.append((measure(run, make(4 * SIZES[-1])), make))
    made.sort(key=lambda each: each[0])
    for _, make in made[-SLOWEST:]:
        check(run, make, [FULL], what)


@pytest.mark.parametrize("regex", REGEXES, ids=str)
def test_every_regular_expression_is_linear(regex):
    check_all(regex.run, make_attacks(regex.pattern), str(regex))


def test_they_are_found_wherever_they_are():
    found = {regex.where.partition(":")[0] for regex in REGEXES}
    assert {"models/request.py", "web/query.py", "launchers/kube/status/sentences.py", "slugs.py"} <= found


@pytest.mark.parametrize(
    ("pattern", "way"),
    [
        (r"([^=&]*(?:token|key)[^=&]*=)[^&]*", "sub"),
        (r"[a-z][a-z0-9+.-]*://\S+", "sub"),
        (r"(a+)+b", "match"),
        (r"(\w+|\d)*-", "fullmatch"),
    ],
)
def test_one_that_is_not_linear_is_noticed(pattern, way, monkeypatch):
    monkeypatch.setattr("tests.support.regexes.HANG_SECONDS", 0.5)
    regex = Regex("here", pattern, 0, (way,))
    with pytest.raises(AssertionError, match=r"times as long|does not end"):
        test_every_regular_expression_is_linear(regex)


WORDS = [
    *(
        "a",
        "/",
        "//",
        "://",
        "a://",
        "@",
        "//@",
        "a@",
        "&",
        "=",
        "a=",
        "token",
        "token=",
        "token&",
        "%",
        "%74",
    ),
    *("/code/", "/outputs/", "/api/v1/", "/code", "'", " ", "\n", " /", "'/", "_", "\u00e9", "?"),
]


@pytest.mark.parametrize("run", [scrub_url, scrub_text, lambda text: make_disposition("inline", text)],
                         ids=["scrub_url", "scrub_text", "make_disposition"])  # fmt: skip
def test_what_is_logged_and_sent_of_a_text_is_found_in_linear_time(run, monkeypatch):
    monkeypatch.setattr("kbatch_server.scrub.MAX_URL", 10**6)  # as if nothing were cut
    monkeypatch.setattr("kbatch_server.scrub.MAX_TEXT", 10**6)
    check_all(run, itertools.product(["", "/a?", "https://"], WORDS, ["\x00"]), "it")


def test_a_content_type_is_read_in_linear_time():
    pumps = [";", '"', ';a="', 'a=";', '\\"', "=", ";a"]
    check_all(
        FilePart, itertools.product(['multipart/form-data; boundary=b; x="'], pumps, [""]), "Content-Type"
    )
