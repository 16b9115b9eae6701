"""The manifests: what kustomize makes of them is valid, hangs together, and holds no secret but the one filled in."""

from __future__ import annotations

import base64
import copy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
import yaml
from infra_crds import CONDENSED, condense
from infra_manifests import (
    INFRA,
    ROOT,
    SECRETS,
    Manifest,
    crds,
    filled_in,
    kustomize,
    pods,
    validate,
    validate_by_original,
)
from jsonschema import ValidationError

from illada.cli.main import app
from illada.config import RefreshConfig
from workflows.registry import load_workflow

OVERLAYS = ("cpu-small", "production")
Built = Callable[[str], list[Manifest]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The manifests of a kustomization, by its path below infra/kubernetes."""
    folder = filled_in(tmp_path_factory.mktemp("kubernetes"))
    made: dict[str, list[Manifest]] = {}

    def build(name: str) -> list[Manifest]:
        if name not in made:
            made[name] = kustomize(folder / name)
        return copy.deepcopy(made[name])

    return build


def the(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


@pytest.mark.parametrize("name", ["overlays/cpu-small", "overlays/production", "jobs/once", "jobs/cron"])
def test_every_manifest_is_valid(built: Built, name: str) -> None:
    manifests = built(name)
    assert manifests
    for manifest in manifests:
        validate(manifest)
        assert manifest["metadata"]["namespace"] == "illada"


def test_what_there_is(built: Built) -> None:
    kinds = {"ConfigMap", "Secret", "Service", "Deployment", "StatefulSet", "NetworkPolicy", "RayCluster"}
    assert {manifest["kind"] for manifest in built("overlays/cpu-small")} == kinds
    assert {manifest["kind"] for manifest in built("overlays/production")} == kinds | {"PodDisruptionBudget"}
    assert [manifest["kind"] for manifest in built("jobs/once")] == ["RayJob"]
    assert [manifest["kind"] for manifest in built("jobs/cron")] == ["RayCronJob"]


def change(manifest: Any, path: tuple[str | int, ...], value: Any) -> None:
    for key in path[:-1]:
        manifest = manifest[key]
    if value is None:
        del manifest[path[-1]]
    else:
        manifest[path[-1]] = value


GROUP: tuple[str | int, ...] = ("spec", "workerGroupSpecs", 0)
CONTAINER: tuple[str | int, ...] = (*GROUP, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "headGroupSpecs"), {}),
        (("spec", "headGroupSpec"), None),
        ((*GROUP, "maxReplicas"), "3"),
        ((*GROUP, "groupname"), "data"),
        ((*GROUP, "rayStartParams", "num-cpus"), 0),
        (("spec", "authOptions", "mode"), "password"),
        (("spec", "autoscalerOptions", "resources", "limit"), {}),
        ((*CONTAINER, "imagePullPolice"), "Always"),
        ((*CONTAINER, "env", 0, "value"), 0),
        ((*CONTAINER, "name"), None),
        ((*CONTAINER, "volumeMounts", 0, "mountpath"), "/tmp"),
    ],
)
def test_a_mistake_in_a_ray_cluster_is_found(built: Built, path: tuple[str | int, ...], value: Any) -> None:
    cluster = the(built("overlays/production"), "RayCluster")
    change(cluster, path, value)
    with pytest.raises(ValidationError):
        validate(cluster)


@pytest.mark.parametrize(
    ("name", "kind", "path", "value"),
    [
        ("jobs/once", "RayJob", ("spec", "backoffLimit"), "2"),
        ("jobs/once", "RayJob", ("spec", "entryPoint"), "illada"),
        ("jobs/once", "RayJob", ("spec", "rayClusterSpec", "headGroupSpec", "templates"), {}),
        ("jobs/cron", "RayCronJob", ("spec", "schedule"), None),
        ("jobs/cron", "RayCronJob", ("spec", "jobTemplate", "rayClusterSpec", "workers"), []),
    ],
)
def test_a_mistake_in_a_job_is_found(
    built: Built, name: str, kind: str, path: tuple[str | int, ...], value: Any
) -> None:
    job = the(built(name), kind)
    change(job, path, value)
    with pytest.raises(ValidationError):
        validate(job)


@pytest.mark.parametrize("name", ["overlays/cpu-small", "overlays/production", "jobs/once", "jobs/cron"])
def test_valid_by_kuberays_own_definitions(built: Built, name: str) -> None:
    folder = crds()
    if folder is None:
        pytest.skip("ILLADA_CRDS names no folder with KubeRay's definitions (tests/infra/infra_crds.py fetches them)")
    for manifest in built(name):
        if manifest["apiVersion"].startswith("ray.io/"):
            validate_by_original(manifest, folder)


def test_ray_schema_is_what_the_definitions_say() -> None:
    folder = crds()
    if folder is None:
        pytest.skip("ILLADA_CRDS names no folder with KubeRay's definitions (tests/infra/infra_crds.py fetches them)")
    assert yaml.safe_load(CONDENSED.read_text(encoding="utf-8")) == condense(folder)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_refer_to_exists(built: Built, overlay: str) -> None:
    manifests = built(f"overlays/{overlay}")
    held = {
        (manifest["kind"], manifest["metadata"]["name"]): set(manifest["data"])
        for manifest in manifests
        if manifest["kind"] in ("ConfigMap", "Secret")
    }
    templates = the(manifests, "StatefulSet")["spec"]["volumeClaimTemplates"]
    claims = {claim["metadata"]["name"] for claim in templates}
    used = set()
    for pod in pods(manifests):
        spec = pod["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                used.add(("ConfigMap", volume["configMap"]["name"], None))
            elif "secret" in volume:
                used.add(("Secret", volume["secret"]["secretName"], None))
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | claims
            for mount in container["volumeMounts"]:
                if "subPath" in mount:
                    used.add(("ConfigMap", volumes[mount["name"]]["configMap"]["name"], mount["subPath"]))
            for variable in container["env"]:
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    used.add(("Secret", reference["name"], reference["key"]))
            for source in container.get("envFrom", []):
                kind = "ConfigMap" if "configMapRef" in source else "Secret"
                used.add((kind, next(iter(source.values()))["name"], None))
    used.add(("Secret", the(manifests, "RayCluster")["spec"]["authOptions"]["secretName"], "auth_token"))
    for kind, name, key in used:
        assert (kind, name) in held, f"{kind} {name} is not made"
        assert key is None or key in held[kind, name], f"{kind} {name} has no {key}"
    assert {(kind, name) for kind, name, _ in used} == held.keys(), "made, but of no use"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_their_pods(built: Built, overlay: str) -> None:
    manifests = built(f"overlays/{overlay}")
    labels = [pod["metadata"]["labels"].items() for pod in pods(manifests)]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = {
            "Service": lambda spec: spec["selector"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
            "StatefulSet": lambda spec: spec["selector"]["matchLabels"],
        }.get(manifest["kind"])
        if selector:
            found = [each for each in labels if selector(spec).items() <= each]
            assert len(found) == (len(labels) if manifest["kind"] == "NetworkPolicy" else 1)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined(built: Built, overlay: str) -> None:
    for pod in pods(built(f"overlays/{overlay}")):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert container["image"].rpartition(":")[2] not in ("", "latest") and "/" in container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_downloads_fit_into_the_scratch_volume(built: Built, overlay: str) -> None:
    """A pod that exceeds the limit of an emptyDir is evicted."""
    unit = {"Gi": 2**30, "Ti": 2**40}
    checked = 0
    for pod in pods(built(f"overlays/{overlay}")):
        (container,) = pod["spec"]["containers"]
        values = {variable["name"]: variable.get("value") for variable in container["env"]}
        if "ILLADA_CACHE_GB" in values:
            (limit,) = (v["emptyDir"]["sizeLimit"] for v in pod["spec"]["volumes"] if v["name"] == "scratch")
            assert float(values["ILLADA_CACHE_GB"]) * 1e9 <= int(limit[:-2]) * unit[limit[-2:]] / 2
            (mount,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "scratch")
            assert mount == "/tmp"  # where the cache is by default
            checked += 1
    assert checked == {"cpu-small": 3, "production": 4}[overlay]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_in_secrets_only(built: Built, overlay: str) -> None:
    manifests = built(f"overlays/{overlay}")
    planted = [value for values in SECRETS.values() for value in values.values()]
    for manifest in manifests:
        text = yaml.safe_dump(manifest)
        if manifest["kind"] == "Secret":
            planted = [value for value in planted if base64.b64encode(value.encode()).decode() not in text]
        else:
            assert "planted" not in text
    assert not planted, "a secret that is filled in reaches nobody"
    committed = [path for path in INFRA.rglob("*") if path.is_file() and path.name.endswith(".env.example")]
    for path in committed:
        values = dict(line.split("=", 1) for line in path.read_text().splitlines())
        assert not any(value for name, value in values.items() if name != "url"), path


def test_ray_asks_for_its_token_everywhere(built: Built) -> None:
    clusters = [the(built(f"overlays/{overlay}"), "RayCluster")["spec"] for overlay in OVERLAYS]
    clusters.append(the(built("jobs/once"), "RayJob")["spec"]["rayClusterSpec"])
    clusters.append(the(built("jobs/cron"), "RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"])
    for spec in clusters:
        assert spec["authOptions"] == {"mode": "token", "secretName": "illada-ray-token"}
    (scheduler,) = pods(the(built("overlays/production"), "Deployment"))
    (container,) = scheduler["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["RAY_AUTH_MODE"] == "token"
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "ray-token")
    assert environment["RAY_AUTH_TOKEN_PATH"] == f"{mount['mountPath']}/auth_token"


def test_a_job_has_the_cluster_of_its_overlay(built: Built) -> None:
    spec = the(built("overlays/production"), "RayCluster")["spec"]
    assert the(built("jobs/once"), "RayJob")["spec"]["rayClusterSpec"] == spec
    assert the(built("jobs/cron"), "RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"] == spec


def test_ray_and_python_are_the_pinned_ones(built: Built) -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    assert the(built("overlays/production"), "RayCluster")["spec"]["rayVersion"] == pins["ray"]


@pytest.mark.parametrize(
    ("name", "kind", "find"),
    [
        ("jobs/once", "RayJob", lambda manifest: shlex.split(manifest["spec"]["entrypoint"])),
        ("jobs/cron", "RayCronJob", lambda manifest: shlex.split(manifest["spec"]["jobTemplate"]["entrypoint"])),
        (
            "overlays/production",
            "Deployment",
            lambda manifest: next(pods(manifest))["spec"]["containers"][0]["command"],
        ),
    ],
)
def test_commands_exist(built: Built, name: str, kind: str, find: Callable[[Manifest], list[str]]) -> None:
    """Parsed by the command line itself, which refuses unknown commands and options; nothing runs."""
    program, verb, *arguments = find(the(built(name), kind))
    assert program == "illada"
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, verb)
    assert command is not None, f"there is no command {verb}"
    command.make_context(verb, arguments)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_run_of_the_installation_is_a_configuration(built: Built, overlay: str, tmp_path: Path) -> None:
    runs = next(m for m in built(f"overlays/{overlay}") if m["metadata"]["name"] == "illada-runs")
    for name, text in runs["data"].items():
        (tmp_path / name).write_text(text)
        loaded = load_workflow(tmp_path / name)
        assert isinstance(loaded, RefreshConfig)
        assert loaded.placement.store.startswith("s3://") and loaded.placement.ray_address == "auto"
        workers = the(built(f"overlays/{overlay}"), "RayCluster")["spec"]["workerGroupSpecs"][0]
        (container,) = workers["template"]["spec"]["containers"]
        cpus = int(container["resources"]["requests"]["cpu"]) * workers["maxReplicas"]
        assert loaded.placement.data.workers * loaded.placement.data.cpus_per_worker <= cpus


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_password_of_the_database_is_apart_from_its_url(built: Built, overlay: str) -> None:
    """`illada submit` refuses a URL with a password: it would be in the job's metadata."""
    example = (INFRA / "kubernetes" / "overlays" / overlay / "secrets" / "database.env.example").read_text()
    (url,) = (line.partition("=")[2] for line in example.splitlines() if line.startswith("url="))
    assert sa.make_url(url).password is None
    having = 0
    for manifest in built(f"overlays/{overlay}"):
        for pod in pods(manifest):
            for container in pod["spec"]["containers"]:
                environment = {entry["name"]: entry for entry in container.get("env", [])}
                if "ILLADA_DATABASE" in environment:
                    having += 1
                    secret = environment["PGPASSWORD"]["valueFrom"]["secretKeyRef"]
                    assert secret["name"].startswith("illada-database")
                    assert secret["key"] == "password"
    assert having
