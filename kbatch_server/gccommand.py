"""``kbatch-server gc``: removes what was kept for long enough, or only says what would go."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from typing import Any

from traitlets import Bool, List
from traitlets.config import Application, Config

from . import __version__
from .app import KBatchServer
from .commandline import ALIASES, StrictLoader
from .retention import Removal, Retention

_ALIASES: dict[Any, Any] = {name: ALIASES[name] for name in ("config", "db", "storage", "log-level")}
_FLAGS: dict[Any, Any] = {
    "dry-run": ({"CollectGarbage": {"dry_run": True}}, "Print what would go, and remove nothing.")
}


class CollectGarbage(Application):
    """Remove uploads, logs, results and records that were kept for long enough, and what no record names.

    The running service does the same from time to time; both may run at once.
    """

    name = "kbatch-server-gc"
    version = __version__
    description = __doc__
    aliases: dict[Any, Any] = _ALIASES
    flags: dict[Any, Any] = _FLAGS
    classes: Any = List([KBatchServer, Retention])

    dry_run = Bool(False, help="""Print what would go, and remove nothing.""", config=True)

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> StrictLoader:
        return StrictLoader(argv, aliases, flags, classes=classes, log=self.log)

    def start(self) -> None:
        """Work on the database and the storage that the service's configuration names."""
        own = type(self).__name__
        server = KBatchServer(config=Config({key: self.config[key] for key in self.config if key != own}))
        # which wins over the file, here as there
        server.cli_config = Config({key: self.cli_config[key] for key in self.cli_config if key != own})
        server.init_config_file()
        server.init_logging()
        server.init_keyring()
        server.init_storage()
        server.init_store()
        server.init_jobs()
        asyncio.run(self._collect(server))

    async def _collect(self, server: KBatchServer) -> None:
        async with AsyncExitStack() as running:
            await server.storage.open()
            running.push_async_callback(server.storage.close)
            await server.store.open()
            running.push_async_callback(server.store.close)
            count = size = 0
            async with aclosing(server.engine.retention.find(with_orphans=True)) as removals:
                async for removal in removals:
                    if self.dry_run or await server.engine.retention.remove(removal):
                        print(format_removal(removal))
                        count, size = count + 1, size + removal.size
            if not self.dry_run:
                await server.engine.retention.trim_audit()
        done = "would be removed" if self.dry_run else "removed"
        print(f"{count} {done}, {format_size(size)}")


def format_removal(removal: Removal) -> str:
    """Return a line for one thing that goes."""
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
