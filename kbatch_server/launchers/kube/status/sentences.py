"""Explains in plain words why a job waits or why it failed, from Kubernetes's messages. Pure.

Each sentence is for readers who know the job but not the cluster: what happened, then what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

from ....quantities import parse_any_quantity
from ..manifests.home import SHELL
from ..manifests.job import FETCH_CONTAINER, MAIN_CONTAINER
from ..manifests.manifest import Manifest
from ..manifests.sidecar import KEEP_CONTAINER

MAX_LENGTH = 500
"""The maximum length of a quoted message of Kubernetes."""

_EXIT_CODES = {
    126: "the file is not executable",
    127: "command not found",
    129: "SIGHUP: the terminal was closed",
    130: "SIGINT: interrupted",
    131: "SIGQUIT: asked to quit",
    132: "SIGILL: illegal instruction, often in a library built for another CPU",
    133: "SIGTRAP: breakpoint",
    134: "SIGABRT: the program aborted; its last output often says why",
    135: "SIGBUS: bad memory access, often because /dev/shm is full; set a larger shm_size",
    136: "SIGFPE: division by zero or overflow",
    137: "SIGKILL: killed, often because it ran out of memory",
    138: "SIGUSR1",
    139: "SIGSEGV: segmentation fault",
    140: "SIGUSR2",
    141: "SIGPIPE: wrote to a closed pipe",
    142: "SIGALRM: timer expired",
    143: "SIGTERM: told to stop",
    152: "SIGXCPU: CPU time limit exceeded",
    153: "SIGXFSZ: file size limit exceeded",
    159: "SIGSYS: system call not allowed",
}
"""The cause of a command's end by exit code: from 129 on it is 128 plus the number of a signal (Linux)."""

_VOLUMES = {
    "kbatch-code": "the working folder /code",
    "kbatch-outputs": "the results folder ($KBATCH_OUTPUT_DIR)",
    "kbatch-home": "the home folder",
    "kbatch-shm": "shared memory (/dev/shm)",
}
"""The users' words for the volumes that the service adds to a pod."""

_RESOURCES = {"cpu": "CPU", "memory": "memory", "ephemeral-storage": "disk space", "pods": "pods"}

_UNMATCHED = "excluded by the node selector"

_SCHEDULER = (
    (re.compile(r"Insufficient (\S+)"), lambda m: f"not enough {_RESOURCES.get(m[1], m[1])} free"),
    (re.compile(r"Too many pods"), lambda m: "already full of pods"),
    (re.compile(r"untolerated taint"), lambda m: "reserved for other work (taint)"),
    (re.compile(r"didn't match Pod's node affinity/selector"), lambda m: _UNMATCHED),
    (re.compile(r"were unschedulable|was unschedulable"), lambda m: "closed to new pods (cordoned)"),
    (re.compile(r"volume node affinity conflict"), lambda m: "unable to reach the volume"),
)
"""The scheduler's messages about nodes, and the words for users."""

_CHECK_NAME = "Check the image name."

_PULL_CAUSES = (
    (
        re.compile(r"toomanyrequests|rate limit", re.I),
        "the registry's download limit is reached",
        "Kubernetes tries again until the job times out.",
    ),
    (
        re.compile(r"unauthorized|denied|forbidden|authorization failed|no basic auth", re.I),
        "access denied by the registry, or the image does not exist",
        _CHECK_NAME,
    ),
    (
        re.compile(r"not found|manifest unknown|repository does not exist", re.I),
        "the image does not exist",
        _CHECK_NAME,
    ),
    (re.compile(r"no such host|server misbehaving", re.I), "the registry does not exist", _CHECK_NAME),
    (
        re.compile(r"connection refused|timeout|deadline exceeded|dial tcp|TLS handshake|EOF", re.I),
        "the registry does not respond",
        _CHECK_NAME,
    ),
    (
        re.compile(r"no match for platform", re.I),
        "it is not built for the node's CPU architecture",
        "Choose another image.",
    ),
    (re.compile(r"no space left", re.I), "the disk of the node is full", "Tell an admin of the hub."),
)
"""What a message of a failed pull says, the cause in words, and what to do about it."""

_OWN = {
    FETCH_CONTAINER: ("that fetches the code", "JobConfig.init_resources"),
    KEEP_CONTAINER: ("that sends the results", "JobConfig.sidecar_resources"),
}
"""The service's own containers: a description for users, and the trait that sets the size."""

_BOUND = re.compile(
    r"(minimum|maximum) (\S+) usage per (Container|Pod) is (\S+?)"
    r"(?:, but (request|limit) is (\S+?)[.,\]]?(?: |$)|\.\s+No (request|limit) is specified)"
)
_RATIO = re.compile(
    r"(?<![\w./-])([\w./-]+) max limit to request ratio per (Container|Pod) is (\w+), "
    r"but provided ratio is ([0-9.]+)"
)
"""Messages with which a LimitRange rejects a container or a pod."""

_REJECTED = "Pod was rejected: "

NODE_LOST = (
    "The node was lost or is being drained. The job ends when the node responds again or is removed from "
    "the cluster."
)

UNKNOWN_END = "The node lost track of the container, for example during a restart: its exit code is unknown."

_DISRUPTIONS = {
    "PreemptionByScheduler": "a pod with a higher priority needed its place",
    "DeletionByTaintManager": "its node was lost or is being drained",
    "DeletionByPodGC": "its node was lost",
    "EvictionByEvictionAPI": "its pod was evicted, for example because an admin drains the node",
    "TerminationByKubelet": "its node ran out of resources or is shutting down",
}


def format_amount(resource: str, quantity: str) -> str:
    """Return ``8 CPUs``, ``2 GiB of memory`` or ``1 nvidia.com/gpu``."""
    try:
        number = parse_any_quantity(quantity)
    except ValueError:
        return f"{quantity} of {resource}"
    if resource == "cpu":
        return "1 CPU" if number == 1 else f"{_plain(number)} CPUs"
    if resource in ("memory", "ephemeral-storage"):
        return f"{format_bytes(int(number))} of {_RESOURCES[resource]}"
    return f"{_plain(number)} {resource}"


def format_bytes(size: int) -> str:
    """Return ``2 GiB``, ``1.5 MiB``, ``300 bytes``."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{_plain(round(Decimal(size) / 2**power, 1))} {unit}"
    return f"{size} bytes"


def _format_size(quantity: str) -> str:
    """Return ``2 GiB`` for ``2Gi`` or ``2147483648``."""
    try:
        return format_bytes(int(parse_any_quantity(quantity)))
    except ValueError:
        return quantity


def format_requests(container: Manifest) -> str:
    """Return a container's requests: ``8 CPUs and 1 GiB of memory``; empty if it has none."""
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return _join([format_amount(name, str(asked[name])) for name in sorted(asked)])


def unschedulable(message: str, container: Manifest, node_selector: Mapping[str, str]) -> str:
    """Explain what is short, from the scheduler's "0/3 nodes are available: 1 Insufficient cpu, 2 …"."""
    if "persistentvolumeclaim" in message.lower():
        return f"Waiting for a volume: {cut(message)}"
    total, _, said = message.partition(" nodes are available: ")
    parts = _scheduler_parts(re.split(r"\.? (?:no new claims|preemption:)", said)[0]) if said else []
    if not parts:
        return f"No node can run the job yet: {cut(message)}" if message else "No node can run the job yet."
    asks = format_requests(container)
    if node_selector and any(words == _UNMATCHED for _, words in parts):
        chosen = ", ".join(f"{key}={value}" for key, value in sorted(node_selector.items()))
        asks = f"{asks} on a node with {chosen}" if asks else f"a node with {chosen}"
    full = any(words.startswith(("not enough", "already full")) for _, words in parts)
    problem = "No node has room" if full else "No node can run it"
    sentence = f"{problem}: the job requests {asks}" if asks else f"{problem} now"
    if len(parts) == 1 and total == f"0/{parts[0][0]}":
        [(count, words)] = parts
        if words.startswith("not enough"):
            nodes = "the only node does not have" if count == "1" else f"none of the {count} nodes has"
            return f"{sentence}, and {nodes} {words.removeprefix('not ')}."
        nodes = "the only node is" if count == "1" else f"all {count} nodes are"
        return f"{sentence}, and {nodes} {words}."
    counted = [f"{count} {'node' if count == '1' else 'nodes'}: {words}" for count, words in parts]
    return f"{sentence} ({'; '.join(counted)})."


def unschedulable_at_home(message: str, otherwise: str, *, has_node: bool) -> str:
    """Explain why a job waits that can run only where its user's home is in use.

    ``has_node`` says whether that is a known node; ``otherwise`` is the explanation without a home.
    """
    words = "Waiting for room on the node of your server"
    if not has_node:
        if "pod affinity" not in message:
            return otherwise
        words = "Waiting for room on the node where your home is in use"
    said = re.split(r"\.? (?:no new claims|preemption:)", message.partition(" nodes are available: ")[2])[0]
    why = [words for _, words in _scheduler_parts(said) if not _is_elsewhere(words)]
    if not why:
        return f"{words}, which does not accept this job. {_AT_HOME}"
    return f"{words}: {'; '.join(dict.fromkeys(why))}."


_AT_HOME = "Stop what uses your home there, or submit the job without home."


def _is_elsewhere(words: str) -> bool:
    """Whether these words of the scheduler are about other nodes than that of the home."""
    return words == _UNMATCHED or "NodeAffinity" in words or "pod affinity" in words


def volume_problem(words: str, message: str) -> str:
    """Explain why a volume cannot be mounted."""
    if "Multi-Attach" in message:
        return (
            f"{words}, because it is in use on another node: stop what uses it there, which is your server "
            f"or another job. ({cut(message)})"
        )
    return f"{words}: {cut(message)}"


def _scheduler_parts(said: str) -> list[tuple[str, str]]:
    """Return ``[("1", "not enough CPU free"), …]`` from ``1 Insufficient cpu, 2 node(s) had …``."""
    parts = []
    for part in re.split(r", (?=[0-9])", said.removesuffix(".")):
        count, _, words = part.partition(" ")
        if not (count.isdecimal() and words):
            continue
        for pattern, translate in _SCHEDULER:
            match = pattern.search(words)
            if match:
                words = translate(match)
                break
        else:
            words = words.removeprefix("node(s) ")
        parts.append((count, words))
    return parts


def image_problem(reason: str, image: str, message: str) -> str:
    """Explain why an image cannot be pulled."""
    if reason == "InvalidImageName" or "invalid reference format" in message:
        return f'"{image}" is not a valid image name.'
    if reason == "ErrImageNeverPull":
        return f'The image "{image}" is not on the node, and the pull policy is Never.'
    for pattern, words, advice in _PULL_CAUSES:
        if pattern.search(message.replace(image, "")):
            return f'The image "{image}" cannot be pulled: {words}. {advice}'
    return f'The image "{image}" cannot be pulled. {_CHECK_NAME}'


def start_problem(command: str, image: str, message: str) -> str:
    """Explain why a container's command did not start, from runc's message."""
    named = re.search(r'exec: "((?:[^"\\]|\\.)*)"', message)
    program = named[1] if named else command
    what = f'The command "{program}" cannot be started' if program else "The container cannot be started"
    if "permission denied" in message:
        return f"{what}: it is not executable."
    if "chdir to cwd" in message:
        return f"{what}: {cut(message)}"
    if program == SHELL and command != SHELL:
        return (
            f'The image "{image}" has no {SHELL}, which is needed to find a writable home folder. Set '
            "HOME in env to run the command directly."
        )
    if "not found" in message or "no such file" in message:
        return f'{what}: the program does not exist in the image "{image}".'
    if "exec format error" in message:
        return f"{what}: it is built for another CPU architecture, or is a script without a #! line."
    return f"{what}: {cut(message)}" if message else f"{what}."


def exit_code(code: int) -> str:
    """Explain a command's exit code."""
    hint = _EXIT_CODES.get(code)
    return (
        f"The command ended with exit code {code} ({hint})."
        if hint
        else f"The command ended with exit code {code}."
    )


def out_of_memory(container: Manifest) -> str:
    """Explain that a container was killed for its memory, with the limit."""
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    if limit is None:
        return "Out of memory: the node had none left. Set mem_limit to what the job needs."
    return (
        f"Out of memory: the limit is {format_amount('memory', limit).removesuffix(' of memory')} "
        "(mem_limit). Set a larger limit."
    )


def deadline(seconds: int | None) -> str:
    """Explain that a job exceeded its time limit."""
    limit = f" of {seconds} seconds" if seconds is not None else ""
    return f"The job exceeded its time limit{limit} (active_deadline_seconds) and was stopped."


def evicted(message: str) -> str:
    """Explain why a node evicted a pod, from the kubelet's message."""
    low = re.search(r"low on resource: ([\w-]+)", message)
    if low:
        return f"The node ran out of {_RESOURCES.get(low[1], low[1])} and evicted the pod."
    volume = re.search(r'EmptyDir volume "([^"]+)" exceeds the limit "([^"]+)"', message)
    if volume:
        where = _VOLUMES.get(volume[1], f"the volume {volume[1]}")
        return f"The job wrote too much to {where}: the limit is {_format_size(volume[2])}."
    local = re.search(
        r"(?:limit of containers|ephemeral storage limit) \"?([0-9][0-9A-Za-z.]*?)\"?\. *$", message
    )
    if local:
        return f"The job wrote too much to its disk: the limit is {local[1]}."
    return f"The node evicted the pod: {cut(message)}" if message else "The node evicted the pod."


def failed_on_node(message: str) -> str:
    """Explain why a node failed a pod that it had accepted, from the kubelet's message."""
    if message.startswith(_REJECTED):
        said = cut(message.removeprefix(_REJECTED))
        return f"The node no longer accepts the pod, for example after a restart of its kubelet: {said}"
    return f"The node could not run the pod: {cut(message)}"


def rejected(reason: str, message: str) -> str:
    """Explain why a node rejected a pod, from the kubelet's message."""
    said = message.removeprefix(_REJECTED)
    if reason.startswith("OutOf"):
        what = reason.removeprefix("OutOf")
        return f"The node did not have enough {_RESOURCES.get(what, what)} left."
    if reason == "UnexpectedAdmissionError":
        return f"The node could not allocate the requested resources: {cut(said)}"
    return f"The node rejected the pod: {cut(said or reason)}"


def strangers(names: Sequence[str]) -> str:
    """Explain what keeps a pod alive after its command has ended."""
    words, are = ("container", "is") if len(names) == 1 else ("containers", "are")
    return (
        f"The command has ended, but the {words} {_join(list(names))}, which {are} not the job's own, "
        f"{are} still running. The service will stop the pod soon."
    )


def disruption(reason: str, message: str) -> str:
    """Explain why a pod had to give way."""
    if reason == "TerminationByKubelet" and message:
        return evicted(message)
    return f"The job was stopped: {_DISRUPTIONS.get(reason, reason)}."


def refused(message: str, sizes: Mapping[str, Manifest] = MappingProxyType({})) -> str:
    """Explain why no pod can be created, from a FailedCreate event (``Error creating: pods "x" …``).

    ``sizes`` are the ``resources`` of the pod's containers, by name: Kubernetes may have rejected one of the
    service's own.
    """
    said = re.sub(r'^Error creating: (?:pods "[^"]*" is forbidden: |Pod "[^"]*" is invalid: )?', "", message)
    quota = re.match(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)", said)
    if quota:
        return _quota(*quota.groups())
    if bound := _BOUND.search(said):
        return _out_of_range(bound, sizes)
    if ratio := _RATIO.search(said):
        return _out_of_ratio(ratio, sizes)
    if said.startswith("failed quota: "):
        names = sorted(set(",".join(re.findall(r" for: ([^; ]+)", said)).split(",")))
        advice = f" Ask {_name_traits(names)}." if _OWN.keys() >= set(names) else ""
        return (
            "The ResourceQuota of the namespace requires a size for each job: "
            f"{cut(said.removeprefix('failed quota: '))}.{advice}"
        )
    security = re.match(r'violates PodSecurity "([^"]*)": (.*)', said, re.DOTALL)
    if security:
        return (
            f"The cluster's Pod Security Standard ({security[1].split(':')[0]}) denies the pod: "
            f"{cut(security[2])}. Ask an admin to fix this."
        )
    return f"The cluster denied the pod: {cut(said)}"


def is_quota_used_up(message: str) -> bool:
    """Whether a quota rejected the job only because others are using it."""
    quota = re.search(r"exceeded quota: \S+, requested: (\S+), used: \S+, limited: (\S+)", message)
    if not quota:
        return False
    requested, limited = _parse_amounts(quota[1]), _parse_amounts(quota[2])
    try:
        return all(
            parse_any_quantity(amount) <= parse_any_quantity(limited[name])
            for name, amount in requested.items()
        )
    except (KeyError, ValueError):
        return False


def _quota(name: str, requested: str, used: str, limited: str) -> str:
    in_use, limits = _parse_amounts(used), _parse_amounts(limited)
    parts = []
    for key, amount in _parse_amounts(requested).items():
        resource = key.rpartition(".")[2] if key.startswith(("requests.", "limits.")) else key
        wanted, most = format_amount(resource, amount), format_amount(resource, limits.get(key, "?"))
        unit = " of " + _RESOURCES.get(resource, resource)
        part = f"the job requests {wanted} of at most {most.removesuffix(unit)}"
        if in_use.get(key, "0") != "0":
            part += f" (in use: {format_amount(resource, in_use[key]).removesuffix(unit)})"
        parts.append(part)
    return f'The ResourceQuota "{name}" leaves no room: {_join(parts)}.'


def _out_of_range(bound: re.Match[str], sizes: Mapping[str, Manifest]) -> str:
    """Explain that a LimitRange rejects a size, and of which container."""
    kind, resource, what, most = bound[1], bound[2], bound[3], bound[4]
    asked, amount = bound[5] or bound[7], bound[6]
    whose = [
        name
        for name, resources in sizes.items()
        if what == "Container" and _is_same(_get_amount(resources, asked, resource), amount)
    ]
    has = "none" if amount is None else format_amount(resource, amount)
    sentence = (
        f"The cluster's LimitRange allows at {'least' if kind == 'minimum' else 'most'} "
        f"{format_amount(resource, most)} in each {what.lower()}"
    )
    return f"{sentence}, and {_say_whose(whose, has, what)}"


def _out_of_ratio(ratio: re.Match[str], sizes: Mapping[str, Manifest]) -> str:
    """Explain that a LimitRange rejects the ratio of limit to request, and of which container."""
    resource, what, most = ratio[1], ratio[2], ratio[3]
    has = Decimal(ratio[4])
    whose = []
    for name, resources in sizes.items():
        limit, request = (_get_amount(resources, each, resource) for each in ("limit", "request"))
        if what == "Container" and limit and request:
            its = parse_any_quantity(limit) / parse_any_quantity(request)
            if abs(its - has) < Decimal("0.01"):
                whose.append(name)
    return (
        f"The cluster's LimitRange allows a {_RESOURCES.get(resource, resource)} limit of at most {most} "
        f"times the request in each {what.lower()}, and {_say_whose(whose, f'{_plain(has)} times', what)}"
    )


def _say_whose(names: Sequence[str], has: str, what: str) -> str:
    """Return the end of a sentence: the size that some containers have, and what to do about it."""
    if names and MAIN_CONTAINER not in names:
        own = _join([f"the container {_OWN[name][0]}" for name in names if name in _OWN])
        if own:
            return f"{own} {'have' if len(names) > 1 else 'has'} {has}. Ask {_name_traits(names)}."
    size = "a size" if has == "none" else "another size"
    if names:
        return f"the job has {has}. Request {size}."
    one = "the job's pod" if what == "Pod" else "one of the pod's containers"
    return f"{one} has {has}. Request {size}. If yours is in range, ask {_name_traits(list(_OWN))}."


def _name_traits(names: Sequence[str]) -> str:
    """Return ``an admin to set`` with the traits for the sizes of these containers of the service."""
    return f"an admin to set {_join([_OWN[name][1] for name in names if name in _OWN])}"


def _get_amount(resources: Manifest, asked: str, resource: str) -> str | None:
    """Return the ``request`` or ``limit`` of a container; without a request, Kubernetes uses the limit."""
    limit = resources.get("limits", {}).get(resource)
    amount = limit if asked == "limit" else resources.get("requests", {}).get(resource, limit)
    return None if amount is None else str(amount)


def _is_same(one: str | None, other: str | None) -> bool:
    """Return whether two quantities are the same, or both are missing."""
    if one is None or other is None:
        return one is other
    try:
        return parse_any_quantity(one) == parse_any_quantity(other)
    except ValueError:
        return one == other


def _parse_amounts(text: str) -> dict[str, str]:
    """Return ``cpu=1,limits.memory=1Gi`` as a dict."""
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def cut(text: str) -> str:
    """Return a message of Kubernetes on one line, shortened if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _join(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
