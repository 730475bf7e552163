"""The chart's network policies, as manifests: nothing on the test cluster enforces them.

What a policy means is computed here, as Kubernetes describes it: one rule must have both the peer and the
port.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.support.helm import Helm, Manifest

VALUES: dict[str, Any] = {"hub": {"apiToken": "sesame-open-this-token"}, "jobs": {"namespace": "batch-jobs"}}
NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"

Pod = tuple[str, dict[str, str]]
"""The namespace of a pod, and its labels."""

SERVICE: Pod = (
    "jupyterhub",
    {NAME: "kbatch-server", INSTANCE: "kbatch-server", COMPONENT: "service"},
)
JOB: Pod = (
    "batch-jobs",
    {"app.kubernetes.io/managed-by": "kbatch-server", "kbatch.jupyter.org/instance": "kbatch-server"},
)
PROXY: Pod = ("jupyterhub", {"app": "jupyterhub", "component": "proxy"})
HUB: Pod = ("jupyterhub", {"app": "jupyterhub", "component": "hub"})
USER: Pod = ("jupyterhub", {"app": "jupyterhub", "component": "singleuser-server"})
DNS: Pod = ("kube-system", {"k8s-app": "kube-dns"})
TEST: Pod = ("jupyterhub", {NAME: "kbatch-server-test", INSTANCE: "kbatch-server", COMPONENT: "test"})


def allows(policy: Manifest, direction: str, peer: Pod | str, port: int | str) -> bool:
    """Whether a policy lets its pods speak with a pod or an address."""
    side = "from" if direction == "ingress" else "to"
    for rule in policy["spec"][direction]:
        ports = [each["port"] for each in rule.get("ports", [])]
        peers = rule.get(side)
        here = policy["metadata"].get("namespace", "jupyterhub")
        if (not ports or port in ports) and (not peers or any(is_peer(each, peer, here) for each in peers)):
            return True
    return False


def is_peer(said: Manifest, peer: Pod | str, here: str) -> bool:
    if isinstance(peer, str):
        block = said.get("ipBlock")
        return (
            bool(block)
            and is_in(peer, block["cidr"])
            and not any(is_in(peer, each) for each in block.get("except", []))
        )
    if "ipBlock" in said:
        return False
    namespace, labels = peer
    selector = said.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": here}})
    names = selector.get("matchLabels", {})
    assert set(names) <= {"kubernetes.io/metadata.name"}
    among = selector.get("matchExpressions", [])
    assert all((each["key"], each["operator"]) == ("kubernetes.io/metadata.name", "In") for each in among)
    if not all(namespace in each["values"] for each in among):
        return False
    wanted = said.get("podSelector", {}).get("matchLabels", {})
    return set(names.values()) <= {namespace} and wanted.items() <= labels.items()


def is_in(address: str, cidr: str) -> bool:
    network = ip_network(cidr)  # refuses bits right of the prefix, as Kubernetes does
    return ip_address(address).version == network.version and ip_address(address) in network


@pytest.mark.parametrize(
    ("changed", "reached_by"),
    [
        ({}, ["proxy", "job", "hub"]),
        ({"test": {"existingSecret": "token"}}, ["proxy", "job", "hub", "test"]),
        ({"hub": {"apiToken": "x", "namespace": "elsewhere"}}, ["job"]),
        ({"serviceMonitor": {"enabled": True}}, ["proxy", "job", "user", "hub", "test"]),
        ({"service": {"type": "LoadBalancer"}}, ["proxy", "job", "user", "hub", "test"]),
        ({"jobs": {"userNamespaces": {"enabled": True}}}, ["proxy", "job", "hub"]),
    ],
)
def test_the_service_is_reached_by_the_hub_its_proxy_and_jobs(
    helm: Helm, changed: dict[str, Any], reached_by: list[str]
) -> None:
    policy = helm.render(VALUES | changed).get("NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    peers = {"proxy": PROXY, "job": JOB, "user": USER, "hub": HUB, "test": TEST}
    assert [name for name, peer in peers.items() if allows(policy, "ingress", peer, "http")] == reached_by
    assert not allows(policy, "ingress", PROXY, 22) or "serviceMonitor" in changed


def test_a_job_reaches_its_code_names_and_the_internet(helm: Helm) -> None:
    policy = helm.render(VALUES).get("NetworkPolicy", "-jobs")
    assert policy["metadata"]["namespace"] == "batch-jobs"
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= JOB[1].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == []
    assert allows(policy, "egress", SERVICE, 8050)
    assert allows(policy, "egress", DNS, 53)
    for address in ("93.184.215.14", "2606:4700::1111", "20.60.1.2"):
        assert allows(policy, "egress", address, 443), address


UNREACHED = {
    "the API server, inside": "10.96.0.1",
    "another pod": "10.244.0.7",
    "a machine of the institute": "172.20.1.1",
    "a machine at home": "192.168.1.1",
    "a shared address": "100.64.0.1",
    "the metadata of AWS, Azure, Google": "169.254.169.254",
    "the wire server of Azure": "168.63.129.16",
    "the credentials of AWS's pods": "169.254.170.23",
    "the metadata of AWS, IPv6": "fd00:ec2::254",
    "a link-local address, IPv6": "fe80::1",
    "this host": "0.0.0.0",
    "metadata, by way of NAT64": "64:ff9b::169.254.169.254",
    "a machine of the institute, by way of NAT64": "64:ff9b::172.20.1.1",
}


@pytest.mark.parametrize("address", UNREACHED.values(), ids=UNREACHED)
def test_a_job_does_not_reach(helm: Helm, address: str) -> None:
    policy = helm.render(VALUES).get("NetworkPolicy", "-jobs")
    assert not allows(policy, "egress", address, 443)
    assert not allows(policy, "egress", address, 80)


@pytest.mark.parametrize(
    ("server", "port"),
    [
        (DNS, 53),
        (("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}), 5353),
        ("169.254.20.10", 53),  # on the node
        ("169.254.169.254", 53),  # Google's, with Cloud DNS
        ("10.0.0.10", 53),  # outside of the cluster
        ("fd00:10::a", 53),
    ],
)
def test_a_job_asks_for_names_wherever_the_cluster_has_them(helm: Helm, server: Pod | str, port: int) -> None:
    jobs = {"allowInternet": False}
    policy = helm.render(VALUES | {"networkPolicy": {"jobs": jobs}}).get("NetworkPolicy", "-jobs")
    assert allows(policy, "egress", server, port)
    assert not allows(policy, "egress", server, 80)
    if isinstance(server, str):
        assert not allows(policy, "egress", server, 5353)


def test_a_job_reaches_no_public_address_that_is_named(helm: Helm) -> None:
    jobs = {"exceptCidrs": ["192.0.2.0/24", "2001:db8:1::/48"]}
    policy = helm.render(VALUES | {"networkPolicy": {"jobs": jobs}}).get("NetworkPolicy", "-jobs")
    for address in ("192.0.2.7", "2001:db8:1::7", "10.0.0.1"):
        assert not allows(policy, "egress", address, 443), address
    for address in ("192.0.3.7", "2001:db8:2::7"):
        assert allows(policy, "egress", address, 443), address


def test_a_job_reaches_the_hub_only_if_allowed(helm: Helm) -> None:
    policy = helm.render(VALUES).get("NetworkPolicy", "-jobs")
    for peer in (HUB, PROXY, USER, TEST, ("batch-jobs", {}), ("kube-system", {})):
        assert not any(allows(policy, "egress", peer, port) for port in (443, 8000, 8001, 8081, 8888)), peer
    allowed = VALUES | {"networkPolicy": {"jobs": {"allowHub": True}}}
    policy = helm.render(allowed).get("NetworkPolicy", "-jobs")
    assert allows(policy, "egress", HUB, 8081)
    assert allows(policy, "egress", PROXY, 8000)
    assert not allows(policy, "egress", PROXY, 8001)  # the API by which routes are changed
    assert not allows(policy, "egress", USER, 8888)


def test_what_is_said_is_allowed_besides(helm: Helm) -> None:
    rule = {"to": [{"podSelector": {"matchLabels": {"app": "dask"}}}], "ports": [{"port": 8786}]}
    jobs = {"allowInternet": False, "allowCidrs": ["10.1.0.0/16"], "egress": [rule]}
    policy = helm.render(VALUES | {"networkPolicy": {"jobs": jobs}}).get("NetworkPolicy", "-jobs")
    assert not allows(policy, "egress", "93.184.215.14", 443)
    assert allows(policy, "egress", "10.1.2.3", 5432)
    assert not allows(policy, "egress", "10.2.2.3", 5432)
    assert allows(policy, "egress", ("batch-jobs", {"app": "dask"}), 8786)
    assert allows(policy, "egress", SERVICE, 8050)


def test_with_a_namespace_for_each_user_the_service_makes_it(helm: Helm) -> None:
    values = VALUES | {"jobs": {"userNamespaces": {"enabled": True}}}
    assert helm.render(values).names("NetworkPolicy") == {"kbatch-server"}
