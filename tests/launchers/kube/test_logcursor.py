"""Where in a container's log a reader is, through broken connections: each byte once."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest

from kbatch_server.launchers.kube.logcursor import GAP, LogCursor, find_moment

START = 1_900_000_000


def stamp(moment: float) -> bytes:
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return f"{text}000Z ".encode()


def take_all(cursor: LogCursor, chunks: list[bytes]) -> bytes:
    return b"".join(piece.data for chunk in chunks for piece in cursor.take(chunk))


class Kubelet:
    """Answers as the kubelet does: the lines from a second on, each with its timestamp."""

    def __init__(self, lines: list[tuple[float, bytes]]) -> None:
        self.lines = lines

    def answer(self, cursor: LogCursor) -> bytes:
        since = 0.0 if cursor.is_at_start else datetime.fromisoformat(cursor.since).timestamp()
        return b"".join(stamp(moment) + line for moment, line in self.lines if moment >= since)


@pytest.mark.parametrize("seed", range(200))
def test_each_byte_is_given_once_wherever_it_breaks_and_whoever_goes_on(seed: int) -> None:
    rnd = random.Random(seed)
    moment, lines = float(START), []
    for number in range(rnd.randrange(1, 60)):
        moment += rnd.choice([0, 0, 0.001, 0.1, 0.7, 2.5])
        # stdout and stderr are stamped apart: some lines are a little late
        late = rnd.choice([0, 0, 0, 0.3])
        lines.append((round(moment - late, 3), b"%d " % number + b"x" * rnd.randrange(0, 30) + b"\n"))
    if rnd.random() < 0.5:
        lines[-1] = (lines[-1][0], lines[-1][1].rstrip(b"\n") or b"x")
    kubelet, cursor, got = Kubelet(lines), LogCursor(), b""
    for breaks in range(12):
        cursor.rewind()
        answer = kubelet.answer(cursor)
        end = len(answer) if breaks == 11 else rnd.randrange(len(answer) + 1)
        at = 0
        while at < end:
            until = min(at + rnd.choice([1, 5, 40, 1000]), end)
            for piece in cursor.take(answer[at:until]):
                got += piece.data
                position = json.dumps(piece.position)
            at = until
        if got and rnd.random() < 0.5:  # a service that was killed goes on from a cursor on record
            cursor = LogCursor(json.loads(position))
    assert got == b"".join(line for _, line in lines)


def test_every_position_of_a_piece_is_one_to_go_on_from() -> None:
    lines = [(START + n / 3, b"line %d\n" % n) for n in range(30)]
    kubelet, first = Kubelet(lines), LogCursor()
    whole = kubelet.answer(first)
    pieces = [piece for at in range(0, len(whole), 17) for piece in first.take(whole[at : at + 17])]
    text = b"".join(line for _, line in lines)
    done = 0
    for piece in pieces:
        done += len(piece.data)
        cursor = LogCursor(json.loads(json.dumps(piece.position)))
        assert take_all(cursor, [kubelet.answer(cursor)]) == text[done:]


def test_pieces_know_their_second() -> None:
    lines = [(START + n // 10, b"line\n") for n in range(50)]
    cursor = LogCursor()
    pieces = list(cursor.take(Kubelet(lines).answer(cursor)))
    assert {piece.second for piece in pieces} == {START + n for n in range(5)}
    assert len(pieces) <= 6
    zone = stamp(START + 3600)[:-2] + b"+01:00 "
    [piece] = LogCursor().take(zone + b"x\n")
    assert piece.second == START


def test_the_rest_of_a_long_line_from_before_is_passed_over() -> None:
    cursor = LogCursor()
    assert take_all(cursor, [stamp(START) + b"one\n"]) == b"one\n"
    cursor.rewind()
    again = b"the end of a long line\n" + stamp(START) + b"one\n" + stamp(START + 1) + b"two\n"
    assert take_all(cursor, [again]) == b"two\n"


def test_lines_that_the_kubelet_has_no_more_are_said_to_be_missing() -> None:
    cursor = LogCursor()
    take_all(cursor, [stamp(START) + b"one\n", stamp(START) + b"two\n"])
    cursor.rewind()
    assert take_all(cursor, [stamp(START + 60) + b"much later\n"]) == GAP + b"much later\n"


@pytest.mark.parametrize("is_new", [True, False])
def test_what_is_said_to_be_missing_is_said_on_a_line_of_its_own(is_new: bool) -> None:
    """The runtime cuts a line where a node rotates the log, and begins the next file with its rest."""
    cursor = LogCursor()
    [*_, last] = cursor.take(stamp(START) + b"one\n" + stamp(START) + b"tw")
    if is_new:
        cursor = LogCursor(json.loads(json.dumps(last.position)))
    else:
        cursor.rewind()
    assert take_all(cursor, [stamp(START + 60) + b"later\n"]) == b"\n" + GAP + b"later\n"


def test_a_line_that_was_cut_where_the_log_was_rotated_is_one_line() -> None:
    cursor = LogCursor()
    assert take_all(cursor, [stamp(START) + b"on"]) == b"on"
    cursor.rewind(was_read_up=True)
    assert take_all(cursor, [stamp(START + 0.1) + b"e\n"]) == b"e\n"


@pytest.mark.parametrize("seed", range(50))
def test_no_line_of_a_later_file_is_taken_for_one_that_is_known(seed: int) -> None:
    rnd = random.Random(seed)
    moment, lines = float(START), []
    for number in range(rnd.randrange(2, 60)):
        moment += rnd.choice([0.001, 0.001, 0.1, 0.7])
        lines.append((round(moment, 3), b"%d\n" % number))
    first = rnd.randrange(1, len(lines))
    cursor = LogCursor()
    *_, last = cursor.take(Kubelet(lines[:first]).answer(cursor))
    if rnd.random() < 0.5:
        cursor = LogCursor(json.loads(json.dumps(last.position)))
    is_read_up = rnd.random() < 0.5
    cursor.rewind(was_read_up=is_read_up)
    got = take_all(cursor, [Kubelet(lines[first:]).answer(cursor)])
    assert got == (b"" if is_read_up else GAP) + b"".join(line for _, line in lines[first:])


def test_a_file_that_was_read_up_is_followed_by_the_next_if_that_began_soon() -> None:
    cursor = LogCursor()
    take_all(cursor, [stamp(START) + b"one\n"])
    cursor.rewind(was_read_up=True)
    cursor.rewind()  # of that connection nobody knows how far it came
    assert take_all(cursor, [stamp(START + 1) + b"two\n"]) == GAP + b"two\n"
    for later, lead in ((2.9, b""), (5, GAP)):
        cursor.rewind(was_read_up=True)
        assert take_all(cursor, [stamp(START + later) + b"three\n"]) == lead + b"three\n"


@pytest.mark.parametrize("size", [1, 10, 50, 1000])
def test_nothing_is_taken_from_the_moment_on_at_which_it_is_told_to_stop(size: int) -> None:
    cursor = LogCursor()
    answer = b"".join(stamp(START + part / 10) + b"%d\n" % part for part in (1, 2, 4, 1, 2, 5))
    later = find_moment(stamp(START + 0.3) + b"of another file")
    assert later is not None
    cursor.stop_at(later)
    assert take_all(cursor, [answer[at : at + size] for at in range(0, len(answer), size)]) == b"1\n2\n"
    assert cursor.is_stopped
    cursor.rewind()
    assert take_all(cursor, [answer[:120]]) == b"4\n"
    assert not cursor.is_stopped


def test_the_moment_of_a_log_is_that_of_its_first_line() -> None:
    line = stamp(START + 0.5) + b"text"
    assert find_moment(line) == (START, "500000000")
    assert find_moment(line[:40]) == (START, "500000000")
    for log in (b"", line[:20], b"unable to retrieve container logs", b" " + line):
        assert find_moment(log) is None


def test_a_place_on_record_without_a_fraction_is_known_by_its_second() -> None:
    cursor = LogCursor({"counts": [[START, 2]], "given": 4})
    answer = [stamp(START + part / 10) + b"%d\n" % part for part in (1, 2, 3)]
    assert take_all(cursor, answer) == b"3\n"


def test_the_word_of_a_kubelet_that_has_no_log_is_no_log() -> None:
    cursor = LogCursor()
    assert take_all(cursor, [b"unable to retrieve container logs for containerd://1\n"]) == b""
    assert cursor.is_at_start
    assert cursor.is_refused
    cursor.rewind()
    assert take_all(cursor, [stamp(START) + b"one\n"]) == b"one\n"
    assert not cursor.is_refused


def test_the_same_word_after_some_lines_is_no_end_and_the_rest_of_a_long_line_is_no_such_word() -> None:
    cursor = LogCursor()
    take_all(cursor, [stamp(START) + b"one\n"])
    assert not cursor.is_refused
    cursor.rewind()
    assert take_all(cursor, [b"unable to retrieve container logs for containerd://1\n"]) == b""
    assert cursor.is_refused
    cursor.rewind()
    assert (
        take_all(cursor, [b"the rest of a line\n", stamp(START) + b"one\n", stamp(START) + b"two\n"])
        == b"two\n"
    )
    assert not cursor.is_refused


def test_lines_of_one_second_that_come_at_once_are_handed_on_as_one_piece() -> None:
    """Each piece costs about as much as a thousand lines do."""
    line = stamp(START) + b"x" * 99 + b"\n"
    lines = 2**16 // len(line)
    cursor = LogCursor()
    list(cursor.take(line))
    for _ in range(16):
        assert [len(piece.data) for piece in cursor.take(line * lines)] == [lines * 100]
