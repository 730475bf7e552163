"""What admins give their hub says the same twice: the snippet, and the values of zero-to-jupyterhub."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jupyterhub.app import JupyterHub
from jupyterhub.scopes import define_custom_scopes
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from kbatch_server.web.auth import DEFAULT_SCOPES
from tests.support.hub import Hub
from tests.support.ports import find_ports

ROOT = Path(__file__).parents[2]
SNIPPET = ROOT / "jupyterhub_config_snippet.py"
HUB = yaml.safe_load((ROOT / "helm" / "zero-to-jupyterhub-values.yaml").read_text())["hub"]
URL = "http://kbatch-server:80"


def run_snippet(
    monkeypatch: pytest.MonkeyPatch, roles: list[dict[str, Any]] | None = None, **environ: str
) -> Any:
    """Return what the snippet makes of a hub's configuration, which may have roles already."""
    for name in ("KBATCH_SERVICE_URL", "KBATCH_API_TOKEN", "KBATCH_DIRECTORY", "KBATCH_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    config = make_config(roles)
    exec(compile(SNIPPET.read_text(), SNIPPET, "exec"), {"get_config": lambda: config})
    return JupyterHub(config=config)


def run_values(*roles: dict[str, Any]) -> Any:
    """Return what the values make of a hub's configuration, which may have roles already."""
    config = make_config()
    config.JupyterHub.update(copy.deepcopy(HUB["config"]["JupyterHub"]))
    for role in roles:
        config.JupyterHub.load_roles.append(role)  # as the hub's chart does with loadRoles
    exec(HUB["extraConfig"]["kbatch"], {"c": config})
    return JupyterHub(config=config)


def make_config(roles: list[dict[str, Any]] | None = None) -> Config:
    config = Config()
    if roles is not None:
        config.JupyterHub.load_roles = roles
    return config


def test_both_know_the_scopes_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = HUB["config"]["JupyterHub"]["custom_scopes"]
    assert set(scopes) == {scope for scope in DEFAULT_SCOPES.values() if scope.startswith("custom:")}
    assert scopes == run_snippet(monkeypatch).custom_scopes
    others = set(scopes) - {DEFAULT_SCOPES["admin"]}
    assert set(scopes[DEFAULT_SCOPES["admin"]]["subscopes"]) == others


def test_both_give_the_same_roles_to_the_same_people(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = run_values().load_roles
    assert roles == run_snippet(monkeypatch).load_roles
    assert {"user", "server"} <= {role["name"] for role in roles}
    [admins] = [role for role in roles if DEFAULT_SCOPES["admin"] in role["scopes"]]
    assert admins["groups"] == ["kbatch-admins"]


@pytest.mark.parametrize("name", ["user", "server", "kbatch-admins"])
def test_both_add_to_a_role_that_the_hub_has_already(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = {"name": name, "description": "ours", "scopes": ["list:users", "access:services!service=kbatch"]}
    other = {"name": "teachers", "scopes": ["list:users"], "groups": ["teachers"]}
    roles = run_values(dict(own), other).load_roles
    assert roles == run_snippet(monkeypatch, [dict(own), other]).load_roles
    assert len({role["name"] for role in roles}) == len(roles) == 4
    assert other in roles
    [role] = [role for role in roles if role["name"] == name]
    assert role["description"] == "ours"
    assert role["scopes"][:2] == own["scopes"]
    assert len(set(role["scopes"])) == len(role["scopes"])
    assert all("kbatch" in scope for scope in role["scopes"][2:])  # and nothing that the admin left out
    assert any(scope.startswith("custom:kbatch") for scope in role["scopes"])


@pytest.mark.parametrize("order", ["own values first", "own values last"])
def test_the_values_leave_a_role_of_the_admin_s_own_values_alone(order: str) -> None:
    """Helm merges files of values: of a list that is in both, it takes the last and drops the other."""
    own = {"loadRoles": {"user": {"scopes": ["self", "list:users"]}}, "extraConfig": {"own": "pass"}}
    files = [own, HUB] if order == "own values first" else [HUB, own]
    merged = merge_values(*files)
    roles = [{"name": name, **role} for name, role in merged["loadRoles"].items()]
    config = make_config(roles)
    for code in merged["extraConfig"].values():
        exec(code, {"c": config})
    [user] = [role for role in JupyterHub(config=config).load_roles if role["name"] == "user"]
    assert {"self", "list:users", "custom:kbatch:jobs:submit"} <= set(user["scopes"])


def merge_values(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return what helm makes of two files of values."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_values(merged[key], value) if both else value
    return merged


@pytest.mark.parametrize("order", ["before", "after", "in a file that loads it", "in another loaded file"])
def test_the_snippet_adds_to_roles_wherever_they_are(tmp_path: Path, order: str) -> None:
    """The last two are how The Littlest JupyterHub reads what is in jupyterhub_config.d."""
    own = 'c.JupyterHub.load_roles.append({"name": "user", "scopes": ["self", "list:users"]})\n'
    assigned = 'c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "list:users"]}]\n'
    snippet = SNIPPET.read_text()
    files = {
        "before": {"main.py": assigned + snippet},
        "after": {"main.py": snippet + own},
        "in a file that loads it": {
            "main.py": assigned + "load_subconfig('kbatch.py')\n",
            "kbatch.py": snippet,
        },
        "in another loaded file": {
            "main.py": "load_subconfig('a.py')\nload_subconfig('kbatch.py')\n",
            "a.py": own,
            "kbatch.py": snippet,
        },
    }[order]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    hub = JupyterHub(config=PyFileConfigLoader("main.py", str(tmp_path)).load_config())
    [user] = [role for role in hub.load_roles if role["name"] == "user"]
    assert user["scopes"][:2] == ["self", "list:users"]
    assert "custom:kbatch:jobs:submit" in user["scopes"]
    assert [role["name"] for role in hub.load_roles].count("kbatch-admins") == 1


def test_a_hub_with_roles_of_its_own_starts_with_the_snippet(tmp_path: Path) -> None:
    own = 'c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "list:users"]}]'
    hub = Hub(tmp_path, service_url=f"http://127.0.0.1:{find_ports(1)[0]}", before=own)
    try:
        hub.start()
        headers = {"Authorization": f"token {hub.make_token('alice')}"}
        scopes = httpx.get(f"{hub.api_url}/user", headers=headers).json()["scopes"]
    finally:
        hub.stop()
    assert {"list:users", "custom:kbatch:jobs:submit"} <= {scope.partition("!")[0] for scope in scopes}


def test_both_name_the_same_external_service(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = run_snippet(monkeypatch, KBATCH_SERVICE_URL=URL, KBATCH_API_TOKEN="secret")
    [said] = hub.services
    assert said.pop("api_token") == "secret"
    [(name, service)] = HUB["services"].items()
    assert {"name": name, **service} == said
    assert "apiToken" not in service  # the hub's chart makes it, and keeps it in its Secret


def test_a_service_that_the_hub_starts_is_the_snippet_s_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = run_snippet(monkeypatch, KBATCH_PORT="9000", KBATCH_DIRECTORY="/srv/kbatch")
    [service] = hub.services
    assert service["url"] == "http://127.0.0.1:9000"
    assert service["command"][-2:] == ["-m", "kbatch_server"]
    assert service["cwd"] == "/srv/kbatch"
    assert "api_token" not in service


def test_the_service_works_with_a_hub_that_has_internal_ssl(tmp_path: Path) -> None:
    (tmp_path / "kbatch_server_config.py").write_text(
        "c.KBatchServer.launcher_class = 'local'\nc.JobConfig.image = 'this-machine'\n"
    )
    hub = Hub(tmp_path, internal_ssl=True)
    try:
        hub.start()
        headers = {"Authorization": f"token {hub.make_token('alice')}"}
        answer = httpx.get(f"{hub.kbatch_url}api/v1/user", headers=headers, timeout=30)
    finally:
        hub.stop()
    assert (answer.status_code, answer.json()["name"]) == (200, "alice")


def test_the_hub_takes_the_scopes_and_roles() -> None:
    """By the checks of JupyterHub itself, which a hub makes at its start."""
    hub = run_values()
    assert {"user", "server", "kbatch-admins"} == {role["name"] for role in hub.load_roles}
    define_custom_scopes(hub.custom_scopes)
