"""What admins give their hub says the same twice: the snippet, and the values of zero-to-jupyterhub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from traitlets.config import Config

from kbatch_server.auth import DEFAULT_SCOPES

ROOT = Path(__file__).parents[1]
SNIPPET = ROOT / "jupyterhub_config_snippet.py"
HUB = yaml.safe_load((ROOT / "helm" / "zero-to-jupyterhub-values.yaml").read_text())["hub"]
URL = "http://kbatch-server:80"


def run_snippet(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Any:
    """Return what the snippet makes of a hub's configuration."""
    for name in ("KBATCH_SERVICE_URL", "KBATCH_API_TOKEN", "KBATCH_DIRECTORY", "KBATCH_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    hub = SimpleNamespace(custom_scopes={}, load_roles=[], services=[])
    exec(
        compile(SNIPPET.read_text(), SNIPPET, "exec"), {"get_config": lambda: SimpleNamespace(JupyterHub=hub)}
    )
    return hub


def read_roles() -> list[dict[str, Any]]:
    """Return the roles of the values, as zero-to-jupyterhub hands them to the hub."""
    return [{"name": name, **role} for name, role in HUB["loadRoles"].items()]


def test_both_know_the_scopes_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = HUB["config"]["JupyterHub"]["custom_scopes"]
    assert set(scopes) == {scope for scope in DEFAULT_SCOPES.values() if scope.startswith("custom:")}
    assert scopes == run_snippet(monkeypatch).custom_scopes
    others = set(scopes) - {DEFAULT_SCOPES["admin"]}
    assert set(scopes[DEFAULT_SCOPES["admin"]]["subscopes"]) == others


def test_both_give_the_same_roles_to_the_same_people(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(roles: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(roles, key=lambda role: role["name"])

    assert order(read_roles()) == order(run_snippet(monkeypatch).load_roles)
    [admins] = [role for role in read_roles() if DEFAULT_SCOPES["admin"] in role["scopes"]]
    assert admins["groups"] == ["kbatch-admins"]


def test_both_name_the_same_external_service(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = run_snippet(monkeypatch, KBATCH_SERVICE_URL=URL, KBATCH_API_TOKEN="secret")
    [said] = hub.services
    assert said.pop("api_token") == "secret"
    [(name, service)] = HUB["services"].items()
    assert {"name": name, **service} == said
    assert "apiToken" not in service  # the hub's chart makes it, and keeps it in its Secret


def test_a_service_that_the_hub_starts_is_the_snippet_s_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    [service] = run_snippet(monkeypatch, KBATCH_PORT="9000", KBATCH_DIRECTORY="/srv/kbatch").services
    assert service["url"] == "http://127.0.0.1:9000"
    assert service["command"][-2:] == ["-m", "kbatch_server"]
    assert service["cwd"] == "/srv/kbatch"
    assert "api_token" not in service


def test_the_hub_takes_the_scopes_and_roles() -> None:
    """By the checks of JupyterHub itself, which a hub makes at its start."""
    from jupyterhub.app import JupyterHub
    from jupyterhub.scopes import define_custom_scopes

    config = Config()
    config.JupyterHub.update(HUB["config"]["JupyterHub"])
    config.JupyterHub.load_roles = read_roles()
    hub = JupyterHub(config=config)
    assert hub.load_roles == read_roles()
    define_custom_scopes(hub.custom_scopes)
