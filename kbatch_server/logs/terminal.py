"""Shows a line of a log as a terminal does: the last state of a progress bar, without escape sequences. Pure.

A line is the text between two newlines, so that its number never changes. Moving the cursor to another line
restarts the line: it then shows what is written after that.
"""

from __future__ import annotations

import re
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

_TOKEN = re.compile(
    r"(?P<move>[\r\b])"
    r"|\x1b\[(?P<parameters>[0-?]*+)[ -/]*+(?P<final>[@-~])"
    r"|\x1b\](?P<command>[^\x07\x1b]*+)(?:\x07|\x1b\\)"
    r"|\x1b[PX^_][^\x1b]*+\x1b\\"
    r"|(?P<rest>\x1b(?:\[[0-?]*+[ -/]*+|\][^\x07\x1b]*+\x1b?|[PX^_][^\x1b]*+\x1b?|[ -/]*+)\Z)"
    r"|\x1b(?:[ -/]*+[0-~])?"
)
"""Escape sequences of ECMA-48. Matching each part takes time linear in the length of the text."""

_Look = tuple[str, str]
"""The parameters of a colour, and the target of a link; both may be empty."""

_PLAIN: _Look = ("", "")


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
    return b"\n".join([_show(line, with_looks=False) for line in lines.split(b"\n")])


def show_styled(lines: bytes) -> bytes:
    """Return whole lines as a terminal shows them, with colours and links, but no other escape sequences."""
    if not has_controls(lines):
        return lines
    lines = lines.replace(b"\r\n", b"\n")
    if not has_controls(_COLOUR.sub(b"", lines)):
        return lines
    return b"\n".join([_show(line, with_looks=True) for line in lines.split(b"\n")])


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


def _show(line: bytes, *, with_looks: bool) -> bytes:
    if not has_controls(line):
        return line
    screen = _Line(MAX_COLUMNS)
    screen.write(line.decode("utf-8", "replace"))
    most = LOOKS_FACTOR * len(line) + LOOKS_EXTRA
    return (screen.render(most) if with_looks else screen.text).encode()


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

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._cells: list[str] = []
        self._looks: list[_Look] = []
        self._column = 0
        self._style: dict[str, str] = {}
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
        at = 0
        for token in _TOKEN.finditer(text):
            self._put(text[at : token.start()])
            at = token.end()
            if token["rest"] is not None:
                return token["rest"] if len(token["rest"]) <= MAX_LINK_LENGTH else ""
            if token["move"]:
                self._move(0 if token["move"] == "\r" else self._column - 1)
            elif token["final"]:
                self._control(token["final"], token["parameters"])
            elif token["command"]:
                self._link(token["command"])
        self._put(text[at:])
        return ""

    def _put(self, run: str) -> None:
        if not run:
            return
        if self._is_elsewhere:
            self._erase(0)
            self._is_elsewhere, self._column = False, 0
        if (gap := self._column - len(self._cells)) > 0:
            self._cells += " " * gap
            self._looks += [_PLAIN] * gap
        end = min(self._column + len(run), self._columns)
        self._cells[self._column : end] = run[: end - self._column]
        self._looks[self._column : end] = [self._look] * (end - self._column)
        self._column = end

    def _erase(self, start: int) -> None:
        del self._cells[start:], self._looks[start:]

    def _move(self, column: int) -> None:
        self._column = min(max(column, 0), len(self._cells) + MAX_GAP, self._columns)
        self._has_moved = True

    def _control(self, final: str, parameters: str) -> None:
        if len(parameters) > _MAX_PARAMETERS_LENGTH or _PRIVATE.search(parameters):
            return
        if final == "m":
            _restyle(self._style, parameters)
            style = ";".join(self._style.values())
            self._look = (style if len(style) <= _MAX_STYLE_LENGTH else "", self._look[1])
            return
        first = parameters.partition(";")[0]
        number = int(first) if first.isdecimal() else 0
        if final in "ABEFHdf":  # another line, up or down, or any place of the screen
            self._is_elsewhere = self._has_moved = True
        elif final in "CDG":
            step = max(number, 1)
            self._move({"C": self._column + step, "D": self._column - step, "G": step - 1}[final])
        elif final in "JK" and number != 1 and not self._is_elsewhere:
            # not 1 (erase up to the cursor), which would take time for each character every time
            self._has_moved = True
            self._erase(self._column if number == 0 else 0)

    def _link(self, command: str) -> None:
        """Begin or end a link: ``8;parameters;target``. Other commands, like a window's title, do nothing."""
        kind, _, rest = command.partition(";")
        target = rest.partition(";")[2]
        if kind == "8":
            self._look = (self._look[0], target if len(target) <= MAX_LINK_LENGTH else "")

    def render(self, most: int, *, is_open: bool = False) -> str:
        """Return the line with its colours and links; with ``is_open``, in a form that can be continued.

        If links take more than ``most`` characters it omits them, and if necessary colours too.
        """
        size = len(self._cells)
        if not is_open and self._has_moved:
            while size and self._cells[size - 1] == " " and self._looks[size - 1] == _PLAIN:
                size -= 1
        runs = [(look, sum(1 for _ in group)) for look, group in groupby(self._looks[:size])]
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


def _restyle(style: dict[str, str], parameters: str) -> None:
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
