"""The documents say what is so: settings, routes, entry points, variables; their links and examples hold."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from traitlets.config import Config

from kbatch_server import handlers
from kbatch_server.handlers.openapi import find_operations
from kbatch_server.launchers.base import JobLauncher
from kbatch_server.launchers.kube.status.pods import START_PROBLEMS
from kbatch_server.launchers.kube.status.status import IMAGE_PROBLEMS, SETUP_EVENTS
from kbatch_server.models.request import JobRequest
from kbatch_server.notebooks.launch import EXIT_REASONS
from kbatch_server.settings.dotenv import KEYS
from kbatch_server.storage.base import Storage

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("helm/*/*.md")])


def read_docs() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def find_code(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_of_settings_is_what_the_code_says(tmp_path):
    # in a process and a folder of its own: no default may come from this machine or the tests
    script = (
        f"import sys; sys.path.insert(0, {str(DOCS)!r}); import generate; print(generate.make_page(), end='')"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "JUPYTERHUB_SERVICE_PREFIX": "/x/",
        "AZURE_CONTAINER": "x",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (DOCS / "configuration.md").read_text(), "run: python docs/generate.py"


def load_generate_helm():
    spec = importlib.util.spec_from_file_location("generate_helm", DOCS / "generate_helm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_values_of_the_chart_are_what_its_page_says():
    made = load_generate_helm().make_page()
    assert made == (DOCS / "helm.md").read_text(), "run: python docs/generate_helm.py"


def load_generate_metrics():
    spec = importlib.util.spec_from_file_location("generate_metrics", DOCS / "generate_metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_metrics_is_what_the_code_says():
    made = load_generate_metrics().make_page()
    assert made == (DOCS / "operations.md").read_text(), "run: python docs/generate_metrics.py"


def test_the_alerts_and_the_dashboard_are_about_metrics_that_there_are():
    table = load_generate_metrics().make_table()
    [alerts] = find_code(DOCS / "operations.md", "yaml")
    assert [rule["alert"] for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    dashboard = (DOCS / "grafana.json").read_text()
    assert json.loads(dashboard)["panels"]
    for name in set(re.findall(r"kbatch_\w+", alerts + dashboard)):
        assert f"`{re.sub('_bucket$', '', name)}`" in table, name


def test_each_value_of_the_chart_has_a_comment_and_is_used():
    module = load_generate_helm()
    comments = dict(module.read_comments())
    templates = "\n".join(path.read_text() for path in module.CHART.glob("templates/**/*") if path.is_file())
    for name in module.find_values():
        assert len(comments[name]) > 5, f"values.yaml says nothing of {name}"
        last = name.rpartition(".")[2]
        assert f".Values.{name}" in templates or re.search(rf"\s\.{last}\b", templates), name


def find_routes() -> list[tuple[str, type]]:
    return [route for module in handlers.MODULES for route in module.default_handlers]


def as_documented(pattern: str) -> re.Pattern[str]:
    """Return what a route of the table must match: its parts in braces stand for groups of the pattern."""
    return re.compile(pattern.replace("([^/]+)", r"\{\w+\}").replace("(?:/.*)?", ""))


def read_table() -> dict[str, list[tuple[set[str], str]]]:
    """Return the routes that docs/rest-api.md names, with methods and scope."""
    rows = re.findall(
        r"^\| `([^`]*)`[^|]*\| ([A-Z, ]+) \| (\w+) \|", (DOCS / "rest-api.md").read_text(), re.MULTILINE
    )
    table: dict[str, list[tuple[set[str], str]]] = {}
    for route, methods, scope in rows:
        table.setdefault("" if route == "/" else route, []).append((set(methods.split(", ")), scope))
    return table


@pytest.mark.parametrize("route", find_routes(), ids=lambda route: route[0] or "/")
def test_each_route_is_in_the_table_with_its_methods_and_scopes(route):
    pattern, handler = route
    named = [rows for path, rows in read_table().items() if as_documented(pattern).fullmatch(path)]
    assert named, f"docs/rest-api.md does not name {pattern}"
    said = {(method, scope) for methods, scope in named[0] for method in methods}
    for method in handler.SUPPORTED_METHODS:
        needs = getattr(getattr(handler, method.lower()), "needs", None)
        scopes = {scope for name, scope in said if name == method}
        if needs is None:
            assert not scopes, f"{method} {pattern} is not there"
        elif pattern:  # the one of "" is read for browsers only
            assert scopes == {needs.action or ("user" if needs.user else "open")}, f"{method} {pattern}"


def test_the_table_names_no_route_that_is_not_there():
    patterns = [as_documented(pattern) for pattern, _ in find_routes()]
    for path in read_table():
        assert any(pattern.fullmatch(path) for pattern in patterns), path


def test_openapi_describes_each_route_of_api_v1():
    routes = {
        path.removeprefix("api/v1/"): rows for path, rows in read_table().items() if path.startswith("api/v1")
    }
    described: dict[str, set[str]] = {}
    for operation in find_operations(find_routes()):
        described.setdefault(operation.path.removeprefix("/"), set()).add(operation.method)
    assert set(routes) == set(described)
    for path, rows in routes.items():
        methods = {method.lower() for names, _ in rows for method in names}
        assert methods == described[path], path


def find_query() -> set[str]:
    return {name for each in find_operations(find_routes()) for name in each.function.needs.query}


@pytest.mark.parametrize("name", sorted(find_query()))
def test_each_query_parameter_is_explained(name):
    assert f"`{name}`" in (DOCS / "rest-api.md").read_text()


@pytest.mark.parametrize("group", ["kbatch_server.launchers", "kbatch_server.storages"])
def test_each_entry_point_is_named(group):
    text = read_docs()
    found = [entry for entry in entry_points(group=group) if entry.value.startswith("kbatch_server.")]
    assert found
    for entry in found:
        assert re.search(rf'[`"]{entry.name}[`"]', text), entry.name
        assert entry.load().__name__ in text


def find_reasons() -> set[str]:
    """Return the reasons of jobs that cannot start or have failed, as far as they are words of ours."""
    names = ("engine/reconciler.py", "engine/launch.py", "launchers/kube/status/pods.py")
    sources = [ROOT / "kbatch_server" / name for name in names]
    text = "\n".join(path.read_text() for path in sources)
    found = re.findall(r'(?:reason=|LaunchRefused\(|return )"([A-Z]\w+)"', text)
    well = {"Launched", "Terminating", "Cancelled", "Complete"}
    found += [reason for reason, _ in EXIT_REASONS.values()]
    return {*found, *IMAGE_PROBLEMS, *SETUP_EVENTS, *START_PROBLEMS} - well


@pytest.mark.parametrize("reason", sorted(find_reasons()))
def test_each_reason_of_a_failure_is_explained(reason):
    assert f"`{reason}`" in (DOCS / "troubleshooting.md").read_text()


def find_variables() -> set[str]:
    """Return the names of the environment variables that the code reads."""
    sources = [*ROOT.glob("kbatch_server/**/*.py"), ROOT / "jupyterhub_config_snippet.py"]
    sources = [path for path in sources if path.parent.name != "in-job"]  # which no admin's variables reach
    text = "\n".join(path.read_text() for path in sources)
    found = re.findall(r'os\.(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\()\s*"(\w+)"', text)
    found += re.findall(r'"(\w+)" in os\.environ', text)
    return {*found, *KEYS}


@pytest.mark.parametrize("name", sorted(find_variables()))
def test_each_variable_of_the_environment_is_explained(name):
    assert f"`{name}`" in (DOCS / "install.md").read_text()


IN_POD = {
    "name": "name",
    "command": "command",
    "args": "arguments",
    "notebook": "notebook",
    "collect": "which files are results",
    "image": "image",
    "profile": "the admin's profiles",
    "profile_options": "the admin's profiles",
    "env": "environment",
    "secret_env": "own secrets",
    "secret_files": "own secrets",
    "registry_secrets": "own secrets",
    "upload": "code",
    "working_dir": "working folder",
    "cpu_limit": "CPU",
    "mem_limit": "memory",
    "shm_size": "shared memory",
    "retries": "retries",
    "retry_delay_seconds": "the waits between them",
    "retry_backoff": "the waits between them",
    "active_deadline_seconds": "deadline",
    "queue_name": "Kueue's queue",
    "hub_scopes": "the scopes of a token of the hub",
    "like": "the home of a server of theirs",
    "home": "the home of a server of theirs",
    "results_to_home": "which files are results",
}
"""What a page calls the fields of a request that reach the pod."""


def test_what_a_user_chooses_of_the_pod_is_listed():
    assert JobRequest.model_fields.keys() - IN_POD.keys() == {"description", "tags", "priority"}
    text = (DOCS / "security.md").read_text()
    [listed] = re.findall(r"^\| choose anything of the pod except (.*?) \|", text, re.MULTILINE)
    assert set(re.split(r", | and (?=the admin)", listed)) == set(IN_POD.values())


def test_the_times_of_the_tests_are_the_same_in_both_pages():
    readme, contributing = ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    whole = re.search(r"^\| `make test` \|.*\| (\d+ minutes; the first time \d+) \|$", readme, re.MULTILINE)
    quick = re.search(r"`make test-unit` runs the quick half of the tests, in (about \d+ seconds)\.", readme)
    takes = dict(re.findall(r"^\| `(make test.*?)` \|.*\| (.*?) \|$", contributing, re.MULTILINE))
    assert takes["make test"].startswith(whole[1])
    assert takes["make test-unit"] == takes["make test-unit HUB=5"] == quick[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in make_anchors(file), f"{page.name}: {target}"


def make_anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if find_code(page, "python")], ids=lambda page: page.name
)
def test_python_in_the_documents_is_python(page):
    for number, code in enumerate(find_code(page, "python")):
        compile(code, f"{page.name}, block {number}", "exec")


@pytest.mark.parametrize(("name", "base"), [("launchers.md", JobLauncher), ("storage.md", Storage)])
def test_the_examples_of_extensions_import_and_define_what_must_be_defined(name, base, tmp_path):
    blocks = [
        code
        for code in find_code(DOCS / name, "python")
        if re.search(rf"^class \w+\({base.__name__}\)", code, re.M)
    ]
    assert blocks, f"docs/{name} shows no subclass of {base.__name__}"
    for number, code in enumerate(blocks):
        path = tmp_path / f"example_{number}.py"
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        module.c = Config()
        spec.loader.exec_module(module)
        made = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base)]
        for cls in set(made) - {base}:
            needed = (
                {"launch", "poll", "terminate", "read_log"}
                if base is JobLauncher
                else {"write", "read", "get_size", "delete", "list"}
            )
            assert needed <= set(vars(cls)), f"{cls.__name__} lacks {needed - set(vars(cls))}"
            cls()


def test_the_configuration_in_the_documents_loads(tmp_path, monkeypatch):
    """Every block that sets traits names ones that exist."""
    from kbatch_server.app import KBatchServer
    from kbatch_server.settings.checks import check_config

    count = 0
    for page in PAGES:
        for code in find_code(page, "python"):
            if not re.match(r"(#.*\n)?(c = get_config\(\)\n)?c\.\w+\.\w+ = ", code):
                continue
            server = KBatchServer()
            (tmp_path / "example.py").write_text(code)
            server.load_config_file("example.py", path=str(tmp_path))
            known = {cls.__name__ for cls in server.classes}
            sections = {name: server.config[name] for name in server.config if name in known}
            check_config(type(server.config)(sections), server.classes)
            count += 1
    assert count > 3


def test_the_role_of_the_documents_is_what_the_launcher_uses():
    manifests = [
        each for code in find_code(DOCS / "install.md", "yaml")[:1] for each in yaml.safe_load_all(code)
    ]
    role = next(each for each in manifests if each["kind"] == "Role")
    allowed = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert allowed == {
        *(("jobs", verb) for verb in ("create", "get", "list", "watch", "patch", "delete")),
        *(("secrets", verb) for verb in ("create", "get", "update")),
        *(("pods", verb) for verb in ("get", "list", "watch", "patch", "delete")),
        ("pods/log", "get"),
        *(("events", verb) for verb in ("list", "watch")),
    }
