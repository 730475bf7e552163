"""The program: what it says about a wrong setting, which setting wins, how it ends."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from traitlets.config import Config

from kbatch_server.app import CONFIGURABLES, KBatchServer, main
from kbatch_server.commands.gc import CollectGarbage
from kbatch_server.commands.upgrade_db import UpgradeDB
from kbatch_server.launchers.kube.launcher import KubeJobLauncher
from kbatch_server.profiles.config import JobConfig
from kbatch_server.settings.checks import RENAMED, WrongSetting, check_config
from kbatch_server.settings.dotenv import KEYS
from tests.support.service import Service

TOKEN = "a-token-for-tests-only"
LOCAL = ["--launcher=local", "--url=http://127.0.0.1:0"]
TORNADO = ("tornado.access", "tornado.application", "tornado.general")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A folder of the test's own, nothing of this machine's settings, and the loggers as they were before."""
    monkeypatch.chdir(tmp_path)
    # what a .env file sets is taken back at the end: each key is known to monkeypatch
    for name in (*KEYS, "JUPYTERHUB_SERVICE_URL", "KBATCH_SETTINGS_PATH", "KBATCH_KEYS", "KBATCH_DB_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
    loggers = [
        logging.getLogger(name)
        for name in ("KBatchServer", "UpgradeDB", "CollectGarbage", "kbatch_server", *TORNADO)
    ]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield monkeypatch
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(environment, capsys):
    """Run ``kbatch-server`` to its end in this process, which takes a tenth of the time of one of its own."""

    def run_to_end(*arguments: str, **variables: str) -> Done:
        for name, value in variables.items():
            environment.setenv(name, value)
        code: object = 0
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
        finally:
            KBatchServer.clear_instance()
            UpgradeDB.clear_instance()
            CollectGarbage.clear_instance()
        said = capsys.readouterr()
        if isinstance(code, str):  # what the interpreter prints at its end
            return Done(1, said.out, f"{said.err}{code}\n")
        return Done(code, said.out, said.err)

    return run_to_end


def config(tmp_path: Path, text: str, name: str = "kbatch_server_config.py") -> None:
    (tmp_path / name).write_text(text)


WRONG_ON_THE_COMMAND_LINE = {
    "bind_url scheme": (["--url=ftp://x"], "KBatchServer.bind_url", "http://HOST:PORT"),
    "bind_url with TLS": (["--url=https://127.0.0.1:1"], "KBatchServer.bind_url", "internal_ssl"),
    "bind_url port": (["--url=http://127.0.0.1:x"], "KBatchServer.bind_url", "http://HOST:PORT"),
    "trait": (["--JobConfig.cpu_limits=2"], "c.JobConfig.cpu_limits", "cpu_limit?"),
    "class": (["--JobConfg.cpu_limit=2"], "c.JobConfg", "JobConfig?"),
    "value": (["--JobConfig.cpu_limit=many"], "cpu_limit", "float"),
    "config_file": (["--config=nothere.py"], "KBatchServer.config_file", "nothere.py"),
    "storage": (["--storage=nonsense"], "KBatchServer.storage_class", "azure, file, gcs, s3"),
    "launcher": (["--KBatchServer.launcher_class=x"], "KBatchServer.launcher_class", "kubernetes, local"),
    "database": (["--db=oracle://x"], "KBatchServer.db_url", "sqlite:///"),
    "option": (["--databse=x"], "--databse", "--help-all"),
    "command": (["upgrade"], "upgrade", "upgrade-db"),
}


@pytest.mark.parametrize("case", WRONG_ON_THE_COMMAND_LINE)
def test_a_wrong_argument_is_said_in_one_line(run, tmp_path, case):
    arguments, setting, hint = WRONG_ON_THE_COMMAND_LINE[case]
    launcher = [] if case == "launcher" else LOCAL[:1]
    url = [] if case.startswith("bind_url") else LOCAL[1:]
    assert_one_line(run(*launcher, *url, *arguments), setting, hint)


def assert_one_line(done: Done, *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert "object at 0x" not in done.stderr


WRONG_IN_THE_FILE = {
    "trait": ("c.JobConfig.cpu_limits = 2", "c.JobConfig.cpu_limits", "cpu_limit?"),
    "class": ("c.JobConfg.cpu_limit = 2", "c.JobConfg", "JobConfig?"),
    "appended": ("c.JobConfig.allowed_image.append('x')", "c.JobConfig.allowed_image", "allowed_images?"),
    "value": ("c.JobConfig.cpu_limit = 'many'", "cpu_limit", "float"),
    "profile": ("c.Profiles.profile_list = [{'name': 'x'}]", "Profiles.profile_list", "display_name"),
    "override": (
        "c.Profiles.profile_list = [{'display_name': 'x', 'kbatch_override': {'cpu': 1}}]",
        "Profiles.profile_list",
        "profile 'x': kbatch_override.cpu: JobConfig has no such trait",
    ),
    "spawner": ("c.KBatchServer.spawner_config = 'nothere.py'", "KBatchServer.spawner_config", "nothere.py"),
    "program": (
        "import pathlib\npathlib.Path('hub.py').write_text('import nothere')\n"
        "c.KBatchServer.spawner_config = 'hub.py'",
        "KBatchServer.spawner_config: hub.py, line 1",
        "No module named 'nothere'; install the module here as well",
    ),
    "syntax": ("a = 1\nc.JobConfig.cpu_limit = (", "kbatch_server_config.py, line 2", "never closed"),
    "import": ("a = 1\nimport nothere", "kbatch_server_config.py, line 2", "nothere"),
}


@pytest.mark.parametrize("case", WRONG_IN_THE_FILE)
def test_a_wrong_configuration_file_is_said_in_one_line(run, tmp_path, case):
    text, setting, hint = WRONG_IN_THE_FILE[case]
    config(tmp_path, text)
    assert_one_line(run(*LOCAL), setting, hint)


WRONG_IN_THE_ENVIRONMENT = {
    "KBATCH_SETTINGS_PATH": ("/nothere/.env", "/nothere/.env"),
    "JUPYTERHUB_API_TOKEN": ("", "token"),
    "KBATCH_KEYS": ("short", "32 characters"),
    "DEFAULT_FILE_STORAGE": ("ftp", "azure, file, gcs, s3"),
    "JUPYTERHUB_SERVICE_URL": ("8050", "http://HOST:PORT"),
}


@pytest.mark.parametrize("name", WRONG_IN_THE_ENVIRONMENT)
def test_a_wrong_variable_is_said_in_one_line(run, name):
    value, hint = WRONG_IN_THE_ENVIRONMENT[name]
    words = ("KBatchServer.storage_class",) if name == "DEFAULT_FILE_STORAGE" else (name,)
    done = run(*(LOCAL[:1] if name == "JUPYTERHUB_SERVICE_URL" else LOCAL), **{name: value})
    assert_one_line(done, hint, *words)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Tornado drops its socket open
def test_a_taken_port_is_said_in_one_line_and_nothing_is_made(run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(run("--launcher=local", f"--url={url}"), "KBatchServer.bind_url", url)
    assert not list(tmp_path.glob("*.sqlite"))
    gc.collect()


def test_another_programs_database_is_refused(run, tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE users (name)")
    connection.close()
    assert_one_line(
        run(*LOCAL, "--db=sqlite:///other.sqlite"),
        "KBatchServer.db_url",
        "use a database for kbatch-server alone",
    )


# Which setting wins


@pytest.fixture
def make_server(environment):
    """Read the settings as the program does at its start, and build its parts."""

    def make(*arguments: str) -> KBatchServer:
        server = KBatchServer()
        server.initialize([*LOCAL[:1], *arguments])
        return server

    return make


def test_the_command_line_wins_over_the_file_the_file_over_the_environment_that_over_env(
    make_server, tmp_path, monkeypatch
):
    (tmp_path / ".env").write_text("JUPYTERHUB_SERVICE_PREFIX=/from/env-file/\n")
    assert make_server().service_prefix == "/from/env-file/"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/from/environment/")
    assert make_server().service_prefix == "/from/environment/"
    config(tmp_path, "c.KBatchServer.service_prefix = '/from/file'")
    assert make_server().service_prefix == "/from/file/"
    assert make_server("--KBatchServer.service_prefix=/from/line").service_prefix == "/from/line/"


def test_what_the_hub_says_of_its_servers_comes_after_what_the_service_says_of_jobs(
    make_server, tmp_path, capsys
):
    profiles = "c.KubeSpawner.profile_list = {'a': {'display_name': 'A'}}"
    hub = "c = get_config()\nc.KubeSpawner.image = 'hub:1'\nc.KubeSpawner.cpu_limit = 3\n" + profiles
    config(tmp_path, hub + "\nc.Spawner.default_url = '/lab'", "hub.py")
    config(tmp_path, "c.KBatchServer.spawner_config = 'hub.py'\nc.JobConfig.image = 'file:1'")
    server = make_server("--JobConfig.cpu_guarantee=1")
    job = JobConfig(parent=server)
    assert (job.image, job.cpu_limit, job.cpu_guarantee) == ("file:1", 3, 1)
    assert server.profiles.profile_list == {"a": {"display_name": "A"}}
    assert "hub.py: a job has no use for default_url: ignored" in capsys.readouterr().err


def test_another_settings_file_is_read_instead_of_env(make_server, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("JUPYTERHUB_SERVICE_PREFIX=/a/\n")
    (tmp_path / "other.env").write_text("JUPYTERHUB_SERVICE_PREFIX=/b/\nSOMETHING_ELSE=x\n")
    monkeypatch.setenv("KBATCH_SETTINGS_PATH", "other.env")
    assert make_server().service_prefix == "/b/"
    assert "SOMETHING_ELSE" not in os.environ


@pytest.mark.parametrize("package", ["storage", "storages"])
def test_the_keys_of_the_first_releases_settings_are_understood(make_server, tmp_path, package):
    (tmp_path / ".env").write_text(
        f"DEFAULT_FILE_STORAGE={package}.backends.azure_storage.AzureStorage\n"
        "AZURE_ACCOUNT_NAME=account\nAZURE_CONTAINER=code\nAZURE_SAS_TOKEN=sig=x\n"
    )
    storage = make_server().storage
    assert type(storage).__name__ == "AzureBlobStorage"
    assert (storage.account_name, storage.container, storage.sas_token) == ("account", "code", "sig=x")


def test_the_token_may_come_from_the_settings_file(make_server, tmp_path, monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN")
    (tmp_path / ".env").write_text(f"JUPYTERHUB_API_TOKEN={TOKEN}\n")
    assert make_server().auth.hub_auth.api_token == TOKEN


def test_the_settings_for_tests_are_good(make_server, monkeypatch):
    monkeypatch.setenv("KBATCH_SETTINGS_PATH", str(Path(__file__).parents[2] / ".env.test"))
    server = make_server()
    assert server.service_prefix == "/services/kbatch/"
    assert type(server.storage).__name__ == "FileStorage"


def test_a_class_of_the_admins_own_is_configured_like_ours(make_server, tmp_path):
    config(
        tmp_path,
        "from traitlets import Unicode\nfrom kbatch_server.storage.file import FileStorage\n\n"
        "class OwnStorage(FileStorage):\n    bucket = Unicode(config=True)\n\n"
        "c.KBatchServer.storage_class = OwnStorage\nc.OwnStorage.bucket = 'b'\nc.FileStorage.root = 'r'\n",
    )
    storage = make_server().storage
    assert (type(storage).__name__, storage.bucket, storage.root) == ("OwnStorage", "b", "r")


def test_the_keys_are_made_once_for_the_service_alone(make_server, tmp_path):
    sealed = make_server().keyring.seal("x")
    assert (tmp_path / "kbatch-server.keys").stat().st_mode & 0o777 == 0o600
    assert make_server().keyring.unseal(sealed) == "x"


def test_the_database_may_be_said_in_the_environment_and_a_setting_wins(make_server, monkeypatch):
    monkeypatch.setenv("KBATCH_DB_URL", "sqlite:///from-environment.sqlite")
    assert make_server().store._database.url.database == "from-environment.sqlite"
    assert make_server("--db=sqlite:///mine.sqlite").store._database.url.database == "mine.sqlite"


def test_replicas_must_be_given_their_keys(make_server, monkeypatch, tmp_path):
    monkeypatch.setenv("KBATCH_DB_URL", "postgresql://kbatch:s3cret@database/kbatch")
    with pytest.raises(WrongSetting, match="the same for every replica") as refused:
        make_server()
    assert "s3cret" not in str(refused.value)
    assert not (tmp_path / "kbatch-server.keys").exists()
    monkeypatch.setenv("KBATCH_KEYS", "k" * 32)
    make_server()


# Commands


def test_it_answers_and_ends_when_it_is_told_to(tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    service = Service(
        tmp_path,
        port=port,
        config=f"c.KBatchServer.launcher_class = 'local'\nc.KBatchServer.bind_url = 'http://127.0.0.1:{port}'\n",
        environment={"JUPYTERHUB_API_TOKEN": TOKEN, "JUPYTERHUB_SERVICE_PREFIX": "/services/kbatch/"},
    )
    service.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/services/kbatch/api/v1/") as client:
            ready = client.get("ready")
            # no hub is there: who has no token is answered all the same
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert (ready.json()["failed"], ready.json()["leads"]) == (["hub"], True)
            service.process.send_signal(signal.SIGTERM)  # while a connection is open
            assert service.process.wait(10) == 0
    finally:
        service.kill()
    assert "Traceback" not in service.tail()
    assert f"listens at http://127.0.0.1:{port}/services/kbatch/" in service.tail()


def test_upgrade_db_makes_the_tables_and_may_be_repeated(run, tmp_path):
    config(tmp_path, "c.KBatchServer.db_url = 'sqlite:///from-file.sqlite'")
    for _ in range(2):
        done = run("upgrade-db")
        assert (done.returncode, done.stderr) == (0, "")
    assert find_tables(tmp_path / "from-file.sqlite") >= {"jobs", "uploads"}


def test_upgrade_db_takes_the_database_of_its_command_line_before_that_of_the_file(run, tmp_path):
    config(tmp_path, "c.KBatchServer.db_url = 'sqlite:///from-file.sqlite'")
    assert run("upgrade-db", "--db=sqlite:///from-line.sqlite").returncode == 0
    assert (tmp_path / "from-line.sqlite").exists()
    assert not (tmp_path / "from-file.sqlite").exists()


@pytest.mark.parametrize(
    ("argument", "word"), [("--databse=x", "--databse"), ("--config=x.py", "config_file")]
)
def test_upgrade_db_refuses_what_the_service_refuses(run, argument, word):
    assert_one_line(run("upgrade-db", argument), word)


def test_gc_shows_what_would_go_and_then_removes_it(run, tmp_path):
    config(tmp_path, "c.FileStorage.root = 'kept'")
    assert run("gc").stdout == "0 removed, 0 B\n"  # makes the database and the folder
    orphan, fresh = (tmp_path / f"kept/uploads/{digit * 40}" for digit in "01")
    orphan.parent.mkdir(0o700)
    for path in (orphan, fresh):
        path.write_bytes(b"PK")
    os.utime(orphan, (0, 0))
    path_of_it = f"uploads/{'0' * 40}"
    for command, words in ((("gc", "--dry-run"), "1 would be removed, 2 B"), (("gc",), "1 removed, 2 B")):
        done = run(*command)
        audited = [line for line in done.stderr.splitlines() if f"remove-object {path_of_it}" in line]
        assert len(audited) == ("--dry-run" not in command) == len(done.stderr.splitlines())
        first, last = done.stdout.splitlines()
        assert first.split()[:2] == ["object", path_of_it]
        assert (done.returncode, last) == (0, words)
        assert orphan.exists() == ("--dry-run" in command)
    assert fresh.exists()
    assert_one_line(run("gc", "--dry"), "--dry")


def test_gc_shows_a_table_in_a_terminal(run, tmp_path):
    config(tmp_path, "c.FileStorage.root = 'kept'")
    run("gc")
    for digit in "01":
        orphan = tmp_path / f"kept/uploads/{digit * 40}"
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"PK")
        os.utime(orphan, (0, 0))
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "kbatch_server", "gc"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "JUPYTERHUB_API_TOKEN": TOKEN, "TERM": "xterm", "COLUMNS": "150"},
        stdout=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while piece := os.read(controller, 65536):
                shown += piece
        os.close(controller)
    assert process.returncode == 0
    assert "kind" in shown.decode()
    assert "│ object │       2 │  4 B │" in shown.decode()
    assert "2 removed, 4 B" in shown.decode().splitlines()[-1]


@pytest.mark.parametrize("old", RENAMED)
def test_a_setting_under_its_old_name_stops_the_start_and_the_message_has_the_new_one(old):
    classes = {cls.__name__: cls for cls in CONFIGURABLES}
    name = next(iter(classes[RENAMED[old]].class_own_traits(config=True)))
    with pytest.raises(WrongSetting) as refused:
        check_config(Config({old: {name: 1}}), CONFIGURABLES)
    assert str(refused.value).startswith(f"c.{old}.{name} is now c.{RENAMED[old]}.{name}:")


def test_an_old_name_of_a_trait_is_refused_with_the_new_one() -> None:
    config = Config({"KubeJobLauncher": {"create_namespace": True}})
    with pytest.raises(WrongSetting, match="create_namespace is now c"):
        check_config(config, [KubeJobLauncher])


def test_a_wrong_setting_ends_the_process_with_that_line_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kbatch_server", "--JobConfig.cpu_limits=2"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "JUPYTERHUB_API_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=30,
    )
    line = "kbatch-server: c.JobConfig.cpu_limits: unknown setting; did you mean cpu_limit?\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def find_tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        names = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    connection.close()
    return names
