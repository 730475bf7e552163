"""One machine for a cluster, made of namespaces: its own processes, mounts, network and cgroups.

Two clusters share no port, bridge, iptables chain or cgroup, so they can run side by side, and
whatever a cluster leaves behind goes when its namespaces do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


class ClusterError(Exception):
    """The test cluster did not do as it should; says what its log says."""


@dataclass(frozen=True)
class Network:
    """The addresses of one cluster: the block 10.NUMBER.0.0/16."""

    number: int

    @property
    def interface(self) -> str:
        return f"kbatch{self.number}"

    @property
    def pod_subnet(self) -> str:
        return f"10.{self.number}.0.0/24"

    @property
    def service_subnet(self) -> str:
        return f"10.{self.number}.1.0/24"

    @property
    def host_address(self) -> str:
        return f"10.{self.number}.2.1"

    @property
    def node_address(self) -> str:
        return f"10.{self.number}.2.2"


class Node:
    """The namespaces, and the processes started in them.

    ``state.json`` in the run folder holds all that is needed to find them again from another
    process (``Node.load``).
    """

    def __init__(self, run_dir: Path, network: Network, init: int = 0, namespace: str = "") -> None:
        self.run_dir = run_dir
        self.network = network
        self.init = init
        self.namespace = namespace
        self.processes: dict[str, int] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    @classmethod
    def create(cls, run_dir: Path, *, detached: bool) -> Node:
        """Make the namespaces; unless ``detached``, they end with this process, however it ends."""
        mode = "detached" if detached else "tied"
        unshare = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--net"]
        init_py = str(Path(__file__).with_name("init.py"))
        log = run_dir / "init.log"
        with log.open("wb") as errors:
            child = subprocess.Popen(
                [*unshare, sys.executable, init_py, str(run_dir), mode],
                stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C is for the tests, which then stop the cluster
            )
        assert child.stdout is not None
        with child.stdout:
            is_ready = child.stdout.readline() == b"ready\n"
        if not is_ready:
            raise ClusterError(f"could not make namespaces:\n{log.read_text()}")
        init = _child_of(child)
        node = cls(run_dir, Network(0), init, os.readlink(f"/proc/{init}/ns/net"))
        node._children.append(child)
        try:
            node.network = _connect(init)
            node._configure_network()
            for folder in node._cgroups():
                folder.mkdir(exist_ok=True)
        except BaseException:
            node.destroy()
            raise
        node._save()
        return node

    @classmethod
    def load(cls, run_dir: Path) -> Node:
        """Find the node that another process made."""
        state = json.loads((run_dir / "state.json").read_text())
        node = cls(run_dir, Network(state["number"]), state["init"], state["namespace"])
        node.processes = state["processes"]
        return node

    @property
    def is_alive(self) -> bool:
        return self._is_ours(self.init)

    def run(self, *command: str) -> str:
        """Run a command in the node and return what it prints."""
        done = subprocess.run(
            [*self._enter(), *command],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} failed: {done.stdout.strip()}")
        return done.stdout

    def spawn(self, name: str, command: list[str]) -> None:
        """Start a process that stays; what it prints goes to ``log/NAME.log``."""
        log = self.run_dir / "log" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*self._enter(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        self.processes[name] = _child_of(child)  # nsenter has forked into the PID namespace
        self._save()

    def kill(self, name: str, signum: int = signal.SIGTERM) -> None:
        """End one process and wait until it has."""
        pid = self.processes[name]
        if self._is_ours(pid):
            os.kill(pid, signum)
        # its other threads may still be about to end, and until then have its ports
        wait_until(lambda: not self._is_ours(pid) and _count_threads(pid) <= 1, 90, f"{name} does not end")

    def is_running(self, name: str) -> bool:
        return self._is_ours(self.processes.get(name, 0))

    def log_tail(self, name: str, lines: int = 25) -> str:
        """The last lines that a process printed."""
        text = (self.run_dir / "log" / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def destroy(self) -> None:
        """End every process in the node, and remove its cgroups and the run folder.

        The link to the host needs no removal: the kernel does that when the other end is gone.
        """
        if self.is_alive:
            os.kill(self.init, signal.SIGKILL)
            wait_until(lambda: not self.is_alive, 30, "the node does not end")
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            if child.stdin is not None:
                child.stdin.close()
        wait_until(self._remove_cgroups, 10, "cgroups cannot be removed")
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def leave_running(self) -> None:
        """Let what was spawned here outlive this process."""
        for child in self._children:
            child.returncode = 0  # else Popen warns that nobody waited for it
        self._children.clear()

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self.init}", "--pid", "--mount", "--net", "--"]

    def _is_ours(self, pid: int) -> bool:
        """Whether the process lives and is in our namespace: a number may have been given again."""
        try:
            return os.readlink(f"/proc/{pid}/ns/net") == self.namespace
        except OSError:
            return False

    def _save(self) -> None:
        state = {
            "number": self.network.number,
            "init": self.init,
            "namespace": self.namespace,
            "processes": self.processes,
        }
        scratch = self.run_dir / "state.json.part"
        scratch.write_text(json.dumps(state, indent=2) + "\n")
        scratch.rename(self.run_dir / "state.json")  # so that others never read half of it

    def _configure_network(self) -> None:
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{self.network.node_address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", self.network.host_address)
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        with contextlib.suppress(ClusterError):  # no such switch where bridges always ask iptables
            self.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")

    def _cgroups(self) -> list[Path]:
        """Our folder in each hierarchy; kubelet clears what it finds there, so nobody shares it."""
        root = Path("/sys/fs/cgroup")
        if (root / "cgroup.controllers").exists():
            hierarchies = [root]
        else:
            hierarchies = [path for path in root.iterdir() if path.is_mount()]
        return [path / self.run_dir.name for path in hierarchies]

    def _remove_cgroups(self) -> bool:
        for top in self._cgroups():
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # a process in it is still being buried
                    os.rmdir(folder)
        return not any(top.exists() for top in self._cgroups())


def wait_until(done: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Poll until ``done()``, or raise ``ClusterError``."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise ClusterError(f"{complaint} ({seconds:.0f} s)")
        time.sleep(0.05)


def _count_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _child_of(parent: subprocess.Popen[bytes]) -> int:
    """The one child that ``unshare`` or ``nsenter`` forks; 0 when it has ended already."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while parent.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.01)
    return 0


def _connect(init: int) -> Network:
    """Link the node to the host, under the first number that nobody has."""
    used = _ip("-4", "route", "show", "table", "all")
    for network in _networks():
        peer = ["peer", "name", "eth0", "netns", str(init)]
        if f"10.{network.number}." in used:
            continue
        try:  # the link claims the number: a second cluster that starts now gets the next
            _ip("link", "add", network.interface, "type", "veth", *peer)
        except ClusterError:
            continue
        _ip("address", "add", f"{network.host_address}/24", "dev", network.interface)
        _ip("link", "set", network.interface, "up")
        # so that tests reach Services as pods do; it goes with the link
        _ip("route", "add", network.service_subnet, "via", network.node_address)
        return network
    raise ClusterError("no free network for the cluster; are old ones still running?")


def _networks() -> Iterator[Network]:
    return (Network(number) for number in range(201, 250))


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(f"ip {' '.join(args)} failed: {done.stderr.strip()}")
    return done.stdout
