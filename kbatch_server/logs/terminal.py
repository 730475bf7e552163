"""Shows a line of a log as a terminal does: the last state of a progress bar, without escape sequences. Pure.

A line is the text between two newlines, so that its number never changes. Moving the cursor to another line
restarts the line: it then shows what is written after that.

It uses no terminal emulator, such as pyte: their screens wrap long lines and scroll old ones away, and they
draw one character after the other.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from itertools import groupby

MAX_COLUMNS = 256 * 1024
"""The maximum number of characters of a line to keep."""

MAX_GAP = 256
"""The maximum number of columns after the end of a line to which the cursor can move: few terminals are
wider."""

MAX_LINK_LENGTH = 2083
"""The maximum length of a link's target, as in VTE; a longer one is no link."""

_MAX_PARAMETERS_LENGTH = 128
"""The maximum length of the parameters of an escape sequence; a longer one is ignored."""

_MAX_STYLE_LENGTH = 128
"""The maximum length of all parameters of a style together; text with a longer one is shown without style."""

LOOKS_FACTOR, LOOKS_EXTRA = 4, 256
"""The colours and links of a line take at most this many bytes for each byte that was written, and some more.

A program can change the colour or the link of every other column with few bytes, and each change is written
out in full: without a limit, 60 kB become 20 MB."""

_FOLDED_LOOKS = 8
"""The maximum number of bytes of colours and links for each column of a folded line."""

_PRIVATE = re.compile(r"[<=>?]")
"""A sequence with one of these is private (ECMA-48, 5.4.1): its meaning depends on the terminal."""

_COLOUR = re.compile(rb"\x1b\[[0-9;:]*+m")

_ONLY_MOVES = re.compile(rb"^[\r\b]++$", re.MULTILINE)
"""A line that shows nothing: it only moves the cursor."""

_DRAWN = re.compile(rb"^[^\n\r\b\x1b]*+(?:\x1b\[[0-9;:]*+m[^\n\r\b\x1b]*+)*+[\r\b\x1b][^\n]*+", re.MULTILINE)
"""A line that contains more than text and colours. Only such lines must be drawn."""

_MOVES = re.compile(r"([\r\b]++)")

_TOKENS = re.compile(
    r"(\x1b\[[0-?]*+[ -/]*+[@-~]"
    r"|\x1b\][^\x07\x1b]*+(?:\x07|\x1b\\)"
    r"|\x1b[PX^_][^\x1b]*+\x1b\\"
    r"|\x1b(?:\[[0-?]*+[ -/]*+|\][^\x07\x1b]*+\x1b?|[PX^_][^\x1b]*+\x1b?|[ -/]*+)\Z"
    r"|\x1b(?:[ -/]*+[0-~])?)"
)
"""Escape sequences of ECMA-48. Matching each part takes time linear in the length of the text."""

_CUT_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+|\][^\x07\x1b]*+\x1b?|[PX^_][^\x1b]*+\x1b?|[ -/]*+)\Z")
"""One that is incomplete: the last but one of them."""

_CONTROL = re.compile(r"\x1b\[([0-?]*+)[ -/]*+([@-~])")

_COMMAND = re.compile(r"\x1b\]([^\x07\x1b]*+)(?:\x07|\x1b\\)")

_MAX_KNOWN_LENGTH = 32
"""Maximum length of sequences whose meaning is kept: a program uses few, and writes them often."""

_Look = tuple[str, str]
"""The parameters of a colour, and the target of a link; both may be empty."""

_PLAIN: _Look = ("", "")

_Style = tuple[tuple[str, str], ...]
"""Each property that is set, like the colour, with its parameters, in the order in which they were set."""


def has_controls(text: bytes) -> bool:
    """Return whether a text contains anything that a terminal does not show as it stands."""
    return b"\x1b" in text or b"\r" in text or b"\b" in text


def show_plain(lines: bytes) -> bytes:
    """Return whole lines as a terminal shows them, without colours: the same number, or an unfinished one."""
    if not has_controls(lines):
        return lines
    lines = lines.replace(b"\r\n", b"\n")
    if not has_controls(uncoloured := _COLOUR.sub(b"", lines)):
        return uncoloured  # most logs have colours at most, and are searched at the speed of memory
    return _COLOUR.sub(b"", _draw(lines, with_looks=False))


def show_styled(lines: bytes) -> bytes:
    """Return whole lines as a terminal shows them, with colours and links, but no other escape sequences."""
    if not has_controls(lines):
        return lines
    lines = lines.replace(b"\r\n", b"\n")
    if not has_controls(_COLOUR.sub(b"", lines)):
        return lines
    return _draw(lines, with_looks=True)


def fold(line: bytes, *, columns: int = MAX_COLUMNS, with_looks: bool = True) -> bytes:
    """Return a shorter text with the same effect as the beginning of a line, whatever follows it.

    It keeps at most ``columns`` characters: the visible text, the position of the cursor, and the beginning
    of an incomplete character or escape sequence. It keeps colours and links only if ``with_looks``, and if
    they take hardly more bytes than the line had.
    """
    if not has_controls(line):
        return line
    whole = len(line) - _count_cut_off(line)
    screen = _Line(columns)
    rest = screen.write(line[:whole].decode("utf-8", "replace"))
    # hardly more than in the line itself, which is folded repeatedly
    most = min(len(line) + LOOKS_EXTRA, _FOLDED_LOOKS * columns) if with_looks else 0
    return (screen.render(most, is_open=True) + rest).encode() + line[whole:]


def _draw(lines: bytes, *, with_looks: bool) -> bytes:
    """Return the lines as they are seen. Those of text and colours alone stay as they are: that is fast."""
    lines = _ONLY_MOVES.sub(b"", lines)  # fast: no call per line
    return _DRAWN.sub(_show_styled_line if with_looks else _show_plain_line, lines)


def _show_line(found: re.Match[bytes], *, with_looks: bool) -> bytes:
    line = found[0]
    text = line.decode("utf-8", "replace")
    if "\x1b" not in text:
        return _type(text).encode()
    screen = _Line(MAX_COLUMNS, with_looks=with_looks)
    screen.write(text)
    return screen.render(LOOKS_FACTOR * len(line) + LOOKS_EXTRA).encode()


_show_styled_line, _show_plain_line = (
    partial(_show_line, with_looks=True),
    partial(_show_line, with_looks=False),
)


def _type(text: str) -> str:
    """Return a line as it is seen that moves its cursor but has no escape sequence."""
    if "\b" not in text:
        return _lay_over(text.split("\r"))[:MAX_COLUMNS].rstrip(" ")
    screen = _Line(MAX_COLUMNS, with_looks=False)
    screen.type(text)
    return screen.text


def _lay_over(parts: list[str]) -> str:
    """Return what is seen of texts written over one another, each from the first column."""
    shown = parts[-1]
    for part in reversed(parts):
        if len(part) > len(shown):
            shown += part[len(shown) :]
    return shown


def _count_cut_off(line: bytes) -> int:
    """Return the number of bytes at the end that are the beginning of an incomplete character."""
    for count in range(1, min(4, len(line) + 1)):
        byte = line[-count]
        if 0xC2 <= byte <= 0xF4:
            return count if (byte >= 0xF0) + (byte >= 0xE0) + 1 >= count else 0
        if byte < 0x80:
            break
    return 0


class _Line:
    """One line of a screen: characters, the look of each, and a cursor."""

    __slots__ = (
        "_cells", "_column", "_columns", "_has_moved", "_is_elsewhere", "_look", "_looks", "_style",
        "_with_looks",
    )  # fmt: skip

    def __init__(self, columns: int, *, with_looks: bool = True) -> None:
        self._columns = columns
        self._with_looks = with_looks
        self._cells: list[str] = []
        self._looks: list[_Look] | None = None  # None as long as all are plain
        self._column = 0
        self._style: _Style = ()
        self._look = _PLAIN
        self._is_elsewhere = False
        self._has_moved = False

    @property
    def text(self) -> str:
        """The visible text, without colours."""
        text = "".join(self._cells)
        # spaces at the end are how a program wipes out what it wrote before
        return text.rstrip(" ") if self._has_moved else text

    def write(self, text: str) -> str:
        """Take the next part of the line; return the beginning of an incomplete sequence at its end."""
        if "\x1b" not in text:
            self.type(text)
            return ""
        first, *parts = _TOKENS.split(text)
        self.type(first)
        for token, run in zip(parts[::2], parts[1::2], strict=True):
            kind, what, number = _read_known(token) if len(token) <= _MAX_KNOWN_LENGTH else _read(token)
            if kind:
                self._control(kind, what, number)
            if run:
                self.type(run)
        # only the last can be incomplete
        rest = parts[-2] if not parts[-1] and _CUT_SEQUENCE.fullmatch(parts[-2]) else ""
        return rest if len(rest) <= MAX_LINK_LENGTH else ""

    def type(self, text: str) -> None:
        """Take text that has no escape sequence, but may have carriage returns and backspaces."""
        if "\b" in text:
            self._put_all(_MOVES.split(text))
        elif "\r" in text:
            first, *others = text.split("\r")
            self._put(first)
            self._move(0)
            self._put(_lay_over(others))
            self._column = min(len(others[-1]), self._columns)
        else:
            self._put(text)

    def _put_all(self, parts: list[str]) -> None:
        """Take runs of text, with carriage returns and backspaces between each two."""
        self._put(parts[0])
        for moves, run in zip(parts[1::2], parts[2::2], strict=True):
            self._move(0 if "\r" in moves else self._column - len(moves))
            self._put(run)

    def _put(self, run: str) -> None:
        if not run:
            return
        if self._is_elsewhere:
            self._erase(0)
            self._is_elsewhere, self._column = False, 0
        if (gap := self._column - len(self._cells)) > 0:
            self._cells += " " * gap
            if self._looks is not None:
                self._looks += [_PLAIN] * gap
        end = min(self._column + len(run), self._columns)
        self._cells[self._column : end] = run[: end - self._column]
        if self._looks is not None:
            self._looks[self._column : end] = [self._look] * (end - self._column)
        self._column = end

    def _erase(self, start: int) -> None:
        del self._cells[start:]
        if self._looks is not None:
            del self._looks[start:]

    def _move(self, column: int) -> None:
        self._column = min(max(column, 0), len(self._cells) + MAX_GAP, self._columns)
        self._has_moved = True

    def _set_look(self, look: _Look) -> None:
        if self._looks is None:
            if look == _PLAIN or not self._with_looks:
                return
            self._looks = [_PLAIN] * len(self._cells)
        self._look = look

    def _control(self, kind: str, what: str, number: int) -> None:
        if kind == "style":
            if self._with_looks:
                self._style, shown = _restyle(self._style, what)
                self._set_look((shown, self._look[1]))
        elif kind == "erase":
            if not self._is_elsewhere:
                self._has_moved = True
                self._erase(self._column if number == 0 else 0)
        elif kind == "step":
            self._move(self._column + number)
        elif kind == "column":
            self._move(number)
        elif kind == "elsewhere":
            self._is_elsewhere = self._has_moved = True
        elif kind == "link":
            self._set_look((self._look[0], what))

    def render(self, most: int, *, is_open: bool = False) -> str:
        """Return the line with its colours and links; with ``is_open``, in a form that can be continued.

        If links take more than ``most`` characters it omits them, and if necessary colours too.
        """
        if self._looks is None and not is_open:
            return self.text
        looks_of_all = [_PLAIN] * len(self._cells) if self._looks is None else self._looks
        size = len(self._cells)
        if not is_open and self._has_moved:
            while size and self._cells[size - 1] == " " and looks_of_all[size - 1] == _PLAIN:
                size -= 1
        runs = [(look, len(list(group))) for look, group in groupby(looks_of_all[:size])]
        looks = _choose_looks([look for look, _ in runs] + [self._look if is_open else _PLAIN], most)
        # a carriage return at the beginning records that the cursor was moved
        parts = ["\r"] if is_open and self._has_moved else []
        at, before = 0, _PLAIN
        for (_, count), look in zip(runs, looks, strict=False):
            parts += [_change(before, look), *self._cells[at : at + count]]
            at, before = at + count, look
        if is_open and self._is_elsewhere:
            parts.append("\x1b[A")
        elif is_open and self._column != size:
            parts.append(f"\x1b[{self._column + 1}G" if self._column else "\r")
        return "".join([*parts, _change(before, looks[-1])])


_Meaning = tuple[str, str, int]
"""The effect of a sequence, its text, and its number. The first is empty if it does nothing."""


def _read(token: str) -> _Meaning:
    """Return the meaning of an escape sequence."""
    if found := _CONTROL.fullmatch(token):
        parameters, final = found.groups()
        if len(parameters) <= _MAX_PARAMETERS_LENGTH and not _PRIVATE.search(parameters):
            return _read_control(final, parameters)
    elif found := _COMMAND.fullmatch(token):
        # a link is ``8;parameters;target``; others, like a window's title, do nothing
        kind, _, rest = found[1].partition(";")
        if kind == "8":
            target = rest.partition(";")[2]
            return "link", target if len(target) <= MAX_LINK_LENGTH else "", 0
    return "", "", 0


_read_known = lru_cache(512)(_read)


def _read_control(final: str, parameters: str) -> _Meaning:
    if final == "m":
        return "style", parameters, 0
    first = parameters.partition(";")[0]
    number = int(first) if first.isdecimal() else 0
    if final in "ABEFHdf":  # another line, up or down, or any place of the screen
        return "elsewhere", "", 0
    if final in "CDG":
        step = max(number, 1)
        return ("column", "", step - 1) if final == "G" else ("step", "", step if final == "C" else -step)
    if final in "JK" and number != 1:
        # not 1 (erase up to the cursor), which would take time for each character every time
        return "erase", "", number
    return "", "", 0


def _choose_looks(looks: list[_Look], most: int) -> list[_Look]:
    """Return the looks of a line's runs: without links, or even colours, if they take more than ``most``."""
    for links in (True, False):
        chosen = looks if links else [(style, "") for style, _ in looks]
        if sum(map(_measure_change, [_PLAIN, *chosen], chosen)) <= most:
            return chosen
    return [_PLAIN] * len(looks)


def _measure_change(before: _Look, after: _Look) -> int:
    """Return the length of ``_change``, or a few characters more."""
    link = len(after[1]) + 7 if before[1] != after[1] else 0
    return link if before[0] == after[0] else link + len(after[0]) + 7


def _change(before: _Look, after: _Look) -> str:
    """Return the escape sequences that change one look into another."""
    link = f"\x1b]8;;{after[1]}\x1b\\" if before[1] != after[1] else ""
    if before[0] == after[0]:
        return link
    return link + ("\x1b[0m" if before[0] else "") + (f"\x1b[{after[0]}m" if after[0] else "")


@lru_cache(512)  # a program uses few, and writes them often
def _restyle(before: _Style, parameters: str) -> tuple[_Style, str]:
    """Return the style after a sequence, and its parameters, which are empty if they are too long."""
    style = dict(before)
    _change_style(style, parameters)
    shown = ";".join(style.values())
    return tuple(style.items()), shown if len(shown) <= _MAX_STYLE_LENGTH else ""


def _change_style(style: dict[str, str], parameters: str) -> None:
    """Apply the parameters of a sequence to a style, which has one parameter for each attribute."""
    codes = parameters.split(";")
    while codes:
        code = codes.pop(0)
        number = int(code) if code.isdecimal() else 0 if not code else int(code.partition(":")[0] or 0)
        if number == 0:
            style.clear()
        elif number in (38, 48, 58):
            if ":" not in code:
                count = {"5": 2, "2": 4}.get(codes[0] if codes else "", 0)
                code = ";".join([code, *codes[:count]])
                del codes[:count]
            style[{38: "fg", 48: "bg", 58: "line"}[number]] = code
        elif number < 10:
            style[str(number)] = code
        elif number in (21, 22):
            style.pop("1", None)
            style.pop("2", None)
        elif 23 <= number <= 29:
            style.pop(str(number - 20), None)
        elif 30 <= number <= 37 or 90 <= number <= 97:
            style["fg"] = code
        elif 40 <= number <= 47 or 100 <= number <= 107:
            style["bg"] = code
        elif number in (39, 49, 59):
            style.pop({39: "fg", 49: "bg", 59: "line"}[number], None)
