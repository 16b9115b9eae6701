"""Metrics of runs: nothing without Ray; on a real Ray, what Prometheus would scrape is what the stages said."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from illada.artifacts import Progress
from illada.durable.engine import execute
from illada.durable.errors import StageFailed
from illada.durable.progress import StageStatus, tell_all
from illada.durable.runs import Run
from illada.durable.telemetry import METRICS, STATES, StageMetrics

Series = dict[tuple[str, str, str], float]
"""By (name, stage, value of the further tag or "")."""


def test_without_ray_nothing_is_imported() -> None:
    code = (
        "import sys\n"
        "from illada.durable.progress import StageStatus\n"
        "from illada.durable.telemetry import StageMetrics\n"
        "metrics = StageMetrics()\n"
        "for number in range(1000): metrics(StageStatus(run_id='r', stage='s', position=0, done=number))\n"
        "assert len(metrics._waiting) == 1\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'ray']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names_are_prometheus_names() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"illada_(stage|training)_[a-z_]+", metric.name) and metric.description


def test_every_listener_hears() -> None:
    heard: list[tuple[str, StageStatus]] = []
    status = StageStatus(run_id="r", stage="s", position=0)
    tell_all(lambda each: heard.append(("a", each)), lambda each: heard.append(("b", each)))(status)
    assert heard == [("a", status), ("b", status)]


@pytest.fixture(scope="module")
def scrape() -> Iterator[Callable[[], Series]]:
    """A Ray of this module's own whose metrics are a second old at most, and a look at them."""
    import ray

    ray.shutdown()  # another room's may still be up
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ill", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        _metrics_export_port=port,
        _temp_dir=folder,
        _system_config={"metrics_report_interval_ms": 500},
    )

    def look() -> Series:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return read(answer.read().decode())

    yield look
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def read(text: str) -> Series:
    found: Series = {}
    for line in text.splitlines():
        match = re.fullmatch(r"ray_(illada_\w+)\{(.*)\} (\S+)", line)
        if match:
            tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            assert tags["run"] == "demo"
            found[match[1], tags["stage"], tags.get("state") or tags.get("unit") or ""] = float(match[3])
    return found


def wait_for(look: Callable[[], Series], arrived: Callable[[Series], bool]) -> Series:
    deadline = time.monotonic() + 60
    while True:
        try:
            series = look()
        except OSError:  # the node's metrics agent is still starting
            series = {}
        if arrived(series):
            return series
        assert time.monotonic() < deadline, f"after a minute there is only {series}"
        time.sleep(0.2)


def state_of(series: Series, stage: str) -> list[str]:
    return [state for state in STATES if series.get(("illada_stage_state", stage, state)) == 1.0]


@pytest.mark.slow
def test_scraped_from_a_real_ray(
    scrape: Callable[[], Series], engine: sa.Engine, new_run: Callable[..., Run], chain: Any
) -> None:
    during: Series = {}

    def train(progress: Progress) -> None:
        progress.start(200, "steps")
        figures = {"loss": 2.5, "lr": 1e-4, "grad_norm": 0.75, "tokens": 4096.0, "goodput": 0.9, "restarts": 2.0}
        for step in (10, 30, 50):
            progress.update(step, tokens_per_second=1234.0, **figures)
            time.sleep(0.6)
        wait_for(scrape, lambda series: series.get(("illada_stage_units", "b", "steps")) == 50)
        time.sleep(1.5)  # three reports: whatever was set beside it has been sent too
        during.update(scrape())

    def fail(progress: Progress) -> None:
        raise ValueError("no")

    chain.on_build = {"b": train, "c": fail}
    with pytest.raises(StageFailed):
        execute(new_run(), engine, chain, listener=StageMetrics())

    assert state_of(during, "a") == ["done"] and state_of(during, "b") == ["running"]
    assert during["illada_stage_progress_ratio", "a", ""] == 1.0
    assert during["illada_stage_progress_ratio", "b", ""] == 0.25
    assert during["illada_stage_units", "b", "steps"] == 50
    assert 10 < during["illada_stage_units_per_second", "b", "steps"] < 40  # 40 steps in 1.2 s and more
    assert during["illada_stage_eta_seconds", "b", ""] == pytest.approx(
        150 / during["illada_stage_units_per_second", "b", "steps"], rel=1e-6
    )
    assert 1 < during["illada_stage_duration_seconds", "b", ""] < 60
    assert abs(during["illada_stage_updated_timestamp_seconds", "b", ""] - time.time()) < 120
    shown = {  # stage a has trained too, with a loss of its own
        name.removeprefix("illada_training_"): value
        for (name, stage, _), value in during.items()
        if stage == "b" and "train" in name
    }
    assert shown == {
        "tokens_per_second": 1234.0,
        "tokens": 4096.0,
        "loss_nats": 2.5,
        "learning_rate": 1e-4,
        "gradient_norm": 0.75,
        "goodput_ratio": 0.9,
        "restarts": 2.0,
    }

    wait_for(scrape, lambda series: state_of(series, "c") == ["failed"])
    time.sleep(1.5)
    after = scrape()
    assert state_of(after, "b") == ["done"] and after["illada_stage_attempts", "c", ""] == 1
    assert after["illada_stage_units_per_second", "b", "units"] == 0.0  # the chain's stages end with another count
    assert after["illada_stage_units_per_second", "b", "steps"] == 0.0
    assert {name for name, _, _ in after} == {metric.name for metric in METRICS}

    # another driver of the run: the second build of c is its first retry
    chain.on_build = {}
    execute(new_run(), engine, chain, listener=StageMetrics())
    again = wait_for(scrape, lambda series: state_of(series, "c") == ["done"])
    assert again["illada_stage_attempts", "c", ""] == 2
