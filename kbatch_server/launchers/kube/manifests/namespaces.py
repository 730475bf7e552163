"""The manifests of a user's namespace and of the objects that an admin wants in each. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from ....slugs import make_slug
from ....templates import OF_USER, expand, find_problem
from .labels import FORGOTTEN_ANNOTATION, INSTANCE_LABEL, TEMPLATE_ANNOTATION, USERNAME
from .manifest import Manifest

OBJECT_KINDS = {
    "LimitRange": ("v1", "limitranges"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "ResourceQuota": ("v1", "resourcequotas"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "ServiceAccount": ("v1", "serviceaccounts"),
}
"""The kinds of objects that a user's namespace may get: their version, and their name in paths."""

NAMESPACE_FIELDS = (*OF_USER, "hubnamespace")
"""The fields that a template of a namespace's name may have, as for KubeSpawner."""

OBJECT_FIELDS = (*NAMESPACE_FIELDS, "namespace")
"""The same for labels, annotations and objects."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.:-]{0,251}[a-z0-9])?")


def is_namespace(name: str) -> bool:
    """Whether this may be the name of a namespace."""
    return _LABEL.fullmatch(name) is not None


def find_template_problem(template: str) -> str | None:
    """Return what is wrong with the template of the users' namespaces, as a sentence; None if nothing is."""
    problem = find_problem(template, NAMESPACE_FIELDS)
    if problem is not None:
        return problem
    more = {"hubnamespace": "hub"}
    one, other = expand(template, "one", place=more), expand(template, "other", place=more)
    if one == other:
        return "must contain {username}, or another field of the user: each user has a namespace"
    if "one" in (one, expand(template, "one", place={"hubnamespace": ""})):
        return "must contain other text than the user's name: there may be a user called kube-system"
    if not is_namespace(one):
        return f"makes {one!r} for the user one, which is not the name of a namespace"
    return None


def find_object_problem(template: Any) -> str | None:
    """Return what is wrong with the template of an object, as a sentence; None if nothing is."""
    if not isinstance(template, Mapping) or template.get("kind") not in OBJECT_KINDS:
        return f"each must be a manifest of one of these kinds: {', '.join(OBJECT_KINDS)}"
    version, kind = OBJECT_KINDS[template["kind"]][0], template["kind"]
    if template.get("apiVersion") != version:
        return f"the apiVersion of a {kind} must be {version}"
    metadata = template.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        return f"a {kind} must have metadata.name"
    if "namespace" in metadata:
        return f"the {kind} {metadata['name']} must not have metadata.namespace: it is the user's"
    problem = find_problem(template, OBJECT_FIELDS)
    if problem is not None:
        return problem
    name = expand(metadata["name"], "one", place={"hubnamespace": "hub", "namespace": "hub-one"})
    return None if _OBJECT_NAME.fullmatch(name) else f"a {kind} cannot have the name {name!r}"


def make_namespace(
    name: str,
    *,
    user: str,
    instance: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Return the Namespace of one user's jobs, with the admin's labels and annotations and ours."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {**(labels or {}), **make_owner_labels(user, instance)},
            "annotations": {**(annotations or {}), USERNAME: user},
        },
    }


def make_object(
    template: Mapping[str, Any], *, user: str, instance: str, fields: Mapping[str, str]
) -> Manifest:
    """Return an object for a user's namespace; an annotation has the hash of its content."""
    made: Manifest = expand(template, user, place=fields)
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    metadata = made["metadata"]
    metadata["namespace"] = fields["namespace"]
    metadata["labels"] = {**(metadata.get("labels") or {}), **make_owner_labels(user, instance)}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TEMPLATE_ANNOTATION: digest[:16]}
    return made


def make_owner_labels(user: str, instance: str) -> dict[str, str]:
    """Return the labels of what this service makes for a user."""
    return {
        "app.kubernetes.io/managed-by": "kbatch-server",
        INSTANCE_LABEL: instance,
        USERNAME: make_slug(user),
    }


def is_current(found: Manifest, wanted: Manifest) -> bool:
    """Whether an object was made from the same template."""
    hashes = [
        (each["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION) for each in (found, wanted)
    ]
    return hashes[0] == hashes[1]


def is_forgotten(namespace: Manifest) -> bool:
    """Whether the user of this namespace was forgotten."""
    return FORGOTTEN_ANNOTATION in (namespace["metadata"].get("annotations") or {})
