"""What is shown of a line: as a terminal shows it, in bounded time, by the service and by the page alike."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbatch_server.logs import terminal
from kbatch_server.logs.terminal import fold, show_plain, show_styled
from tests.support.page_scripts import bundle

UI = Path(__file__).parents[2] / "ui"

BAR = b"".join(b"\rstep %d/1000 [%-50s]" % (i, b"#" * (i // 20)) for i in range(1001))

PARTS = [
    b"a", b"bc", b" ", "ä".encode(), "日".encode(), "😀".encode(), b"\xff", b"\t", b"\r", b"\b", b"\x07",
    b"\x1b[31m", b"\x1b[0m", b"\x1b[m", b"\x1b[1;38;5;99m", b"\x1b[22;39m", b"\x1b[48;2;1;2;3m", b"\x1b[4:3m",
    b"\x1b[K", b"\x1b[1K", b"\x1b[2K", b"\x1b[A", b"\x1b[3C", b"\x1b[2D", b"\x1b[5G", b"\x1b[?25l",
    b"\x1b]8;;http://example.org/\x1b\\", b"\x1b]8;;\x07", b"\x1b]0;title\x07", b"\x1b(B", b"\x1bP1$r\x1b\\",
    b"\x1b[1<m", b"\x1b[38;5?m", b"\x1b[5>:1m", b"\x1b[2;=K", b"\x1b[1;:m", b"\x1b[:3;4m",
    b"\x1b", b"[", b"]8;;", b"\x1b[", b"\x1b]8;", b"1m",
]  # fmt: skip
"""What lines are made of: text, sequences, and what is left of sequences that were cut."""

PAGE_FUNCTIONS = """
import { drawLine, foldLine } from "./src/log/terminal.ts";
const draw = (text) => drawLine(text).map(({ text }) => text).join("");
const functions = { show: (text) => [draw(text), foldLine(text, 1e9)] };
"""

lines = st.lists(st.sampled_from(PARTS), max_size=14).map(b"".join)


def decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def draw(line: bytes) -> str:
    """Return a line with its colours in one spelling, as one that has colours alone is left as it is."""
    return decode(show_styled(b"\x1b[?25l" + line))


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (b"nothing special", "nothing special"),
        (BAR, "step 1000/1000 [" + "#" * 50 + "]"),
        (b"\x1b[1mINFO\x1b[0m | saved", "INFO | saved"),
        (b"50%\r100%", "100%"),
        (b"a longer text\rshort\x1b[K", "short"),
        (b"what was there\rTHIS", "THIS was there"),
        (b"100%\r    \r", ""),
        (b"typpo\b\bo\x1b[K", "typo"),
        (b"windows\r", "windows"),
        (b"\x1b[?25l\x1b[2Kspinner\x1b[?25h", "spinner"),
        (b"\x1b]0;a title\x07text", "text"),
        (b"a\x1b[5Gb", "a   b"),
        (b"see \x1b]8;;https://example.org/\x1b\\the docs\x1b]8;;\x1b\\.", "see the docs."),
    ],
    ids=lambda value: decode(value)[:20] if isinstance(value, bytes) else "",
)
def test_a_line_is_what_a_terminal_shows(line: bytes, plain: str) -> None:
    assert decode(show_plain(line)) == plain
    assert decode(show_plain(show_styled(line))) == plain


def test_bars_that_go_up_a_line_leave_their_last_picture() -> None:
    # as tqdm draws two, and rich a table that lives
    outer = [b"\router %d%%" % each for each in (0, 50, 100)]
    inner = b"\n\rinner 0%\x1b[A\n\rinner 99%\x1b[A"
    assert show_plain(outer[0] + inner + outer[1] + inner + outer[2]).split(b"\n") == [
        b"outer 0%", b"inner 0%", b"outer 50%", b"inner 0%", b"outer 100%"
    ]  # fmt: skip
    frames = b"one 1\ntwo 1\r\x1b[2K\x1b[1A\x1b[2Kone 2\ntwo 2\n"
    assert show_plain(frames) == b"one 1\none 2\ntwo 2\n"


def test_colours_and_links_stay_and_nothing_else() -> None:
    text = b"\x1b]0;title\x07\x1b[31mred\x1b[1m and bold\x1b[22m not\x1b[39m \x1b]8;id=1;http://x/\x07link\x1b]8;;\x07"
    assert show_styled(text) == (
        b"\x1b[31mred\x1b[0m\x1b[31;1m and bold\x1b[0m\x1b[31m not\x1b[0m "
        b"\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\"
    )


@given(st.lists(lines, max_size=5))
def test_lines_stay_as_many_as_they_are(several: list[bytes]) -> None:
    several = [line.rstrip(b"\r") for line in several]  # before a newline it is a part of that
    text = b"\n".join(several)
    assert decode(show_plain(text)).split("\n") == [decode(show_plain(line)) for line in several or [b""]]
    shown = show_styled(text).split(b"\n")
    assert [draw(line) for line in shown] == [draw(line) for line in several or [b""]]


@given(lines, lines)
def test_a_line_that_was_folded_goes_on_as_it_would_have(begin: bytes, rest: bytes) -> None:
    assert draw(fold(begin) + rest) == draw(begin + rest)
    assert decode(show_plain(fold(begin) + rest)) == decode(show_plain(begin + rest))


def test_a_line_that_never_ends_is_kept_in_little_memory() -> None:
    kept = b""
    for _ in range(100):
        kept = fold(kept + BAR)
        assert len(kept) < 100
    assert show_plain(kept) == show_plain(BAR)


@pytest.mark.parametrize(
    "sequence", [b"\x1b[1<m", b"\x1b[38;5?m", b"\x1b[5>:1m", b"\x1b[38:5<m", b"\x1b[2;=K", b"\x1b[1?C"]
)
def test_a_sequence_of_a_terminals_own_does_nothing(sequence: bytes) -> None:
    assert show_styled(b"be" + sequence + b"fore\rBE") == b"BEfore"


@given(
    st.lists(
        st.tuples(
            st.text("0123456789:;<=>?", max_size=6),
            st.text(" -/", max_size=1),
            st.characters(min_codepoint=0x40, max_codepoint=0x7E),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_any_control_sequence_can_be_read(sequences: list[tuple[str, str, str]], is_drawn: bool) -> None:
    line = "x".join(f"\x1b[{parameters}{more}{final}" for parameters, more, final in sequences).encode()
    line += b"y" + b"\rz" * is_drawn
    for shown in (show_plain(line), show_styled(line), fold(line)):
        assert b"z" in shown if is_drawn else b"y" in shown
    assert draw(fold(line) + b"w") == draw(line + b"w")


LINK = b"\x1b]8;;" + b"x" * terminal.MAX_LINK_LENGTH + b"\x1b\\"
EVERY_OTHER = b"\x1b[Cx"

WORST = {
    "sequences that do not end": b"\x1b[", "commands that do not end": b"\x1b]", "strings": b"\x1bP",
    "parameters": b"\x1b[" + b"0;" * 500, "spaces": b"\x1b[" + b" " * 1000,
    "links": b"\x1b]8;;" + b"x" * 1000,
    "far to the right": b"\x1b[999999999Ca\r", "erased to the left": b"x" * 50 + b"\x1b[1K",
    "erased": b"\x1b[999999Ga\x1b[2K", "styles": b"\x1b[1m\x1b[4m\x1b[31;42mx\x1b[0m",
    "a link in every other column": LINK + b"a" * 3000 + b"\x1b]8;;\x1b\\\r" + EVERY_OTHER * 1500,
    "a style in every other column": b"\x1b[1;3;4;38:2:100:100:100;48:2:100:100:100m" + b"a" * 3000
    + b"\x1b[m\r" + EVERY_OTHER * 1500,
    "links that are drawn over": LINK + b"a" * 100 + b"\x1b]8;;\x1b\\\r",
    "a style that grows": b"\x1b[38:2:" + b"1:" * 60 + b"m\x1b[48:2:" + b"1:" * 60 + b"m"
    + b"\x1b[1mx\x1b[22mx" * 200,
}  # fmt: skip
"""What is repeated until a line is long."""


def make_worst(name: str, size: int) -> bytes:
    """Return a line of this length, made of one of the worst parts, that is drawn: not of colours alone."""
    return (b"\r" + WORST[name] * (size // len(WORST[name]) + 1))[:size]


def count_calls(action: Callable[[], object], *events: str) -> int:
    """Return how many calls of Python an action makes; each moves some hundred characters at most.

    ``events`` are the kinds that count, all if there are none.
    """
    calls = 0

    def trace(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in (events or ("call", "c_call"))

    sys.setprofile(trace)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("worst", WORST)
def test_no_line_takes_more_than_its_length_in_steps(worst: str) -> None:
    def count(size: int) -> int:
        line = make_worst(worst, size)
        return count_calls(lambda: (show_styled(line), fold(line)))

    assert count(2**16) <= 4.5 * count(2**14) + 100


@pytest.mark.parametrize("worst", WORST)
@pytest.mark.parametrize("size", [100, 3000, 62_000])
def test_no_line_shows_much_more_than_was_written(worst: str, size: int) -> None:
    line = make_worst(worst, size)
    shown = len(show_plain(line))
    assert len(show_styled(line)) <= shown + terminal.LOOKS_FACTOR * size + terminal.LOOKS_EXTRA
    assert shown <= min(size * terminal.MAX_GAP // 6, terminal.MAX_COLUMNS)
    kept = fold(line)
    assert len(kept) <= shown + size + 2 * terminal.LOOKS_EXTRA
    again = fold(kept + EVERY_OTHER)  # as of a line that never ends
    assert len(again) <= len(kept) + 2 * terminal.LOOKS_EXTRA


def test_a_link_that_was_drawn_over_is_left_out_before_the_colours_are() -> None:
    text = LINK + b"\x1b[31m" + b"a" * 100 + b"\x1b[m\x1b]8;;\x1b\\\r"
    assert show_styled(text) == LINK + b"\x1b[31m" + b"a" * 100 + b"\x1b]8;;\x1b\\\x1b[0m"
    assert show_styled(text + EVERY_OTHER * 50) == b"\x1b[31ma\x1b[0mx" * 50


def test_a_program_cannot_make_a_short_text_a_long_line() -> None:
    assert len(show_plain(b"\x1b[999999999C\x1b[999999999Ca" * 10)) <= 10 * (terminal.MAX_GAP + 1)


ORDINARY = b"\x1b[32mINFO\x1b[0m text\n" * 1000

FAST = {
    "text and colours beside a bar": ORDINARY + BAR + b"\n" + ORDINARY,
    "lines that only move": b"\b\n\r\b\n" * 1000 + BAR + b"\n",
    "a bar drawn with carriage returns": BAR * 10 + b"\n",
    "a line of backspaces": b"text" + b"\b" * 10_000 + b"\n",
}


@pytest.mark.parametrize("text", FAST)
@pytest.mark.parametrize("show", [show_plain, show_styled])
def test_what_most_logs_have_takes_no_calls_for_each_line_or_redraw(
    text: str, show: Callable[[bytes], bytes]
) -> None:
    assert count_calls(lambda: show(FAST[text]), "call") < 50


def test_a_line_is_shown_in_the_same_way_whatever_is_beside_it() -> None:
    coloured = b"\x1b[31;1mred and\x1b[22m bold"
    assert show_styled(coloured + b"\n50%\r100%\n") == coloured + b"\n100%\n"
    assert show_plain(coloured + b"\n50%\r100%\n") == b"red and bold\n100%\n"


@pytest.mark.slow  # it starts two programs
def test_the_page_shows_the_same(tmp_path: Path) -> None:
    random.seed(7)
    samples = [
        decode(b"".join(random.choice(PARTS) for _ in range(random.randint(1, 14)))) for _ in range(3000)
    ]
    samples += [decode(make_worst(name, 10_000)) for name in WORST]
    ask = bundle(PAGE_FUNCTIONS, tmp_path)
    answers = ask(*(("show", sample) for sample in samples))
    for sample, (shown, folded) in zip(samples, answers, strict=True):
        assert shown.rstrip() == decode(show_plain(sample.encode())).rstrip(), sample[:200]
        assert draw(folded.encode()) == draw(sample.encode()), sample[:200]
        assert len(folded) <= len(shown) + len(sample) + 2 * terminal.LOOKS_EXTRA, sample[:200]
