"""The service as a program: reads its configuration, builds its parts, starts and stops them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

from jupyterhub.services.auth import HubOAuth
from jupyterhub.traitlets import EntryPointType
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application as WebApplication
from traitlets import Bool, Dict, Integer, List, TraitError, Unicode, default, observe, validate
from traitlets.config import Application, ConfigFileNotFound, Configurable

from . import __version__
from .auth import HubAuthenticator
from .config import JobConfig
from .configcheck import WrongSetting, check_config
from .handlers import make_handlers
from .handlers.base import Services
from .janitor import Janitor
from .jobs import Jobs
from .keyring import BadKey, Keyring
from .launchers.base import JobLauncher
from .launchpad import Launchpad
from .log import log_request, make_formatter
from .profiles import Profiles
from .reconciler import Reconciler
from .settings import SettingsNotFound, get_storage_name, load_settings
from .storage.base import Storage, StorageError
from .store import JobStore, StoreError
from .uploads import Uploads

CONFIG_FILE = "kbatch_server_config.py"

ALIASES = {
    "config": "KBatchServer.config_file",
    "db": "KBatchServer.db_url",
    "launcher": "KBatchServer.launcher_class",
    "storage": "KBatchServer.storage_class",
    "url": "KBatchServer.bind_url",
    "log-level": "KBatchServer.log_level",
}


class KBatchServer(Application):
    """A JupyterHub service that runs the code of the hub's users as batch jobs."""

    name = "kbatch-server"
    version = __version__
    description = __doc__
    examples = """
    kbatch-server --generate-config          # write a commented kbatch_server_config.py
    kbatch-server --config kbatch_server_config.py
    kbatch-server --launcher=local --db=sqlite:///jobs.sqlite
    kbatch-server upgrade-db
    """
    aliases: ClassVar[dict[Any, Any]] = ALIASES
    flags: ClassVar[dict[Any, Any]] = {
        "debug": ({"KBatchServer": {"log_level": logging.DEBUG}}, "Log what happens in detail."),
        "generate-config": (
            {"KBatchServer": {"generate_config": True}},
            f"Write a commented {CONFIG_FILE} and exit; an existing file is left alone.",
        ),
    }
    subcommands: ClassVar[dict[str, Any]] = {
        "upgrade-db": ("kbatch_server.app.UpgradeDB", "Bring the database up to this version's schema.")
    }

    config_file = Unicode(
        CONFIG_FILE,
        help="""The configuration file (Python, ``c = get_config()``). One that is named must be there.""",
        config=True,
    )

    generate_config = Bool(False, help="""Write a commented configuration file and exit.""", config=True)

    bind_url = Unicode(
        help="""Where to listen, like ``http://127.0.0.1:8050``. Port 0 takes a free one.

        Default: JUPYTERHUB_SERVICE_URL, which the hub sets, else ``http://127.0.0.1:8050``.
        """,
        config=True,
    )

    @default("bind_url")
    def _default_bind_url(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_URL") or "http://127.0.0.1:8050"

    @validate("bind_url")
    def _validate_bind_url(self, proposal: Any) -> str:
        url = urlparse(proposal["value"])
        if url.scheme != "http" or not url.hostname or url.port is None:
            raise TraitError(f"KBatchServer.bind_url is {proposal['value']!r}, it must be like http://HOST:PORT")
        return str(proposal["value"])

    service_prefix = Unicode(
        help="""The path under which the hub's proxy routes to this service, like ``/services/kbatch/``.

        Default: JUPYTERHUB_SERVICE_PREFIX, which the hub sets, else ``/``.
        """,
        config=True,
    )

    @default("service_prefix")
    def _default_service_prefix(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/"

    @validate("service_prefix")
    def _validate_service_prefix(self, proposal: Any) -> str:
        path = proposal["value"].strip("/")
        return f"/{path}/" if path else "/"

    launcher_class = EntryPointType(
        "kbatch_server.launchers.kube.KubeJobLauncher",
        klass=JobLauncher,
        entry_point_group="kbatch_server.launchers",
        help="""What runs the jobs: a subclass of JobLauncher, by class or by the name of an entry point.""",
        config=True,
    )

    storage_class = EntryPointType(
        klass=Storage,
        entry_point_group="kbatch_server.storages",
        help="""What keeps the code: a subclass of Storage, by class or by the name of an entry point.

        Default: DEFAULT_FILE_STORAGE, else ``file``.
        """,
        config=True,
    )

    @default("storage_class")
    def _default_storage_class(self) -> str:
        return get_storage_name()

    db_url = Unicode(
        "sqlite:///kbatch-server.sqlite",
        help="""The database of jobs, as an SQLAlchemy URL: ``sqlite:///PATH`` (four slashes: absolute).""",
        config=True,
    )

    upgrade_db_on_start = Bool(
        True,
        help="""Whether a database with an older schema is brought up to date at the start. Otherwise the start
        is refused until ``kbatch-server upgrade-db`` was run.""",
        config=True,
    )

    key_file = Unicode(
        "kbatch-server.keys",
        help="""The file with the keys that secrets are sealed with, one a line, the newest first.

        It is made if it is not there. KBATCH_KEYS in the environment (keys with spaces between) is used
        instead where it is set. Without the keys, the environments of the jobs cannot be read again.
        """,
        config=True,
    )

    max_body_bytes = Integer(
        16 * 1024**2,
        min=1024**2,
        help="""Bytes of a request's JSON at most. Code is not JSON: ``Uploads.max_upload_bytes``.""",
        config=True,
    )

    shutdown_seconds = Integer(
        10, min=0, help="""Seconds that requests get to end when the service is stopped.""", config=True
    )

    tornado_settings = Dict(help="""Other settings of the Tornado application.""", config=True)

    classes: ClassVar[Any] = List()

    @default("classes")
    def _default_classes(self) -> list[type[Configurable]]:
        return [
            HubAuthenticator,
            HubOAuth,
            JobConfig,
            Profiles,
            Uploads,
            Launchpad,
            Reconciler,
            Janitor,
            *self._installed("launcher_class"),
            *self._installed("storage_class"),
        ]

    @default("log_level")
    def _default_log_level(self) -> int:
        return logging.INFO

    @observe("launcher_class", "storage_class")
    def _add_class(self, change: Any) -> None:
        """Let the traits of a class of the admin's own be set as well."""
        if change["new"] not in self.classes:
            self.classes = [*self.classes, change["new"]]

    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the configuration and build the parts, in the order in which they need each other."""
        load_settings()
        self.parse_command_line(argv)
        if self.generate_config or isinstance(self.subapp, Application):
            return
        self.init_config_file()
        self.init_logging()
        self.init_keyring()
        self.init_storage()
        self.init_store()
        self.init_jobs()
        self.init_auth()
        self.init_web()

    def init_config_file(self) -> None:
        """Load the configuration file, and refuse what it says of traits that there are not."""
        path = Path(self.config_file)
        if path.is_file():
            self.load_config_file(path.name, path=str(path.absolute().parent))
        elif self.config_file != CONFIG_FILE:
            raise WrongSetting(f"KBatchServer.config_file: there is no file {self.config_file!r}")
        check_config(self.config, [type(self), *self.classes, self.launcher_class, self.storage_class])

    def init_logging(self) -> None:
        """Log in our format, and what Tornado and our libraries log as well."""
        for handler in self.log.handlers:
            handler.setFormatter(make_formatter())
        self.log.propagate = False
        for name in ("tornado.access", "tornado.application", "tornado.general", "kbatch_server"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = self.log.handlers, False
            logger.setLevel(self.log.level)

    def init_keyring(self) -> None:
        """Read the keys from the environment or from their file."""
        keys = os.environ.get("KBATCH_KEYS", "").split()
        try:
            self.keyring = Keyring(keys) if keys else Keyring.from_file(Path(self.key_file))
        except (BadKey, OSError) as error:
            raise WrongSetting(f"KBATCH_KEYS or KBatchServer.key_file: {error}") from error

    def init_storage(self) -> None:
        """Make the storage."""
        self.storage = self.storage_class(parent=self)

    def init_store(self) -> None:
        """Make the store of jobs and uploads."""
        self.store = JobStore(self.db_url, self.keyring, log=self.log, auto_upgrade=self.upgrade_db_on_start)
        self.uploads = Uploads(parent=self, storage=self.storage, store=self.store)

    def init_jobs(self) -> None:
        """Make what jobs are described, launched, watched and asked about with."""
        self.profiles = Profiles(parent=self)
        self.launcher = self.launcher_class(parent=self)
        if self.launcher.has_trait("storage"):
            self.launcher.storage = self.storage
        self.launchpad = Launchpad(
            parent=self, keyring=self.keyring, profiles=self.profiles, storage=self.storage, store=self.store
        )
        self.reconciler = Reconciler(
            parent=self, launcher=self.launcher, launchpad=self.launchpad, store=self.store
        )
        self.jobs = Jobs(
            parent=self,
            launcher=self.launcher,
            profiles=self.profiles,
            store=self.store,
            on_change=self.reconciler.queue.put,
        )
        self.janitor = Janitor(parent=self, uploads=self.uploads)

    def init_auth(self) -> None:
        """Make what asks the hub who a request is from."""
        self.auth = HubAuthenticator(parent=self, base_url=self.service_prefix)
        if not self.auth.hub_auth.api_token:
            raise WrongSetting(
                "JUPYTERHUB_API_TOKEN: must be set to this service's token "
                "(the hub sets it for a service that it starts; else c.JupyterHub.services has it)"
            )

    def init_web(self) -> None:
        """Make the Tornado application."""
        services = Services(
            auth=self.auth,
            jobs=self.jobs,
            uploads=self.uploads,
            profiles=self.profiles,
            launchpad=self.launchpad,
            version=__version__,
            max_body_bytes=self.max_body_bytes,
        )
        self.web_app = WebApplication(
            **make_handlers(self.service_prefix, services),
            log_function=log_request,
            cookie_secret=self.keyring.make_secret("cookie"),
            **self.tornado_settings,
        )

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT; every part that was started is stopped, in reverse."""
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with AsyncExitStack() as running:
            await self.start_parts(running)
            self.log.info("kbatch-server %s listens at %s%s", __version__, self.bind_url, self.service_prefix)
            await stopped.wait()
            self.log.info("stopping")

    async def start_parts(self, running: AsyncExitStack) -> None:
        """Start every part; ``running`` stops them. The port is taken first, so that a taken one costs nothing."""
        server = self.listen()
        running.push_async_callback(self.stop_listening, server)
        running.push_async_callback(self.auth.close)
        await self.storage.open()
        running.push_async_callback(self.storage.close)
        await self.store.open()
        running.push_async_callback(self.store.close)
        await self.launcher.start(self.reconciler.queue.put)
        running.push_async_callback(self.launcher.stop)
        for part in (self.reconciler, self.janitor):
            await part.start()
            running.push_async_callback(part.stop)
        server.add_sockets(self.sockets)

    def listen(self) -> HTTPServer:
        """Take the port; requests wait in its backlog until the parts are started."""
        url = urlparse(self.bind_url)
        try:
            self.sockets = bind_sockets(url.port, url.hostname)
        except OSError as error:
            raise WrongSetting(
                f"KBatchServer.bind_url: cannot listen at {self.bind_url}: {error.strerror}; "
                "stop what does, or set another port"
            ) from error
        port = self.sockets[0].getsockname()[1]
        if not self.launchpad.url_for_jobs:
            self.launchpad.url_for_jobs = f"http://{url.hostname}:{port}{self.service_prefix}"
        self.bind_url = f"http://{url.hostname}:{port}"
        # every handler looks at the length of its body itself, and says what is too long in JSON
        return HTTPServer(self.web_app, xheaders=True, max_body_size=self.uploads.max_upload_bytes + 2**20)

    async def stop_listening(self, server: HTTPServer) -> None:
        """Take no more requests, and close the connections that are open."""
        server.stop()
        try:
            async with asyncio.timeout(self.shutdown_seconds):
                await server.close_all_connections()
        except TimeoutError:
            self.log.warning("some connections did not close within %d s", self.shutdown_seconds)

    def start(self) -> None:
        """Do what the command line asks for; returns when it is done."""
        if self.subapp is not None:
            self.subapp.start()
        elif self.generate_config:
            self.write_config_file()
        else:
            asyncio.run(self.serve())

    def write_config_file(self) -> None:
        """Write a configuration file that says each trait and its default, unless there is a file."""
        path = Path(self.config_file)
        try:
            with path.open("x") as file:
                file.write(self.generate_config_file())
        except FileExistsError:
            raise WrongSetting(f"KBatchServer.config_file: {path} is there already, it is left alone") from None
        print(f"Wrote {path}.")

    def _installed(self, trait: str) -> list[type[Configurable]]:
        """Return the classes that are installed for an entry point trait and can be imported."""
        return [entry.load() for entry in self.traits()[trait].load_entry_points().values()]


class UpgradeDB(Application):
    """Bring the database up to this version's schema, and exit."""

    name = "kbatch-server-upgrade-db"
    version = __version__
    description = __doc__
    aliases: ClassVar[dict[Any, Any]] = {name: ALIASES[name] for name in ("config", "db", "log-level")}
    classes: ClassVar[Any] = List([KBatchServer])

    def start(self) -> None:
        """Upgrade the database that the service's configuration names."""
        server = KBatchServer(config=self.config)
        server.init_config_file()
        server.init_logging()
        server.init_keyring()
        server.init_storage()
        server.init_store()
        asyncio.run(server.store.upgrade())


def main(argv: list[str] | None = None) -> None:
    """Run the program; a wrong setting ends it with one line on standard error and status 1."""
    try:
        server = KBatchServer.instance()
        server.initialize(argv)
        server.start()
    except (WrongSetting, TraitError, SettingsNotFound, StoreError, StorageError, ConfigFileNotFound) as error:
        sys.exit(f"kbatch-server: {' '.join(str(error).split())}")
