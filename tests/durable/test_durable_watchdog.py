"""A driver without its Ray cluster ends instead of hanging on to its lease."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from illada.durable.watchdog import EXIT_RAY_LOST

pytestmark = pytest.mark.faults

# A node that does not answer is dead after a few seconds, not half a minute.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_dead_cluster_ends_the_driver(victim: str) -> None:
    code = f"""
        import os, time
        from illada.config import DataPlacement, Placement
        from illada.durable.cluster import _initialise
        from illada.durable.watchdog import Watchdog
        _initialise(Placement(ray_cpus=1, object_store_mb=80, data=DataPlacement(workers=1)))
        import ray
        (process,) = ray._private.worker._global_node.all_processes[{victim!r}]
        with Watchdog(every=0.5, budget=4):
            time.sleep(2)
            os.kill(process.process.pid, 9)
            time.sleep(200)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **IMPATIENT},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == EXIT_RAY_LOST
    assert "the Ray cluster has been gone for" in done.stderr


def test_living_cluster_is_left_alone() -> None:
    code = """
        import time
        from illada.config import DataPlacement, Placement
        from illada.durable.cluster import _initialise
        from illada.durable.watchdog import Watchdog
        _initialise(Placement(ray_cpus=1, object_store_mb=80, data=DataPlacement(workers=1)))
        import ray
        with Watchdog(every=0.2, budget=2):
            time.sleep(5)
        ray.shutdown()
        time.sleep(3)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
