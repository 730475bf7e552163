"""Lines of a text by their numbers, however the text comes in pieces."""

from __future__ import annotations

import pytest

from kbatch_server.logs.lines import MAX_REST_BYTES, LineCutter, find_line

TEXT = b"one\n\nthree\nfour and more\nfive"


def cut(pieces, first, end):
    cutter = LineCutter(first, end)
    found = [hit for piece, line in pieces for hit in cutter.add(piece, line)] + cutter.finish()
    return [(hit.line, hit.text) for hit in found]


def in_pieces(text, size):
    for at in range(0, len(text), size):
        yield text[at : at + size], text.count(b"\n", 0, at) + 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("first", "end"), [(1, 6), (2, 4), (3, 4), (4, 6), (5, 99), (6, 99)])
def test_lines_are_the_same_whatever_the_pieces(size, first, end):
    lines = list(enumerate(TEXT.decode().split("\n"), 1))
    assert cut(in_pieces(TEXT, size), first, end) == [each for each in lines if first <= each[0] < end]


def test_lines_that_were_cut_out_are_left_out():
    assert cut([(b"one\ntw", 1), (b"inety\nhundred\n", 90)], 1, 200) == [
        (1, "one"), (2, "tw"), (90, "inety"), (91, "hundred")
    ]  # fmt: skip


def test_of_a_long_line_the_beginning_is_shown():
    (line,) = cut([(b"x" * 5000, 1), (b"y" * 5000, 1), (b"z\n", 1)], 1, 2)
    assert line == (1, "x" * 5000 + "y" * 3192 + " …")


def test_of_a_line_that_is_drawn_for_ever_what_is_seen_is_kept():
    cutter = LineCutter(1, 3)
    for number in range(100):
        cutter.add(b"\r\x1b[32mstep %d\x1b[0m" % number * 2000, 1)
        assert len(cutter._rest) <= MAX_REST_BYTES
    (line,) = cutter.add(b"\rdone\x1b[K\nnext", 1)
    assert (line.line, line.text) == (1, "done")
    assert [hit.text for hit in cutter.finish()] == ["next"]


def test_a_long_line_of_many_colours_is_shown_without_them():
    line = b"".join(b"\x1b[1;4;38;2;%d;0;0mx" % (n % 256) for n in range(8000))
    assert cut([(line + b"\n", 1)], 1, 2) == [(1, "x" * 8000)]
    assert cut([(b"\x1b[31m" + b"x" * 9000 + b"\n", 1)], 1, 2) == [(1, "x" * 8192 + " …")]


def test_a_line_is_found_by_counting():
    assert [find_line(TEXT, number) for number in (1, 2, 3, 4)] == [4, 5, 11, 25]
    assert find_line(TEXT, 5) == -1
