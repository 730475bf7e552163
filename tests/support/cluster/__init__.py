"""A real one-node Kubernetes for the tests, from Go modules and Debian's containerd.

``python -m tests.support.cluster up`` leaves one running; tests use ``ensure_cluster()``.
"""

from .cluster import Cluster, ClusterLike, ensure_cluster, missing_tools
from .node import ClusterError

__all__ = ["Cluster", "ClusterError", "ClusterLike", "ensure_cluster", "missing_tools"]
