"""What each component of a cluster is told: command lines and configuration files, as values."""

from __future__ import annotations

import json
from pathlib import Path

from .images import PAUSE
from .node import Network

NODE_NAME = "node1"
API_PORT = 6443
TOKEN = "admintoken"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"  # the node's own /run


def make_commands(binaries: Path, run_dir: Path, network: Network) -> dict[str, list[str]]:
    """The command line of each component; those that are always there, in the order in which they start."""
    kubeconfig = f"--kubeconfig={run_dir}/kubeconfig"
    return {
        "containerd": ["containerd", "--config", f"{run_dir}/containerd.toml"],
        # only for tests that want names: see Cluster.serve_names
        "dnsmasq": [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file",
            "--no-resolv",
            "--no-hosts",
            "--local=/#/",  # what is not in the file does not exist: a resolver goes on to its next suffix
            f"--addn-hosts={run_dir}/hosts",
        ],
        "etcd": [
            f"{binaries}/etcd",
            f"--data-dir={run_dir}/etcd",
            "--unsafe-no-fsync",  # nothing here needs to survive the machine
        ],
        "kube-apiserver": [
            f"{binaries}/kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--secure-port={API_PORT}",
            f"--advertise-address={network.node_address}",
            f"--cert-dir={run_dir}/pki",
            f"--token-auth-file={run_dir}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={run_dir}/pki/sa.pub",
            f"--service-account-signing-key-file={run_dir}/pki/sa.key",
            f"--service-cluster-ip-range={network.service_subnet}",
            "--kubelet-preferred-address-types=InternalIP",  # nobody resolves the node's name
        ],
        "kube-controller-manager": [
            f"{binaries}/kube-controller-manager",
            kubeconfig,
            f"--service-account-private-key-file={run_dir}/pki/sa.key",
            f"--root-ca-file={run_dir}/pki/apiserver.crt",
            # With a lease to keep, it would end itself where a test stops the API server.
            "--leader-elect=false",
        ],
        "kube-scheduler": [f"{binaries}/kube-scheduler", kubeconfig, "--leader-elect=false"],
        "kubelet": [
            f"{binaries}/kubelet",
            kubeconfig,
            f"--config={run_dir}/kubelet.json",
            f"--root-dir={run_dir}/kubelet",
            f"--cert-dir={run_dir}/kubelet/pki",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={network.node_address}",
        ],
        "kube-proxy": [
            f"{binaries}/kube-proxy",
            kubeconfig,
            f"--hostname-override={NODE_NAME}",
            f"--cluster-cidr={network.pod_subnet}",
            "--proxy-mode=iptables",
            # The table's size belongs to the machine's first network namespace.
            "--conntrack-max-per-core=0",
        ],
    }


def make_files(run_dir: Path, network: Network, cni_plugins: Path) -> dict[str, str]:
    """The files that the command lines name, by their path in the run folder."""
    return {
        "tokens.csv": f'{TOKEN},admin,admin,"system:masters"\n',
        "containerd.toml": make_containerd_config(run_dir, cni_plugins),
        "cni/10-bridge.conflist": json.dumps(make_cni_config(network), indent=2),
        "kubelet.json": json.dumps(make_kubelet_config(run_dir.name, network), indent=2),
    }


def make_kubeconfig(network: Network, certificate: str) -> dict[str, object]:
    """An administrator's way in; ``certificate`` is the API server's, in base64."""
    server = f"https://{network.node_address}:{API_PORT}"
    cluster = {"server": server, "certificate-authority-data": certificate}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


def make_containerd_config(run_dir: Path, cni_plugins: Path) -> str:
    # restrict_oom_score_adj: a machine in a container may lack CAP_SYS_RESOURCE.
    return f"""\
version = 2
root = "{run_dir}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_hugetlb_controller = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{run_dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def make_cni_config(network: Network) -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": network.pod_subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "test", "plugins": [bridge, portmap]}


def make_kubelet_config(cgroup: str, network: Network) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        # There is no name server, unless a test starts one on the node. To ask an absent one there fails at
        # once, where elsewhere it would time out; and with none at all, each pod gets a warning as an event.
        "clusterDNS": [network.node_address],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        # So that a test can see a log being rotated; 3 s is the least that there may be.
        "containerLogMaxSize": "256Ki",
        "containerLogMaxFiles": 3,
        "containerLogMonitorInterval": "3s",
        # A full disk of the developer's is no reason to evict the tests' pods.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
    }
