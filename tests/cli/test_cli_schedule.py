"""`illada schedule` and `illada scheduler` from the command line, up to the job server, which answers here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from illada.config import ConfigError
from illada.durable.database import schedules
from illada.durable.runs import RunRegistry
from illada.durable.schedules import get_schedule


class Answers(BaseHTTPRequestHandler):
    """A job server that is asked for its version only."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}')

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Where the job server answers."""
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The demo's configuration with a store that a cluster could see."""
    demo = Path(__file__).parents[2] / "configs" / "workflows" / "demo.yaml"
    path = tmp_path / "nightly.yaml"
    path.write_text(yaml.safe_dump({"extends": str(demo), "placement": {"store": str(tmp_path / "store")}}))
    return str(path)


@pytest.fixture
def news(illada: Callable[..., Any], address: str, config: str, engine: sa.Engine) -> str:
    """A schedule called news, as if nobody had looked since 2024 began."""
    illada("schedule", "add", "news", "--cron", "0 3 1 * *", "--config", config, "--address", address, "--timezone",
           "Europe/Paris")  # fmt: skip
    start = datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp()
    with engine.begin() as connection:
        connection.execute(sa.update(schedules).values(cursor=start))
    return "news"


def test_add_tells_the_first_slot(illada: Callable[..., Any], address: str, config: str, engine: sa.Engine) -> None:
    told = illada(
        "schedule", "add", "news", "--cron", "0 3 * * *", "--config", config, "--address", address,
        "--timezone", "Europe/Paris", "--set", "data.curate.gopher_quality.min_doc_words=60",
    ).stdout  # fmt: skip
    assert "schedule news: first at 20" in told and " 03:00:00 CE" in told
    made = get_schedule(engine, "news")
    assert (made.cron, made.timezone, made.address, made.paused) == ("0 3 * * *", "Europe/Paris", address, False)
    assert yaml.safe_load(made.config_yaml)["data"]["curate"]["gopher_quality"]["min_doc_words"] == 60
    assert len(made.package) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--cron": "0 0 30 2 *"}, "never fires"),
        ({"--timezone": "Mars"}, "timezone 'Mars'"),
        ({"--address": "http://127.0.0.1:1"}, "no Ray job server answers"),
        ({"--address": "nowhere"}, "give the cluster's job server"),
        ({"--set": "data.curate.gopher_quality.min_doc_wordz=3"}, "did you mean 'min_doc_words'"),
        ({"--set": "placement.store=out"}, "an absolute path or s3://"),
        ({"--config": "/nowhere.yaml"}, "cannot be read"),
    ],
)
def test_bad_input_is_refused(
    illada: Callable[..., Any], address: str, config: str, changes: dict[str, str], message: str
) -> None:
    options = {"--cron": "0 3 * * *", "--config": config, "--address": address, **changes}
    with pytest.raises(ConfigError if "--address" not in changes else ValueError, match=message):
        illada("schedule", "add", "news", *[part for option in options.items() for part in option])
    assert "no schedules yet" in illada("schedule", "list").stdout


def test_scheduler_once_pause_backfill_remove(illada: Callable[..., Any], news: str, engine: sa.Engine) -> None:
    """The life of a schedule, as `list` shows it."""
    first = get_schedule(engine, news).next
    assert first == datetime(2024, 2, 1, 2, tzinfo=UTC).timestamp()
    assert "2024-02-01 03:00:00 CET" in illada("schedule", "list").stdout
    said = illada("scheduler", "--once").stdout
    assert "slot 2024-02-01 02:00:00 UTC fired, run news-20240201t0200z" in said
    assert "run news-20240201t0200z may start" in said
    runs = [run.run_id for run in RunRegistry(engine).list()]
    assert len(runs) >= 9, "a month each since January"

    header, line, *slots = illada("schedule", "list", news).stdout.splitlines()
    assert header.split() == ["schedule", "state", "cron", "next", "last", "run", "queued"]
    assert line.split()[:2] == ["news", "active"]
    assert slots[0].split() == ["slot", "state", "run"]
    assert slots[1].split()[3:] == ["queued", max(runs)]
    (shown,) = json.loads(illada("schedule", "list", "--json").stdout)
    assert shown["slots"][0]["state"] == "queued" and len(shown["slots"]) == min(10, len(runs))
    assert "config_yaml" not in shown

    assert "is paused" in illada("schedule", "pause", news).stdout
    assert illada("schedule", "list").stdout.splitlines()[1].split()[1] == "paused"
    assert "next at" in illada("schedule", "resume", news).stdout
    assert illada("schedule", "backfill", news, "--from", "2023-12-01", "--to", "2024-01-02").stdout.split() == [
        "news-20231201t0200z", "news-20240101t0200z",
    ]  # fmt: skip
    again = illada("schedule", "backfill", news, "--from", "2023-12-01", "--to", "2024-01-02").stdout
    assert again.strip() == "every slot of this interval was fired before"
    with pytest.raises(ConfigError, match="'soon' is no time"):
        illada("schedule", "backfill", news, "--from", "soon", "--to", "2024-01-02")
    removed = illada("schedule", "remove", news).stdout
    assert "news is removed; cancelled: news-20231201t0200z, news-20240101t0200z" in removed
    with pytest.raises(ConfigError, match="no schedule 'news'; known schedules: none"):
        illada("schedule", "list", news)
    assert RunRegistry(engine).get("news-20240201t0200z").wanted, "the one at work goes on"


def test_service_ends_cleanly_when_asked(illada: Callable[..., Any], news: str, engine: sa.Engine) -> None:
    service = subprocess.Popen(
        [sys.executable, "-m", "illada.cli.main", "scheduler"], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        deadline = time.monotonic() + 60
        while not any(run.wanted for run in RunRegistry(engine).list()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        service.send_signal(signal.SIGTERM)
        said, _ = service.communicate(timeout=60)
    finally:
        service.kill()
    assert service.returncode == 0
    lines = [line.partition("  ")[2] for line in said.splitlines()]
    assert lines[0] == "at work" and lines[-1] == "ended"
    assert "news: slot 2024-02-01 02:00:00 UTC fired, run news-20240201t0200z" in lines
