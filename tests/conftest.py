"""Fixtures of more than one module: the service in this process, servers that it uses, a real hub."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest
import pytest_asyncio
from tornado.ioloop import IOLoop
from tornado.web import Application

from kbatch_server.web.server import WebServer
from tests.support.azurite import find_azurite, running_azurite
from tests.support.hub import Hub
from tests.support.ports import find_ports
from tests.support.postgresql import PostgreSQL
from tests.support.s3server import S3Server, find_s3server, running_s3server
from tests.support.storages import make_certificate, make_container
from tests.support.web import Settings, Web, running_web

# the same examples in every run, and none fails for the time that it takes on a busy machine
hypothesis.settings.register_profile(
    "kbatch", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("kbatch")


def pytest_configure() -> None:
    """Let the services that tests start in folders of their own find the settings file of this run."""
    if "KBATCH_SETTINGS_PATH" in os.environ:
        os.environ["KBATCH_SETTINGS_PATH"] = str(Path(os.environ["KBATCH_SETTINGS_PATH"]).resolve())


SERVERS = {"azurite", "azurite_tls", "postgresql", "s3server"}
"""The fixtures that are servers, which take seconds to start and a processor to run."""

HERE = Path(__file__).parent
SERVICE = HERE / "service"
"""Where tests start the service, a hub, a job or another server as a process."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave that folder out, unread, where its tests are not wanted: to import them takes seconds."""
    is_quick = "not servers" in config.getoption("markexpr")
    return True if is_quick and SERVICE in (collection_path, *collection_path.parents) else None


LONG_MODULES = (
    "kubernetes/test_cluster_faults",
    "kubernetes/test_end_to_end",
    "kubernetes/test_installed",
    "kubernetes/test_launcher",
    "kubernetes/test_results",
    "kubernetes/test_storages",
    "kubernetes/test_clients",
    "service/test_replicas",
)
"""What takes longest, in this order. It comes first, so that no process is left alone with it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need servers: the quick half is run without them. Put the long modules first."""
    items.sort(key=_find_turn)
    for item in items:
        assert isinstance(item, pytest.Function)
        callspec = getattr(item, "callspec", None)
        chosen = [str(value) for value in callspec.params.values()] if callspec else []
        is_served = any(value.startswith(("azure-", "s3", "postgresql")) for value in chosen)
        if is_served or SERVERS & set(item.fixturenames) or SERVICE in item.path.parents:
            item.add_marker("servers")
        for mark in item.iter_markers("exhaustive"):
            assert mark.args, f"{item.nodeid}: say what else it shows"


def _find_turn(item: pytest.Item) -> int:
    name = item.path.relative_to(HERE).with_suffix("").as_posix()
    return LONG_MODULES.index(name) if name in LONG_MODULES else len(LONG_MODULES)


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of the garbage collector's sight: it stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a test that leaves something open (a ResourceWarning, which is an error) fail itself.

    Else whichever test runs when the garbage is collected would.
    """
    yield
    if inspect.iscoroutinefunction(request.function):
        gc.collect()


@pytest.fixture
def web_settings() -> Settings:
    """What the service of a test is configured with; a test may have its own."""
    return {}


@pytest_asyncio.fixture
async def web(tmp_path: Path, web_settings: Settings) -> AsyncIterator[Web]:
    """The service itself, in this process."""
    async with running_web(tmp_path, web_settings) as running:
        yield running


# what pytest-tornado's base_url and http_client stand on


@pytest.fixture
def app(web: Web) -> Application:
    """The service's Tornado application."""
    return web.application


@pytest_asyncio.fixture
async def io_loop() -> IOLoop:
    """The loop of the test, instead of another one."""
    return IOLoop.current()


@pytest.fixture
def http_server(web: Web) -> WebServer:
    """The service's own server, with its limits on headers, bodies and connections."""
    return web.server


@pytest.fixture
def http_port(web: Web) -> int:
    """The port of that server."""
    return web.port


@pytest_asyncio.fixture
async def api(web: Web) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's client."""
    async with web.client() as client:
        yield client


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL of our own."""
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """A new, empty database of PostgreSQL."""
    url = postgresql.make_database()
    yield url
    postgresql.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A real hub and proxy; the service is one that a test runs at ``hub.service_url``, if it needs one."""
    running = Hub(tmp_path_factory.mktemp("hub"), service_url=f"http://127.0.0.1:{find_ports(1)[0]}")
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an Azurite's account, which has an empty container."""
    with running_azurite(find_azurite(), tmp_path_factory.mktemp("azurite")) as endpoint:
        make_container(endpoint)
        yield endpoint


@pytest.fixture(scope="session")
def azurite_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The same with HTTPS, which also takes tokens of identities; and the file with its certificate."""
    folder = tmp_path_factory.mktemp("azurite-tls")
    tls = make_certificate(folder)
    with running_azurite(find_azurite(), folder, tls=tls) as endpoint:
        make_container(endpoint, connection_verify=str(tls[0]))
        yield endpoint, tls[0]


@pytest.fixture(scope="session")
def s3server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    with running_s3server(find_s3server(), tmp_path_factory.mktemp("s3server")) as server:
        yield server
