"""Build kubeconform, and the schemas that it checks manifests with, from Go modules, once, into the cache.

The schemas are made of what Kubernetes and the two operators publish in their own modules, so that nothing is
fetched from anywhere else: a field that they do not know is an error.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.parts import cache_dir, find_part, making

from .build import HERE, kubernetes_version, run_go

Schema = dict[str, Any]

TOOL = HERE / "kubeconform"

CRDS = {
    "sigs.k8s.io/gateway-api@v1.5.0": (
        "h1:duoo14Ky/fJXpjpmyMISE2RTBGnfCg8zICfTYLTnBJA=",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}
"""The modules (with their checksum) that have the definition of a kind that the chart can make."""


def kubeconform_dir() -> Path:
    """Where kubeconform, its schemas and the definitions of custom resources are, or will be."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + kubernetes_version().encode())
    for name in ("go.mod", "go.sum"):
        digest.update((TOOL / name).read_bytes())
    return cache_dir() / f"kubeconform-{digest.hexdigest()[:12]}"


def find_kubeconform() -> Path:
    """Return the folder with ``kubeconform`` and the schemas; raises PartMissing."""
    return find_part(kubeconform_dir(), "kubeconform")


def find_crds() -> list[Path]:
    """Return the files with the definitions of the kinds that are not Kubernetes's; raises PartMissing."""
    return sorted((find_kubeconform() / "crds").iterdir())


def build_kubeconform() -> None:
    """Build kubeconform, and make the schemas of what the modules publish."""
    with making(kubeconform_dir()) as folder:
        package = "github.com/yannh/kubeconform/cmd/kubeconform"
        run_go("build", "-trimpath", "-o", str(folder / "kubeconform"), package, cwd=TOOL)
        swagger = find_module("k8s.io/kubernetes") / "api/openapi-spec/swagger.json"
        for name, schema in make_schemas(json.loads(swagger.read_text())["definitions"]):
            (folder / name).write_text(json.dumps(schema))
        (folder / "crds").mkdir()
        for module, (checksum, path) in CRDS.items():
            text = (find_module(module, checksum) / path).read_text()
            (folder / "crds" / Path(path).name).write_text(text)
            for name, schema in make_crd_schemas(yaml.safe_load(text)):
                (folder / name).write_text(json.dumps(schema))


def find_module(module: str, checksum: str | None = None) -> Path:
    """Return the folder of a Go module, downloaded if need be; without version that of the test cluster."""
    found = json.loads(run_go("mod", "download", "-json", module))
    if checksum not in (None, found["Sum"]):
        raise RuntimeError(f"{module} has the checksum {found['Sum']}, not {checksum}")
    return Path(found["Dir"])


def make_schemas(definitions: dict[str, Schema]) -> list[tuple[str, Schema]]:
    """Return a schema of each kind, by file name, from Kubernetes's OpenAPI definitions."""
    closed = {name: close(definition) for name, definition in definitions.items()}
    closed["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    closed["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    made = []
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            used = {each: closed[each] for each in sorted(find_used(closed, name))}
            schema = {"$ref": f"#/definitions/{name}", "definitions": used}
            made.append((make_file_name(kind["group"], kind["version"], kind["kind"]), schema))
    return made


def make_crd_schemas(crd: Schema) -> list[tuple[str, Schema]]:
    """Return a schema of each version of a custom resource, by file name."""
    spec = crd["spec"]
    return [
        (
            make_file_name(spec["group"], version["name"], spec["names"]["kind"]),
            close(version["schema"]["openAPIV3Schema"]),
        )
        for version in spec["versions"]
    ]


def make_file_name(group: str, version: str, kind: str) -> str:
    """Return what ``LOCATION`` makes of a kind; the version is the group of those that have none."""
    return f"{group or version}_{kind.lower()}_{version}.json"


LOCATION = "{{ .Group }}_{{ .ResourceKind }}_{{ .ResourceAPIVersion }}.json"
"""The name of a schema's file, in kubeconform's words."""


def close(schema: Any) -> Any:
    """Return a schema that allows the properties that it names and no others."""
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items()}
    if closed.pop("x-kubernetes-int-or-string", False):
        closed.pop("type", None)
    is_open = closed.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(closed.get("properties"), dict) and not is_open:
        closed.setdefault("additionalProperties", False)
    return closed


def find_used(definitions: dict[str, Schema], name: str) -> set[str]:
    """Return the definition and all that it refers to."""
    found, left = set(), [name]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _find_references(definitions[name])
    return found


def _find_references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for each in schema for name in _find_references(each)]
    if not isinstance(schema, dict):
        return []
    own = schema.get("$ref")
    below = [name for value in schema.values() for name in _find_references(value)]
    return [own.removeprefix("#/definitions/"), *below] if isinstance(own, str) else below
