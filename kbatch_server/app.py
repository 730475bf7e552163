"""The service as a program: reads its configuration, builds its parts, starts and stops them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
from jupyterhub.services.auth import HubOAuth
from tornado.web import Application as WebApplication
from traitlets import Bool, Dict, Float, Integer, List, TraitError, Unicode, default, observe, validate
from traitlets.config import Application, Config, Configurable

from . import __version__
from .bytesize import ByteSize
from .engine.engine import Engine
from .engine.hubtokens import HubTokens
from .engine.leader import Leader
from .engine.links import SignedLinks
from .engine.reconciler import Reconciler
from .engine.retention import Janitor, Retention
from .failpoints import WrongFailpoint, arm
from .handlers import make_handlers
from .handlers.services import Services
from .hooks import Hooks
from .hub.servers import HubServers
from .jobs.secrets import Secrets
from .jobs.service import Jobs
from .jobs.tokens import JobTokens
from .jobs.watch import JobWatch
from .keyring import BadKey, Keyring
from .launchers.base import JobLauncher
from .limits.config import Limits
from .log import log_request, set_up_logging
from .logs.reader import LogReader
from .logs.recorder import LogRecorder
from .memory import limit_arenas, settle_garbage
from .monitoring.health import Health
from .monitoring.operations import Operations
from .outputs.outputs import Outputs
from .profiles.config import JobConfig
from .profiles.profiles import Profiles
from .profiles.spawner_config import load_spawner_config
from .scheduling.pacer import LaunchPacer
from .settings.checks import WrongSetting, check_config, check_url, describe_error
from .settings.commandline import ALIASES, CONFIG_FILE, FLAGS, SUBCOMMANDS, StrictLoader, write_config_file
from .settings.dotenv import SettingsNotFound, get_storage_name, load_settings
from .settings.plugins import PluginClass
from .storage.base import Storage, StorageError
from .storage.diskspace import DiskSpace
from .store import Store, StoreError
from .uploads.uploads import Uploads
from .web.auth import HubAuthenticator
from .web.inflight import InflightRequests
from .web.server import WebServer
from .web.throttle import Throttle

CONFIGURABLES: list[type[Configurable]] = [
    HubAuthenticator,
    HubOAuth,
    HubServers,
    JobConfig,
    Limits,
    Profiles,
    Hooks,
    Secrets,
    DiskSpace,
    Uploads,
    Outputs,
    JobWatch,
    SignedLinks,
    JobTokens,
    HubTokens,
    LogRecorder,
    LogReader,
    Reconciler,
    LaunchPacer,
    Retention,
    Leader,
    Janitor,
    Health,
    InflightRequests,
    Throttle,
    WebServer,
]
"""All configurable classes except the program itself and plugins, in the order of the page of settings."""


class KBatchServer(Application):
    """A JupyterHub service that runs the code of the hub's users as batch jobs."""

    name = "kbatch-server"
    version = __version__
    description = __doc__
    examples = """
    kbatch-server --generate-config          # write a commented kbatch_server_config.py
    kbatch-server --config kbatch_server_config.py
    kbatch-server --launcher=local --db=sqlite:///jobs.sqlite
    """
    aliases: dict[Any, Any] = ALIASES
    flags: dict[Any, Any] = FLAGS
    subcommands: dict[str, Any] = SUBCOMMANDS

    config_file = Unicode(
        CONFIG_FILE,
        help="""The configuration file (Python, ``c = get_config()``). If you name a file, it must exist.""",
        config=True,
    )

    spawner_config = Unicode(
        help="""The hub's own configuration file, ``jupyterhub_config.py``, or a file with values of
        zero-to-jupyterhub (``.yaml`` or ``.json``): all of them, or those below ``singleuser``.

        What it sets for servers is then the default for jobs: ``c.KubeSpawner.profile_list`` for
        ``c.Profiles.profile_list``, and other traits of ``c.KubeSpawner`` and ``c.Spawner`` for those of the
        same name in ``c.JobConfig``. The service's own configuration overrides it. The service runs the file
        as the hub does, and ignores everything else in it. Volumes of the user's home are not taken. Empty
        (the default): none.
        """,
        config=True,
    )

    generate_config = Bool(False, help="""Write a commented configuration file and exit.""", config=True)

    bind_url = Unicode(
        help="""The URL that the service listens on, like ``http://127.0.0.1:8050``. Port 0 selects a free
        port.

        Default: the environment variable JUPYTERHUB_SERVICE_URL, which the hub sets, else
        ``http://127.0.0.1:8050``.
        """,
        config=True,
    )

    @default("bind_url")
    def _default_bind_url(self) -> str:
        url = os.environ.get("JUPYTERHUB_SERVICE_URL") or "http://127.0.0.1:8050"
        return check_url(url, "JUPYTERHUB_SERVICE_URL")

    @validate("bind_url")
    def _validate_bind_url(self, proposal: Any) -> str:
        return check_url(proposal["value"], "KBatchServer.bind_url")

    service_prefix = Unicode(
        help="""The path at which the hub's proxy serves this service, like ``/services/kbatch/``.

        Default: the environment variable JUPYTERHUB_SERVICE_PREFIX, which the hub sets, else ``/``.
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

    launcher_class = PluginClass(
        "kbatch_server.launchers.kube.launcher.KubeJobLauncher",
        klass=JobLauncher,
        entry_point_group="kbatch_server.launchers",
        help="""The launcher that runs the jobs: a subclass of JobLauncher, or the name of an entry point.""",
        config=True,
    )

    storage_class = PluginClass(
        klass=Storage,
        entry_point_group="kbatch_server.storages",
        help="""The storage for code, logs and results: a subclass of Storage, or the name of an entry point.

        Default: the environment variable DEFAULT_FILE_STORAGE, else ``file``.
        """,
        config=True,
    )

    @default("storage_class")
    def _default_storage_class(self) -> str:
        return get_storage_name()

    db_url = Unicode(
        help="""The URL of the database: ``sqlite:///PATH`` (with four slashes PATH is absolute) for a single
        process, or ``postgresql://USER@HOST/DATABASE``, which several replicas may share.

        Set the password in PGPASSWORD, or in the file that PGPASSFILE names, rather than in the URL. Default:
        the environment variable KBATCH_DB_URL, else ``sqlite:///kbatch-server.sqlite``.
        """,
        config=True,
    )

    @default("db_url")
    def _default_db_url(self) -> str:
        return os.environ.get("KBATCH_DB_URL") or "sqlite:///kbatch-server.sqlite"

    upgrade_db_on_start = Bool(
        True,
        help="""Whether to upgrade an older database schema when the service starts. If False, the service
        does not start with an older schema until you run ``kbatch-server upgrade-db``.
        """,
        config=True,
    )

    key_file = Unicode(
        "kbatch-server.keys",
        help="""The file with the keys that encrypt secrets, one per line, the newest first.

        If the file is missing, the service creates it, unless the database is PostgreSQL: replicas that
        share a database need the same keys. If the environment variable KBATCH_KEYS is set (keys separated
        by spaces), the service uses it instead of the file. If the keys are lost, nobody can decrypt the
        jobs' environments.
        """,
        config=True,
    )

    max_job_bytes = ByteSize(
        2 * 1024**2,
        min=64 * 1024,
        help="""The maximum size, in bytes, of the JSON of one job in ``api/v1``.

        The default is large enough for any valid job, even if a client escapes each character with six
        bytes. It does not limit code: see ``Uploads.max_upload_bytes``.
        """,
        config=True,
    )

    max_body_bytes = ByteSize(
        16 * 1024**2,
        min=1024**2,
        help="""The maximum size, in bytes, of the body of other requests.

        Requests of the kbatch command and of the first client contain code in their JSON, and may be three
        times as large. Reading such a request takes several times its size in memory.
        """,
        config=True,
    )

    kbatch_list_days = Float(
        7,
        min=0,
        help="""Number of days for which ``kbatch job list`` and ``kbatch pod list`` list a job after its end.

        The kbatch command cannot read a list page by page, so its lists must not grow forever. The web page
        and ``api/v1`` list all jobs.
        """,
        config=True,
    )

    log_json = Bool(False, help="""Log one JSON object per line: see docs/operations.md.""", config=True)

    shutdown_seconds = Integer(
        10,
        min=0,
        help="""Seconds that requests in progress have to finish when the service stops.""",
        config=True,
    )

    tornado_settings = Dict(help="""Additional settings of the Tornado application.""", config=True)

    classes: Any = List()

    @default("classes")
    def _default_classes(self) -> list[type[Configurable]]:
        return [
            *CONFIGURABLES,
            *type(self).launcher_class.load_installed(),
            *type(self).storage_class.load_installed(),
        ]

    raise_config_file_errors = True  # a file that cannot be read must not mean no limits at all

    @default("log_level")
    def _default_log_level(self) -> int:
        return logging.INFO

    @observe("launcher_class", "storage_class")
    def _add_class(self, change: Any) -> None:
        """Allow settings for the traits of an admin's own class."""
        if change["new"] not in self.classes:
            self.classes = [*self.classes, change["new"]]

    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the configuration and build the parts, in the order in which they need each other."""
        arm()
        load_settings()
        self.parse_command_line(argv)
        if self.generate_config or isinstance(self.subapp, Application):
            return
        if self.extra_args:
            raise WrongSetting(f"{self.extra_args[0]}: unknown command; known: {', '.join(SUBCOMMANDS)}")
        self.init_config_file()
        self.init_logging()
        self.init_spawner_config()
        self.init_keyring()
        self.init_store()
        self.init_jobs()
        self.init_auth()
        self.init_web()

    @classmethod
    def make_for(cls, command: Application) -> KBatchServer:
        """Return the program with its parts, as configured, for a command."""
        own = type(command).__name__
        server = cls(config=Config({key: command.config[key] for key in command.config if key != own}))
        # which wins over the file, here as there
        said = command.cli_config
        server.cli_config = Config({key: said[key] for key in said if key != own})
        server.init_config_file()
        server.init_logging()
        server.init_spawner_config()
        server.init_keyring()
        server.init_store()
        server.init_jobs()
        return server

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> StrictLoader:
        return StrictLoader(argv, aliases, flags, classes=classes, log=self.log, subcommands=self.subcommands)

    def init_config_file(self) -> None:
        """Load the configuration file; raises WrongSetting if it sets unknown traits."""
        path = Path(self.config_file)
        if path.is_file():
            try:
                self.load_config_file(path.name, path=str(path.absolute().parent))
            except Exception as error:  # the file is a program: it may raise anything
                raise WrongSetting(f"KBatchServer.config_file: {describe_error(error, path)}") from error
        elif self.config_file != CONFIG_FILE:
            raise WrongSetting(f"KBatchServer.config_file: file not found: {self.config_file!r}")
        check_config(self.config, [type(self), *self.classes, self.launcher_class, self.storage_class])

    def init_logging(self) -> None:
        """Set up the log's format, also for Tornado and other libraries."""
        set_up_logging(self.log, as_json=self.log_json)

    def init_spawner_config(self) -> None:
        """Load what the hub's configuration sets for servers, below the service's own configuration."""
        if not self.spawner_config:
            return
        path = Path(self.spawner_config)
        if not path.is_file():
            raise WrongSetting(f"KBatchServer.spawner_config: file not found: {self.spawner_config!r}")
        defaults = load_spawner_config(path)
        for name in defaults.ignored:
            self.log.info("%s: a job has no use for %s: ignored", path, name)
        config = defaults.config
        config.merge(self.config)
        self.config = config

    def init_keyring(self) -> None:
        """Read the keys from the environment or from their file."""
        keys = os.environ.get("KBATCH_KEYS", "").split()
        path, may_make = Path(self.key_file), not self.db_url.startswith("postgres")
        try:
            self.keyring = Keyring(keys) if keys else Keyring.from_file(path, may_make=may_make)
        except (BadKey, OSError) as error:
            raise WrongSetting(f"KBATCH_KEYS or KBatchServer.key_file: {error}") from error

    def init_store(self) -> None:
        """Make the storage, the store, and the parts that only need these."""
        self.storage = self.storage_class(parent=self)
        self.store = Store(self.db_url, self.keyring, log=self.log, auto_upgrade=self.upgrade_db_on_start)
        self.disk = DiskSpace(parent=self, storage=self.storage, store=self.store)
        self.uploads = Uploads(parent=self, disk=self.disk, storage=self.storage, records=self.store.uploads)
        self.outputs = Outputs(parent=self, storage=self.storage, records=self.store.outputs)

    def init_jobs(self) -> None:
        """Make the parts that describe and run jobs, and answer requests about them."""
        self.inflight = InflightRequests(parent=self)
        JobConfig(parent=self)  # made anew for each job: a wrong value is to be said now, not then
        self.profiles = Profiles(parent=self)
        self.hooks = Hooks(parent=self)
        self.servers = HubServers(parent=self)
        self.launcher = self.launcher_class(parent=self)
        if self.launcher.has_trait("hooks"):
            self.launcher.hooks = self.hooks
        if self.launcher.has_trait("storage"):
            self.launcher.storage = self.storage
        self.engine = engine = Engine(
            parent=self,
            hooks=self.hooks,
            keyring=self.keyring,
            launcher=self.launcher,
            outputs=self.outputs,
            profiles=self.profiles,
            servers=self.servers,
            inflight=self.inflight,
            uploads=self.uploads,
            service_prefix=self.service_prefix,
            storage=self.storage,
            store=self.store,
        )
        self.jobs = Jobs(
            parent=self,
            disk=self.disk,
            hooks=self.hooks,
            launcher=self.launcher,
            limits=engine.limits,
            profiles=self.profiles,
            servers=self.servers,
            reader=LogReader(
                parent=self, recorder=engine.recorder, storage=self.storage, logs=self.store.logs
            ),
            store=self.store,
            on_submit=engine.leader.accept,
            on_change=engine.leader.look,
        )

    def init_auth(self) -> None:
        """Make the part that asks the hub for the user of a request."""
        self.auth = HubAuthenticator(
            parent=self,
            base_url=self.service_prefix,
            keyring=self.keyring,
            find_job_user=self.engine.tokens.find_user,
        )
        if not self.auth.hub_auth.api_token:
            raise WrongSetting(
                "JUPYTERHUB_API_TOKEN: must be set to this service's token (the hub sets it for a "
                "managed service; otherwise copy it from c.JupyterHub.services)"
            )

    def init_web(self) -> None:
        """Make health checks, metrics and the Tornado application."""
        self.throttle = Throttle(parent=self)
        self.operations = Operations(
            parent=self,
            auth=self.auth,
            disk=self.disk,
            engine=self.engine,
            storage=self.storage,
            store=self.store,
            throttle=self.throttle,
            inflight=self.inflight,
        )
        self.services = Services(
            auth=self.auth,
            jobs=self.jobs,
            uploads=self.uploads,
            outputs=self.outputs,
            profiles=self.profiles,
            links=self.engine.links,
            throttle=self.throttle,
            version=__version__,
            max_job_bytes=self.max_job_bytes,
            max_body_bytes=self.max_body_bytes,
            kbatch_list_days=self.kbatch_list_days,
            health=self.operations.health,
            gauges=self.operations.gauges,
            inflight=self.inflight,
            is_leading=lambda: self.engine.leader.is_leading,
        )
        self.web_app = WebApplication(
            **make_handlers(self.service_prefix, self.services),
            log_function=log_request,
            cookie_secret=self.keyring.make_secret("cookie"),
            **self.tornado_settings,
        )

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT; then stop every started part, in reverse order."""
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with AsyncExitStack() as running:
            server = await self.start_parts(running)
            settle_garbage()
            self.log.info("kbatch-server %s listens at %s%s", __version__, self.bind_url, self.service_prefix)
            await stopped.wait()
            server.stop_keeping_connections()
            await self.operations.announce_stop()

    async def start_parts(self, running: AsyncExitStack) -> WebServer:
        """Start every part, and return the server; ``running`` stops them. Binding the port comes first."""
        server = self.listen()
        running.callback(server.close)
        running.push_async_callback(self.auth.close)
        await self.servers.start()
        running.push_async_callback(self.servers.stop)
        await self.storage.open()
        running.push_async_callback(self.storage.close)
        await self.store.open()
        running.push_async_callback(self.store.close)
        await self.jobs.watch.start()
        running.push_async_callback(self.jobs.watch.stop)
        running.push_async_callback(self.jobs.progress.close)
        await self.launcher.open()
        running.push_async_callback(self.launcher.close)
        await self.engine.leader.start()
        running.push_async_callback(self.engine.leader.stop)
        running.push_async_callback(self.uploads.settle)
        await self.operations.start()
        running.push_async_callback(self.operations.stop)
        server.start()
        running.push_async_callback(server.stop)
        return server

    def listen(self) -> WebServer:
        """Bind the port; requests wait in its backlog until the parts are started."""
        server = WebServer(
            parent=self,
            application=self.web_app,
            shutdown_seconds=self.shutdown_seconds,
            throttle=self.throttle,
            inflight=self.inflight,
        )
        try:
            self.bind_url = server.bind(self.bind_url)
        except OSError as error:
            raise WrongSetting(
                f"KBatchServer.bind_url: cannot listen at {self.bind_url}: {error.strerror}; "
                "stop the program that uses the port, or set another port"
            ) from error
        if not self.engine.links.url_for_jobs:
            self.engine.links.url_for_jobs = self.bind_url + self.service_prefix
        return server

    def start(self) -> None:
        """Do what the command line requests; returns at the end."""
        if self.subapp is not None:
            self.subapp.start()
        elif self.generate_config:
            write_config_file(self.config_file, self.generate_config_file())
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self.serve())


def main(argv: list[str] | None = None) -> None:
    """Run the program; a wrong setting ends it with one line on standard error and status 1."""
    try:
        limit_arenas()
        server = KBatchServer.instance()
        server.initialize(argv)
        server.start()
    except StoreError as error:
        sys.exit(f"kbatch-server: KBatchServer.db_url: {error}")
    except (WrongSetting, WrongFailpoint, TraitError, SettingsNotFound, StorageError) as error:
        sys.exit(f"kbatch-server: {' '.join(str(error).split())}")
