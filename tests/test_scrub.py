"""What is logged of URLs, and of errors with URLs in them: no secret, and no more than is of use."""

from __future__ import annotations

import pytest

from kbatch_server.scrub import MAX_TEXT, MAX_URL, scrub_text, scrub_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/services/kbatch/code/eyJ.x.y", "/services/kbatch/code/[secret]"),
        ("/services/kbatch/outputs/eyJ.x.y?part=1", "/services/kbatch/outputs/[secret]?part=1"),
        ("/services/kbatch/api/v1/jobs/a-1/outputs/code/main.py", None),
        (
            "/a?follow=true&token=x&access_token=y&code=z",
            "/a?follow=true&token=[secret]&access_token=[secret]&code=[secret]",
        ),
        ("/a?%74oken=x&TOKEN=y", "/a?%74oken=[secret]&TOKEN=[secret]"),
        ("/a?next=/b?token=x=y&z=1", "/a?next=/b?token=[secret]&z=1"),
        ("/a?token&x=1&=&&==", None),
        ("//[", None),
        ("?", None),
        ("", None),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    assert scrub_url(url) == (url if shown is None else shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "403 for 'https://budget/api?user=alice&token=s3cret', and/or \"/code/s3cret\"\n",
            "403 for 'https://budget/api?user=alice&token=[secret]', and/or \"/code/[secret]\"\n",
        ),
        ("postgresql://kbatch:s3cret@db/jobs is away", "postgresql://[secret]@db/jobs is away"),
        ("x=//u:s3cret@h//v:s3cret@i", "x=//[secret]@h//[secret]@i"),
        ("no URL: a@b, 1/2, //, ://, <>", None),
    ],
)
def test_words_are_shown_without_the_secrets_of_the_urls_in_them(text, shown):
    assert scrub_text(text) == (text if shown is None else shown)


def test_of_a_very_long_url_the_beginning_is_shown():
    url = "/a?x=" + "1" * 3000 + "&token=s3cret"
    assert scrub_url(url) == f"{url[:MAX_URL]}[... {len(url) - MAX_URL} characters]"


def test_of_a_very_long_text_beginning_and_end_are_shown_and_no_half_of_a_secret():
    text = "first " + "x" * MAX_TEXT + " https://h/?token=" + "s3cret" * 10_000 + " last words"
    shown = scrub_text(text)
    assert shown.startswith("first xxx")
    assert shown.endswith(" characters ...]last words")
    assert "s3cret" not in shown
    assert len(shown) < MAX_TEXT
