"""Ray's cluster launcher: both files pass Ray's checks; `ray up` runs with an ssh and rsync that only take notes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from infra_manifests import BIN, INFRA, ROOT
from jsonschema import ValidationError

FILES = ("aws", "machines")


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / "ray" / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def check(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", FILES)
def test_passes_rays_own_checks(name: str) -> None:
    prepared = check(read(name))
    assert prepared["cluster_name"] == "illada"
    assert prepared["head_start_ray_commands"] == read(name)["head_start_ray_commands"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("key", "value"), [("idle_timeout", 5), ("provider", {"region": "us-east-1"}), ("file_mounts", ["a"])]
)
def test_a_mistake_is_found(name: str, key: str, value: Any) -> None:
    with pytest.raises((ValidationError, ValueError, AttributeError, KeyError)):
        check({**read(name), key: value})


def test_groups_of_the_cloud() -> None:
    types = read("aws")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}  # drivers only
    assert sum(each["max_workers"] for each in types.values()) == read("aws")["max_workers"]
    assert all(each["min_workers"] == 0 for each in types.values())


def ray_starts() -> Iterator[tuple[str, str]]:
    for name in FILES:
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            yield from ((f"{name} {key}", command) for command in read(name)[key])
    script = re.sub(r"\\\n\s*", "", (INFRA / "slurm" / "illada.sbatch").read_text())
    for line in script.splitlines():
        if " ray start --" in line:
            yield "slurm", line.partition(" >>")[0]


def test_options_of_ray_start_exist() -> None:
    """Parsed by Ray's own command line, which refuses unknown options; nothing starts."""
    from ray.scripts.scripts import start

    seen = 0
    for where, command in ray_starts():
        if "ray start " not in command:
            continue
        arguments = shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", command.partition("ray start ")[2]))
        parsed = start.make_context("ray start", list(arguments)).params
        assert parsed["head"] or parsed["address"], where
        assert parsed["metrics_export_port"], f"{where}: nothing for Prometheus to scrape"
        assert not parsed["head"] or parsed["dashboard_host"] != "0.0.0.0", f"{where}: open to everybody"
        if where != "slurm":
            assert "RAY_AUTH_MODE=token" in command, where
        seen += 1
    assert seen == 6


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str], Path]]:
    """The file with addresses of this machine, the environment of `ray up`, and what ssh and rsync were asked to do."""
    log = tmp_path / "asked"
    for program in ("ssh", "rsync", "scp"):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{program} $*" >>"{log}"\n')
        path.chmod(0o755)
    for secret in (".ray/auth_token", ".illada/environment", ".ssh/id_ed25519"):
        (tmp_path / secret).parent.mkdir()
        (tmp_path / secret).write_text("planted\n")
    name = f"dry-{uuid.uuid4().hex[:8]}"
    text = (INFRA / "ray" / "machines.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(head|worker-\d)\.PLACEHOLDER\.example\.com", "127.0.0.1", text, count=1)
    text = re.sub(r"worker-(\d)\.PLACEHOLDER\.example\.com", r"127.0.1.\1", text)
    config = tmp_path / "machines.yaml"
    config.write_text(text.replace("cluster_name: illada", f"cluster_name: {name}"))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    yield config, environment, log
    for left in Path("/tmp/ray").glob(f"cluster-{name}.*"):
        left.unlink()


def test_ray_up_dry_run(launcher: tuple[Path, dict[str, str], Path]) -> None:
    config, environment, log = launcher
    assert "PLACEHOLDER" not in re.sub(r"#.*", "", config.read_text())
    command = [sys.executable, "-m", "ray.scripts.scripts", "up", "--yes", "--no-config-cache", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = log.read_text().splitlines()
    assert all("illada@127.0.0.1" in line for line in asked)
    copied = [line.rpartition("illada@127.0.0.1:")[2] for line in asked if line.startswith("rsync")]
    assert {"/home/illada/.ray/auth_token", "/home/illada/.illada/environment"} <= set(copied)
    (start,) = [line for line in asked if "ray start" in line]
    assert asked[-1] == start and start.endswith(f"{read('machines')['head_start_ray_commands'][-1]})'")
    assert "planted" not in done.stdout + done.stderr + "".join(asked)
    # what the remote shell is given is one quoted command, and a shell can read it
    (inner,) = re.findall(r"bash --login -c -i '(.*)'$", start)
    subprocess.run(["bash", "-n", "-c", inner], check=True, timeout=10)


def test_start_commands_are_clean_shell() -> None:
    for where, command in ray_starts():
        if where != "slurm":
            checked = subprocess.run(
                [BIN / "shellcheck", "--shell=bash", "--exclude=SC1090,SC1091,SC2086,SC2154", "-"],
                input=command,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert checked.returncode == 0, f"{where}: {checked.stdout}"
