"""A real one-node Kubernetes on this machine, for tests: start it, load images, stop it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tests.support.servers import START_SECONDS

from . import build, components
from .images import BUSYBOX, find_busybox, make_images
from .node import ClusterError, Network, Node, wait_until

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))

# Debian's package of each program that a cluster needs.
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "sysctl": "procps",
    "nsenter": "util-linux",
    "dnsmasq": "dnsmasq-base",
    "openssl": "openssl",
}

RUN_PREFIX = "kbatch-cluster-"


class ClusterLike(Protocol):
    """What tests may ask of a cluster, be it ours or the developer's."""

    @property
    def kubeconfig(self) -> Path: ...

    @property
    def host_address(self) -> str:
        """Where a pod reaches a server that the tests run, on any port that listens there."""

    @property
    def image(self) -> str:
        """An image with busybox that the cluster can run."""

    @property
    def is_ours(self) -> bool:
        """Whether tests may load images and stop the API server."""

    def load_image(self, archive: Path) -> None: ...
    def serve_names(self, names: Mapping[str, str]) -> None: ...
    def stop_apiserver(self, signum: int = signal.SIGKILL) -> None: ...
    def start_apiserver(self) -> None: ...
    def stop_kubelet(self) -> None: ...
    def start_kubelet(self) -> None: ...
    def stop(self) -> None: ...


class Cluster:
    """One node with everything on it, in namespaces of its own (see ``node.py``)."""

    image = BUSYBOX
    is_ours = True

    def __init__(self, *, detached: bool = False) -> None:
        self.detached = detached
        self.run_dir = Path()
        self._node: Node | None = None

    @classmethod
    def load(cls, run_dir: Path) -> Cluster:
        """Find a cluster that another process started."""
        cluster = cls(detached=True)
        cluster.run_dir = run_dir
        cluster._node = Node.load(run_dir)
        return cluster

    @property
    def node(self) -> Node:
        if self._node is None:
            raise ClusterError("the cluster is not started")
        return self._node

    @property
    def network(self) -> Network:
        return self.node.network

    @property
    def kubeconfig(self) -> Path:
        return self.run_dir / "kubeconfig"

    @property
    def host_address(self) -> str:
        return self.network.host_address

    @property
    def pod_subnet(self) -> str:
        return self.network.pod_subnet

    @property
    def is_alive(self) -> bool:
        return self._node is not None and self._node.is_alive

    def start(self) -> None:
        """Start everything and return when a pod can run."""
        lacking = missing_tools()
        if lacking:
            raise ClusterError(f"the test cluster needs {', '.join(lacking)}")
        remove_dead_clusters()
        build.find_binaries()
        self.run_dir = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-"))
        try:
            self._node = Node.create(self.run_dir, detached=self.detached)
            self._start_components()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all of it and leave nothing behind; harmless when it is stopped already."""
        if self._node is not None:
            self._node.destroy()
            self._node = None
        elif self.run_dir.name.startswith(RUN_PREFIX):
            shutil.rmtree(self.run_dir)

    def load_image(self, archive: Path) -> None:
        """Give the node an image, as there is no registry to pull it from: a docker-archive."""
        self.node.run("ctr", "--namespace=k8s.io", "images", "import", str(archive.resolve()))

    def serve_names(self, names: Mapping[str, str]) -> None:
        """Let pods look these names up, each with its address, and no others (package dnsmasq-base)."""
        hosts = self.run_dir / "hosts"
        text = "".join(f"{names[each]} {each}\n" for each in sorted(names))
        if hosts.exists() and hosts.read_text() == text:
            return  # who looks a name up just now is not to be disturbed
        hosts.write_text(text)
        if "dnsmasq" in self.node.processes:
            self.node.kill("dnsmasq")
        self._spawn("dnsmasq")

    def stop_apiserver(self, signum: int = signal.SIGKILL) -> None:
        """End the API server: its clients see connections break, and then be refused.

        With SIGTERM it takes a minute, as it waits for those who watch.
        """
        self.node.kill("kube-apiserver", signum)

    def start_apiserver(self) -> None:
        """Start the API server (again), at the address it had, and wait until it is ready."""
        self._spawn("kube-apiserver")
        self._wait_for("kube-apiserver", lambda: self._get("/readyz") == b"ok")

    def _start_components(self) -> None:
        plugins = find_cni_plugins()
        assert plugins is not None  # missing_tools looked
        files = components.make_files(self.run_dir, self.network, plugins)
        for name, text in files.items():
            path = self.run_dir / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        _make_service_account_key(self.run_dir / "pki")
        self._spawn("containerd")
        self._spawn("etcd")
        self.start_apiserver()
        certificate = base64.b64encode((self.run_dir / "pki/apiserver.crt").read_bytes()).decode()
        kubeconfig = components.make_kubeconfig(self.network, certificate)
        self.kubeconfig.write_text(json.dumps(kubeconfig, indent=2) + "\n")  # JSON is YAML
        for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
            self._spawn(name)
        self._wait_for("containerd", self._containerd_answers)
        with tempfile.TemporaryDirectory(dir=self.run_dir) as folder:
            for archive in make_images(Path(folder)):
                self.load_image(archive)
        self._wait_for("kubelet", self._node_is_ready)

    def stop_kubelet(self) -> None:
        """End the node's kubelet, as when a node is lost: what runs there goes on, and nobody hears of it."""
        self.node.kill("kubelet", signal.SIGKILL)

    def start_kubelet(self) -> None:
        """Start it (again), and wait until the node is ready."""
        self._spawn("kubelet")
        self._wait_for("kubelet", self._node_is_ready)

    def _spawn(self, name: str) -> None:
        commands = components.make_commands(build.bin_dir(), self.run_dir, self.network)
        self.node.spawn(name, commands[name])

    def _wait_for(self, name: str, done: Callable[[], bool]) -> None:
        def done_or_dead() -> bool:
            for process in self.node.processes:
                if not self.node.is_running(process):
                    raise ClusterError(f"{process} ended:\n{self.node.log_tail(process)}")
            return done()

        try:
            wait_until(done_or_dead, START_SECONDS, f"{name} is not ready")
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.node.log_tail(name)}") from None

    def _containerd_answers(self) -> bool:
        with contextlib.suppress(ClusterError):
            return bool(self.node.run("ctr", "version"))
        return False

    def _node_is_ready(self) -> bool:
        node = json.loads(self._get(f"/api/v1/nodes/{components.NODE_NAME}") or b"{}")
        conditions = node.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _get(self, path: str) -> bytes:
        """What the API server answers, or nothing while it does not."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is making its certificate just now
        connection = http.client.HTTPSConnection(
            self.network.node_address, components.API_PORT, context=context, timeout=5
        )
        with contextlib.closing(connection):
            try:
                headers = {"Authorization": f"Bearer {components.TOKEN}"}
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                return response.read() if response.status == 200 else b""
            except (OSError, http.client.HTTPException):
                return b""


class LeftRunningCluster(Cluster):
    """The one that ``python -m tests.support.cluster up`` started, and only ``down`` stops."""

    def stop(self) -> None:
        """Leave it running."""
        self.node.leave_running()


class UserCluster:
    """A cluster of the developer's, which ``KUBECONFIG`` names: used, and not touched otherwise."""

    is_ours = False

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.image = os.environ.get("KBATCH_TEST_IMAGE", "busybox:1.36")

    @property
    def host_address(self) -> str:
        return os.environ.get("KBATCH_TEST_HOST_ADDRESS") or _outward_address()

    def load_image(self, archive: Path) -> None:
        """Do nothing: the images must be where this cluster pulls from."""

    def serve_names(self, names: Mapping[str, str]) -> None:
        """Do nothing: this cluster has a name server."""

    def stop_apiserver(self, signum: int = signal.SIGKILL) -> None:
        raise ClusterError("the cluster of KUBECONFIG is not ours to stop")

    def start_apiserver(self) -> None:
        raise ClusterError("the cluster of KUBECONFIG is not ours to start")

    def stop_kubelet(self) -> None:
        raise ClusterError("the nodes of KUBECONFIG's cluster are not ours to stop")

    def start_kubelet(self) -> None:
        raise ClusterError("the nodes of KUBECONFIG's cluster are not ours to start")

    def stop(self) -> None:
        """Leave it running."""


def ensure_cluster() -> ClusterLike:
    """Return a cluster that runs: the one that ``KUBECONFIG`` names, else a new one."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig:
        cluster = Cluster()
        cluster.start()
        return cluster
    path = Path(kubeconfig)
    if path.parent.name.startswith(RUN_PREFIX):
        return LeftRunningCluster.load(path.parent)
    return UserCluster(path)


def missing_tools() -> list[str]:
    """What this machine lacks for a cluster of ours, in words; empty when it lacks nothing."""
    lacking = [
        f"{program} (package {package})"
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    ]
    if find_cni_plugins() is None:
        lacking.append("CNI plugins (package containernetworking-plugins)")
    if find_busybox() is None:
        lacking.append("a static busybox (package busybox-static)")
    if os.geteuid() != 0:
        lacking.append("to be run by root")
    return lacking


def find_cni_plugins() -> Path | None:
    """Where the distribution puts the network plugins."""
    return next((path for path in CNI_FOLDERS if (path / "bridge").exists()), None)


def remove_dead_clusters() -> None:
    """Clear up after runs that were killed; their processes ended with them."""
    for run_dir in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*"):
        try:
            node = Node.load(run_dir)
        except FileNotFoundError:
            continue  # it is just being made, or removed
        if not node.is_alive:
            node.destroy()


def _make_service_account_key(folder: Path) -> None:
    """The pair that service account tokens are signed and checked with."""
    folder.mkdir()
    private, public = str(folder / "sa.key"), str(folder / "sa.pub")
    quiet = subprocess.DEVNULL
    subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, stderr=quiet)
    command = ["openssl", "rsa", "-in", private, "-pubout", "-out", public]
    subprocess.run(command, check=True, stderr=quiet)


def _outward_address() -> str:
    """The address of this machine that others reach; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address: str = probe.getsockname()[0]
        return address
