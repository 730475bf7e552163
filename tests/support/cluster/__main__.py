"""Keep a test cluster running between test runs: ``python -m tests.support.cluster up|down|status``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.support.parts import cache_dir
from tests.support.provision import provision

from .cluster import Cluster
from .node import ClusterError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.cluster", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status"])
    action = parser.parse_args().action
    try:
        return {"up": up, "down": down, "status": status}[action]()
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


def up() -> int:
    """Start the cluster where none runs, and print what a shell must know about it."""
    cluster = find_running()
    if cluster is None:
        if errors := provision("Kubernetes", out=sys.stderr):
            raise ClusterError("\n".join(errors))
        cluster = Cluster(detached=True)
        cluster.start()
        cluster.node.leave_running()
        _state_file().parent.mkdir(parents=True, exist_ok=True)
        _state_file().write_text(f"{cluster.run_dir}\n")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def down() -> int:
    """Stop the cluster that ``up`` started; fine when there is none."""
    cluster = find_running()
    if cluster is not None:
        cluster.stop()
    _state_file().unlink(missing_ok=True)
    return 0


def status() -> int:
    """Say where the cluster is; 1 when there is none."""
    cluster = find_running()
    if cluster is None:
        print("not running")
        return 1
    print(f"KUBECONFIG={cluster.kubeconfig}")
    for name, pid in cluster.node.processes.items():
        print(f"{name}: {f'pid {pid}' if cluster.node.is_running(name) else 'ended'}")
    return 0


def find_running() -> Cluster | None:
    """The cluster that ``up`` started, unless it has ended since."""
    if not _state_file().exists():
        return None
    run_dir = Path(_state_file().read_text().strip())
    if not (run_dir / "state.json").exists():
        return None
    cluster = Cluster.load(run_dir)
    return cluster if cluster.is_alive else None


def _state_file() -> Path:
    return cache_dir() / "cluster"


if __name__ == "__main__":
    sys.exit(main())
