"""What became of the jobs that were accepted during each fault: a row for each, printed as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

HEADS = ("fault", "accepted", "ended right", "lost", "doubled", "leftovers", "what /ready said")


@dataclass
class Row:
    """One fault; the lists say what was wrong, each in a few words."""

    fault: str
    accepted: int = 0
    right: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        counts = (self.accepted, self.right, len(self.lost), len(self.doubled), len(self.leftovers))
        return (self.fault, *map(str, counts), self.said)

    @property
    def problems(self) -> list[str]:
        """What is wrong with it: a fault during which no job was accepted shows nothing."""
        found = [f"{self.fault}: {each}" for each in (*self.lost, *self.doubled, *self.leftovers)]
        return found if self.accepted else [*found, f"{self.fault}: no job was accepted"]


def make_table(rows: Iterable[Row]) -> str:
    """Return the table as text."""
    lines = [HEADS, *(row.cells for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, len(HEADS) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def check(rows: list[Row]) -> None:
    """Print the table, and fail on anything but zeros."""
    print("\n" + make_table(rows))
    problems = [each for row in rows for each in row.problems]
    assert not problems, "\n".join(problems)
