"""``kbatch-server upgrade-db``: upgrades the database to this version's schema; stop the service before."""

from __future__ import annotations

import asyncio
from typing import Any

from traitlets import List
from traitlets.config import Application

from .. import __version__
from ..app import KBatchServer
from ..settings.commandline import ALIASES, StrictLoader

UPGRADE_ALIASES: dict[Any, Any] = {name: ALIASES[name] for name in ("config", "db", "log-level")}


class UpgradeDB(Application):
    """Upgrade the database to this version's schema, and exit."""

    name = "kbatch-server-upgrade-db"
    version = __version__
    description = __doc__
    aliases: dict[Any, Any] = UPGRADE_ALIASES
    classes: Any = List([KBatchServer])

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> StrictLoader:
        return StrictLoader(argv, aliases, flags, classes=classes, log=self.log)

    def start(self) -> None:
        """Upgrade the database that the service's configuration names."""
        server = KBatchServer(config=self.config)
        server.cli_config = self.cli_config  # which wins over the file, here as there
        server.init_config_file()
        server.init_logging()
        server.init_keyring()
        server.init_store()
        asyncio.run(server.store.upgrade())
