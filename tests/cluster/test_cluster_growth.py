"""A data stage on a cluster with Ray's autoscaler: waiting actors bring nodes, and the end of the stage frees them.

The nodes are processes that Ray's own test provider starts on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray._private.services import get_node_ip_address
from ray_nodes import free_port

ROOT = Path(__file__).resolve().parents[2]
HEAD = "f" * 51 + "00000"  # the provider's name for it
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
EMPTY_LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
               "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
               "rsync_filter")  # fmt: skip


def configuration(address: str) -> dict[str, object]:
    """A head without processors, and up to two nodes of one processor each that may be idle for six seconds."""
    worker = {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "max_workers": 2}
    return {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
            "head_node_id": HEAD,
            "launch_multiple": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": worker,
        },
        **{name: [] for name in EMPTY_LISTS},
    }


@pytest.fixture
def growing() -> Iterator[tuple[str, dict[str, str]]]:
    """Address of the cluster's head, and the environment of its drivers."""
    folder = Path(tempfile.mkdtemp(prefix="il-"))  # short: Ray's sockets live below it
    host = get_node_ip_address()
    port, client = free_port(host), free_port(host)
    (folder / "cluster.json").write_text(json.dumps(configuration(f"{host}:{port}")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    autoscaler = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0", "--num-cpus=0"]
    command += ["--object-store-memory=80000000", "--include-dashboard=false", f"--temp-dir={folder}"]
    command += [f"--autoscaling-config={folder / 'cluster.json'}"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env={**environment, **autoscaler}, stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert head.poll() is None and time.monotonic() < end, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield f"{host}:{port}", environment
    finally:
        started = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(20)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_waiting_actors_bring_nodes_and_the_end_of_the_stage_frees_them(
    growing: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, environment = growing
    driver = [sys.executable, str(Path(__file__).with_name("growing_driver.py")), address, str(tmp_path / "work")]
    done = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"before": 1, "used": 2, "most": 3, "after": 1}
