"""Kubernetes manifests as `kubectl kustomize` makes them, and their validation against schemas."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from infra_crds import CONDENSED, KINDS, closed, definition, open_schema
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = "1.35"
BIN = Path(sys.executable).parent
"""Where pip has put kubectl, hadolint and shellcheck."""

Manifest = dict[str, Any]
SECRETS = {
    "database": {
        "superuser_password": "planted-superuser",
        "password": "planted-illada",
        "url": "postgresql://planted",
    },
    "ray": {"auth_token": "planted-token"},
    "object-store": {"AWS_ACCESS_KEY_ID": "planted-id", "AWS_SECRET_ACCESS_KEY": "planted-key"},
}


def filled_in(folder: Path) -> Path:
    """A copy of infra/ in `folder`, with the secrets that an installation has to fill in; its kubernetes folder."""
    shutil.copytree(INFRA, folder / "infra")
    for overlay in (folder / "infra" / "kubernetes" / "overlays").iterdir():
        for name, values in SECRETS.items():
            text = "".join(f"{key}={value}\n" for key, value in values.items())
            (overlay / "secrets" / f"{name}.env").write_text(text, encoding="utf-8")
    return folder / "infra" / "kubernetes"


def kustomize(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would apply."""
    command = [str(BIN / "kubectl"), "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0 and not made.stderr, made.stderr
    return [manifest for manifest in yaml.safe_load_all(made.stdout) if manifest]


def _kubernetes_type(uri: str) -> Resource[Any]:
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    return Resource.from_contents(json.loads((folder / Path(uri).name).read_text()), default_specification=DRAFT7)


_RAY = Resource.from_contents(json.loads(CONDENSED.read_text(encoding="utf-8")), default_specification=DRAFT7)
_REGISTRY: Registry[Any] = Registry(retrieve=_kubernetes_type).with_resource("ray:", _RAY)  # type: ignore[call-arg]


def validate(manifest: Manifest) -> None:
    """Raises a ValidationError naming the field: unknown, missing, or of another type."""
    if not manifest["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    assert manifest["apiVersion"] == "ray.io/v1" and set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["kind"] in KINDS
    schema = {"$ref": f"ray:#/definitions/{manifest['kind']}"}
    Draft7Validator(schema, registry=_REGISTRY).validate(manifest["spec"])


def validate_by_original(manifest: Manifest, folder: Path) -> None:
    """The same against KubeRay's own definition, whole."""
    schema = open_schema(definition(folder, KINDS[manifest["kind"]]))
    Draft7Validator(closed(schema["properties"]["spec"])).validate(manifest["spec"])


def crds() -> Path | None:
    """The folder of KubeRay's own definitions, where there is one."""
    named = os.environ.get("ILLADA_CRDS")
    return Path(named) if named else None


def pods(manifest: Manifest) -> Iterator[Manifest]:
    """Every pod template in a manifest."""
    if isinstance(manifest, Mapping):
        for key, value in manifest.items():
            if key == "template" and isinstance(value, Mapping) and "spec" in value:
                yield dict(value)
            else:
                yield from pods(value)
    elif isinstance(manifest, list):
        for each in manifest:
            yield from pods(each)
