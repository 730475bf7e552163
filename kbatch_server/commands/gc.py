"""``kbatch-server gc``: removes expired data, or only lists it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, aclosing
from typing import Any, Self

from rich.console import Console
from rich.table import Column, Table
from traitlets import Bool, List
from traitlets.config import Application

from .. import __version__
from ..app import KBatchServer
from ..engine.retention import Removal, Retention
from ..settings.commandline import ALIASES, StrictLoader

_ALIASES: dict[Any, Any] = {name: ALIASES[name] for name in ("config", "db", "storage", "log-level")}
_FLAGS: dict[Any, Any] = {
    "dry-run": (
        {"CollectGarbage": {"dry_run": True}},
        "Print what would be removed, without removing anything.",
    )
}


class CollectGarbage(Application):
    """Remove expired uploads, logs, results and records, and objects that no record names.

    The running service does the same from time to time; both may run at the same time.
    """

    name = "kbatch-server-gc"
    version = __version__
    description = __doc__
    aliases: dict[Any, Any] = _ALIASES
    flags: dict[Any, Any] = _FLAGS
    classes: Any = List([KBatchServer, Retention])

    dry_run = Bool(
        False, help="""Print what the command would remove, without removing anything.""", config=True
    )

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> StrictLoader:
        return StrictLoader(argv, aliases, flags, classes=classes, log=self.log)

    def start(self) -> None:
        """Work on the database and the storage that the service's configuration names."""
        asyncio.run(self._collect(KBatchServer.make_for(self)))

    async def _collect(self, server: KBatchServer) -> None:
        async with AsyncExitStack() as running:
            await server.storage.open()
            running.push_async_callback(server.storage.close)
            await server.store.open()
            running.push_async_callback(server.store.close)
            with RemovalReport("would be removed" if self.dry_run else "removed") as report:
                async with aclosing(server.engine.retention.find(with_orphans=True)) as removals:
                    async for removal in removals:
                        if self.dry_run or await server.engine.retention.remove(removal):
                            report.add(removal)
            if not self.dry_run:
                await server.engine.retention.trim_audit()


class RemovalReport:
    """Prints a line for each removal; in a terminal also the progress, and at the end a table by kind."""

    def __init__(self, done: str) -> None:
        """``done`` is the word for what happened, like ``removed``."""
        self._done = done
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._console = Console(highlight=False)
        self._status = self._console.status("Searching…")  # which shows nothing where there is no terminal

    def __enter__(self) -> Self:
        self._status.__enter__()
        return self

    def add(self, removal: Removal) -> None:
        """Print one removal."""
        self._counts[removal.kind] += 1
        self._sizes[removal.kind] += removal.size
        self._console.print(format_removal(removal), markup=False, soft_wrap=True)
        self._status.update(self._sum_up())

    def __exit__(self, *error: object) -> None:
        self._status.__exit__(None, None, None)
        if self._console.is_terminal and self._counts:
            self._console.print(self._make_table())
        self._console.print(self._sum_up(), soft_wrap=True)

    def _sum_up(self) -> str:
        return f"{self._counts.total()} {self._done}, {format_size(self._sizes.total())}"

    def _make_table(self) -> Table:
        table = Table("kind", Column(self._done, justify="right"), Column("size", justify="right"))
        for kind, count in sorted(self._counts.items()):
            table.add_row(kind, str(count), format_size(self._sizes[kind]))
        return table


def format_removal(removal: Removal) -> str:
    """Return a line for one removal."""
    return (
        f"{removal.kind:8} {removal.name:52} {removal.user or '-':16} {format_size(removal.size):>9}  "
        f"{removal.why}"
    )


def format_size(size: float) -> str:
    """Return bytes in the largest unit that leaves a whole number, like ``12.3 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
