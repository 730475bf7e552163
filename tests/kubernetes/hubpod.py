"""A JupyterHub in the cluster, configured by the snippet, with its proxy as a pod of its own, for tests."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import kubernetes

from tests.support.cluster import ClusterLike
from tests.support.images import HUB
from tests.support.servers import START_SECONDS
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
BASE = "/compute/"
PASSWORD = "test"

CONFIG = f"""
import os
load_subconfig("/etc/hub/jupyterhub_config_snippet.py")
c.JupyterHub.base_url = "{BASE}"
c.JupyterHub.bind_url = "http://:8000{BASE}"
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.hub_connect_url = "http://hub:8081"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://proxy-api:8001"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{PASSWORD}"
c.Authenticator.allow_all = True
# another service, several replicas in a namespace of their own, which are started later
c.JupyterHub.services.append(
    {{
        "name": "replicas",
        "url": os.environ["REPLICAS_URL"],
        "api_token": os.environ["REPLICAS_TOKEN"],
        "timeout": 1,
    }}
)
c.JupyterHub.load_roles.append(
    {{"name": "replicas", "scopes": ["access:services!service=replicas"], "users": ["alice"]}}
)
"""

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class HubPod:
    """One hub and one proxy in a namespace, and the Services ``hub``, ``proxy-api`` and ``proxy-public``."""

    def __init__(self, api_client: Any, cluster: ClusterLike, namespace: str) -> None:
        self._core = kubernetes.client.CoreV1Api(api_client)
        self._apps = kubernetes.client.AppsV1Api(api_client)
        self._cluster = cluster
        self.namespace = namespace
        self.api_url = f"http://hub.{namespace}.svc:8081{BASE}hub/api"
        self.tokens = {name: secrets.token_hex(16) for name in ("kbatch", "replicas", "proxy")}

    def deploy(self, urls: dict[str, str]) -> None:
        """Make all of it; ``urls`` says where the services ``kbatch`` and ``replicas`` are."""
        snippet = (ROOT / "jupyterhub_config_snippet.py").read_text()
        files = {"jupyterhub_config_snippet.py": snippet, "jupyterhub_config.py": CONFIG}
        self._core.create_namespaced_config_map(self.namespace, {"metadata": {"name": "hub"}, "data": files})
        proxy = [
            *(
                "configurable-http-proxy",
                "--ip=0.0.0.0",
                "--port=8000",
                "--api-ip=0.0.0.0",
                "--api-port=8001",
            ),
            *("--default-target=http://hub:8081", f"--error-target=http://hub:8081{BASE}hub/error"),
        ]
        self._deploy("proxy", proxy, {"CONFIGPROXY_AUTH_TOKEN": self.tokens["proxy"]})
        environ = {
            "CONFIGPROXY_AUTH_TOKEN": self.tokens["proxy"],
            "KBATCH_SERVICE_URL": urls["kbatch"],
            "KBATCH_API_TOKEN": self.tokens["kbatch"],
            "REPLICAS_URL": urls["replicas"],
            "REPLICAS_TOKEN": self.tokens["replicas"],
        }
        self._deploy("hub", ["jupyterhub", "-f", "/etc/hub/jupyterhub_config.py"], environ)
        self._serve("proxy-api", "proxy", 8001)
        self._serve("hub", "hub", 8081)
        self.url = f"http://{self._serve('proxy-public', 'proxy', 8000)}:8000{BASE}"

    def _deploy(self, name: str, command: list[str], environ: dict[str, str]) -> None:
        container = {
            "name": name,
            "image": HUB,
            "imagePullPolicy": "Never",
            "command": command,
            "workingDir": "/srv/hub",
            "env": [{"name": key, "value": value} for key, value in environ.items()],
            "securityContext": RESTRICTED,
            "volumeMounts": [
                {"name": "srv", "mountPath": "/srv/hub"},
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "config", "mountPath": "/etc/hub"},
            ],
        }
        user = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
        pod = {
            "securityContext": user | {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
            "volumes": [
                {"name": "srv", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "hub"}},
            ],
        }
        # the labels of zero-to-jupyterhub
        labels = {"app": "jupyterhub", "component": name}
        template = {"metadata": {"labels": labels}, "spec": pod}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        self._apps.create_namespaced_deployment(self.namespace, {"metadata": {"name": name}, "spec": spec})

    def _serve(self, name: str, component: str, port: int) -> str:
        """Make a Service and return its address."""
        selector = {"app": "jupyterhub", "component": component}
        spec = {"selector": selector, "ports": [{"port": port}]}
        made = self._core.create_namespaced_service(
            self.namespace, {"metadata": {"name": name}, "spec": spec}
        )
        address: str = made.spec.cluster_ip
        return address

    def wait(self) -> None:
        """Wait until the proxy leads to the service, which is after the hub has answered at first."""

        def is_reached() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}services/kbatch/api/v1/health", timeout=5).is_success
            return False

        wait_until(is_reached, lambda: f"the hub does not answer:\n{self.log()}", START_SECONDS)

    def log(self) -> str:
        """Return the end of the logs of its pods."""
        texts = []
        for pod in self._core.list_namespaced_pod(self.namespace, label_selector="app=jupyterhub").items:
            name = pod.metadata.name
            try:
                texts.append(self._core.read_namespaced_pod_log(name, self.namespace, tail_lines=40))
            except kubernetes.client.ApiException as error:
                texts.append(f"{name}: {pod.status.phase}, no log: {error.status}")
        return "\n".join(texts)


class Browser:
    """What a person's browser does: follows redirects, keeps cookies, sends forms."""

    def __init__(self, url: str, user: str) -> None:
        self.url = url
        self.user = user
        self.http = httpx.Client(
            follow_redirects=True, timeout=30, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        )

    def log_in(self) -> None:
        """Ask for the service's page, be sent to the hub's login, fill it in, and come back to the page."""
        asked = f"{self.url}services/kbatch/"
        page = self.http.get(asked)
        assert "/hub/login" in str(page.url), f"{page.url}: {page.text[:500]}"
        action = re.search(r'<form[^>]*action="([^"]+)"', page.text)
        token = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert action is not None, page.text[:2000]
        assert token is not None, page.text[:2000]
        form = {"username": self.user, "password": PASSWORD, "_xsrf": token[1]}
        page = self.http.post(urljoin(str(page.url), action[1].replace("&amp;", "&")), data=form)
        assert (page.status_code, str(page.url)) == (200, asked), page.text[:2000]

    def make_token(self) -> str:
        """Ask for a token as the hub's page /hub/token does."""
        page = self.http.get(f"{self.url}hub/token")
        page.raise_for_status()
        xsrf = re.search(r'xsrf_token: "([^"]+)"', page.text)
        assert xsrf, page.text[:2000]
        made = self.http.post(
            f"{self.url}hub/api/users/{self.user}/tokens",
            headers={"X-XSRFToken": xsrf[1], "Referer": str(page.url)},
            json={"note": "from a page", "expires_in": 3600},
        )
        assert made.status_code == 201, made.text
        token: str = made.json()["token"]
        return token

    def close(self) -> None:
        """Close its connections."""
        self.http.close()
