"""The schemas of KubeRay's resources: theirs by address and checksum (`crds.tsv`), and the fields they declare.

KubeRay's definitions repeat the whole pod template in every group and are 3 MB; none of them is kept here.
`ray_schema.json` has the fields of Ray's own part of them, with types, limits and what is required; wherever a type of
Kubernetes itself begins it refers to that type, whose schema an installed package has. It is made by

    python tests/infra/infra_crds.py FOLDER      # definitions missing from FOLDER are downloaded into it

and a test makes it again and validates against the originals too, where ILLADA_CRDS names such a folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
CONDENSED = HERE / "ray_schema.json"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}

_CORE = {
    "template": "podtemplatespec-v1",
    "submitterPodTemplate": "podtemplatespec-v1",
    "headService": "service-v1",
    "securityContext": "securitycontext-v1",
    "resources": "resourcerequirements-v1",
    "valueFrom": "envvarsource-v1",
}
_CORE_ITEMS = {
    "env": "envvar-v1",
    "envFrom": "envfromsource-v1",
    "volumeMounts": "volumemount-v1",
    "from": "networkpolicypeer-networking-v1",
    "to": "networkpolicypeer-networking-v1",
    "ports": "networkpolicyport-networking-v1",
}
_OWN = {"rayClusterSpec": "RayCluster", "jobTemplate": "RayJob"}
_KEPT = ("type", "enum", "anyOf", "pattern", "minimum", "minLength", "minItems", "required")


def sources() -> dict[str, tuple[str, str]]:
    """Address and sha256 by plural name."""
    rows = [line.split("\t") for line in (HERE / "crds.tsv").read_text(encoding="utf-8").splitlines()]
    return {name: (url, sha256) for name, url, sha256 in rows}


def definition(folder: Path, name: str) -> dict[str, Any]:
    """KubeRay's definition of one resource, checked. Raises ValueError when the file is another one."""
    url, sha256 = sources()[name]
    data = (folder / url.rpartition("/")[2]).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{folder / name}: sha256 {found[:12]}, expected {sha256[:12]} (that of {url})")
    read: dict[str, Any] = yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return read


def open_schema(defined: dict[str, Any]) -> dict[str, Any]:
    """The whole OpenAPI schema of version v1."""
    found: dict[str, Any] = next(
        version["schema"]["openAPIV3Schema"] for version in defined["spec"]["versions"] if version["name"] == "v1"
    )
    return found


def condense(folder: Path) -> dict[str, Any]:
    """Ray's own part of the three schemas, as JSON Schema in which unknown fields are errors."""
    made: dict[str, Any] = {"sources": {name: sha256 for name, (_, sha256) in sources().items()}, "definitions": {}}
    for kind, name in KINDS.items():
        whole = open_schema(definition(folder, name))
        made["definitions"][kind] = _condensed("", whole["properties"]["spec"])
    return made


def closed(schema: Any) -> Any:
    """A copy in which fields that are not declared are errors, as `kubectl apply --validate=strict` has it."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        copy["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return copy


def _condensed(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name in _OWN:
        return {"$ref": f"#/definitions/{_OWN[name]}"}
    if name in _CORE and "properties" in schema:
        return {"$ref": f"/api/{_CORE[name]}.json"}
    if name in _CORE_ITEMS and "properties" in schema.get("items", {}):
        return {"type": "array", "items": {"$ref": f"/api/{_CORE_ITEMS[name]}.json"}}
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if "items" in schema:
        kept["items"] = _condensed("", schema["items"])
    if "properties" in schema:
        kept["properties"] = {key: _condensed(key, value) for key, value in schema["properties"].items()}
        kept["additionalProperties"] = False
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = _condensed("", schema["additionalProperties"])
    return kept


def main(folder: Path) -> None:
    """Download what is missing, then write `ray_schema.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for url, _ in sources().values():
        path = folder / url.rpartition("/")[2]
        if not path.exists():
            with urllib.request.urlopen(url, timeout=60) as answer:
                path.write_bytes(answer.read())
    CONDENSED.write_text(json.dumps(condense(folder), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
