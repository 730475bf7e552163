"""The command line: the short names of settings, the flags, the subcommands."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn

from traitlets.config.loader import KVArgParseConfigLoader

from .checks import WrongSetting

CONFIG_FILE = "kbatch_server_config.py"

ALIASES: dict[Any, Any] = {
    "config": "KBatchServer.config_file",
    "db": "KBatchServer.db_url",
    "launcher": "KBatchServer.launcher_class",
    "storage": "KBatchServer.storage_class",
    "url": "KBatchServer.bind_url",
    "log-level": "KBatchServer.log_level",
}

FLAGS: dict[Any, Any] = {
    "debug": ({"KBatchServer": {"log_level": logging.DEBUG}}, "Log debug messages."),
    "log-json": ({"KBatchServer": {"log_json": True}}, "Log one JSON object a line."),
    "generate-config": (
        {"KBatchServer": {"generate_config": True}},
        f"Write a commented {CONFIG_FILE} and exit; an existing file is not changed.",
    ),
}

SUBCOMMANDS: dict[str, Any] = {
    "upgrade-db": (
        "kbatch_server.commands.upgrade_db.UpgradeDB",
        "Upgrade the database to this version's schema.",
    ),
    "gc": (
        "kbatch_server.commands.gc.CollectGarbage",
        "Remove expired jobs, logs, results and uploads; --dry-run prints them.",
    ),
    "forget-user": (
        "kbatch_server.commands.forget_user.ForgetUser",
        "Forget users who were deleted from the hub, with their jobs and uploads.",
    ),
}


class StrictLoader(KVArgParseConfigLoader):
    """Reads the command line; raises for unknown options, where traitlets warns or prints its usage."""

    def _create_parser(self) -> None:
        super()._create_parser()
        self.parser.error = self._refuse  # type: ignore[method-assign]

    def _handle_unrecognized_alias(self, arg: str) -> NoReturn:
        raise WrongSetting(f"--{arg}: unknown option; kbatch-server --help-all lists all options")

    @staticmethod
    def _refuse(message: str) -> NoReturn:
        raise WrongSetting(message)


def write_config_file(name: str, content: str) -> None:
    """Write a configuration file with each trait and its default; raises WrongSetting if the file exists."""
    path = Path(name)
    try:
        with path.open("x") as file:
            file.write(content)
    except FileExistsError:
        raise WrongSetting(f"KBatchServer.config_file: {path} already exists; it was not changed") from None
    print(f"Wrote {path}.")
