"""`illada submit` on a real cluster: what is refused, what attaches, what a job carries, and how one is stopped."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from bench import PASSWORD, Bench

from illada.artifacts.provenance import MANIFEST
from illada.durable.package import Package, build_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def wait_for(cluster: Bench, run: str, *states: str, seconds: float = 120) -> None:
    """Until the run is in one of these states."""
    deadline = time.monotonic() + seconds
    while cluster.state(run) not in states:
        assert time.monotonic() < deadline, f"{cluster.state(run)}\n{cluster.log(run)}"
        time.sleep(0.1)


def reusing(cluster: Bench, run: str, store: Path) -> list[str]:
    """Arguments of a run that finds everything made."""
    return [*cluster.arguments(run), "--set", f"placement.store={store}"]


def test_same_configuration_attaches(cluster: Bench, uninterrupted: Path) -> None:
    first = cluster.illada(*reusing(cluster, "twice", uninterrupted))
    second = cluster.illada(*reusing(cluster, "twice", uninterrupted), "--json")
    assert first.stdout == "twice\n", "the run's id and nothing else"
    assert json.loads(second.stdout)["run"] == "twice"
    assert "attached to it" in second.stderr or "is finished" in second.stderr
    third = cluster.illada(*reusing(cluster, "twice", uninterrupted), "--wait")
    assert third.returncode == 0, third.stderr
    assert third.stdout == "twice\n"
    assert "run twice finished" in third.stderr
    assert cluster.query("select jobs, nodes from illada_runs where run_id = 'twice'")[0][0] == 1
    states = cluster.query("select distinct state from illada_stages where run_id = 'twice'")
    assert states == [("reused",)]
    again = cluster.illada(*reusing(cluster, "twice", uninterrupted))
    assert "run twice is finished" in again.stderr
    other = cluster.illada(*reusing(cluster, "twice", uninterrupted), "--set", "pretrain.steps=13")
    assert other.returncode == 1
    assert "pretrain.steps: 12 -> 13" in other.stderr


def test_nodes_are_counted(cluster: Bench, uninterrupted: Path) -> None:
    assert cluster.query("select nodes from illada_runs where run_id = 'quiet'") == [(3,)]


def test_job_carries_no_secret(cluster: Bench, uninterrupted: Path) -> None:
    logs = cluster.nodes.folder / "0"
    token = cluster.nodes.token.read_text()
    found = [path for path in logs.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    found += [path for path in logs.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert found == [], "logs, job metadata and runtime environments of the head"
    url = cluster.server.url.replace("postgres@", f"postgres:{PASSWORD}@")
    refused = cluster.illada(*cluster.arguments("secret"), ILLADA_DATABASE=url)
    assert refused.returncode == 1
    assert "PGPASSWORD" in refused.stderr
    assert PASSWORD not in refused.stderr
    assert cluster.state("secret") is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "{wrong}"}, "refuses the token of RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "the token file /nowhere cannot be read"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}, "no Ray job server answers at http://127.0.0.1:1"),
        ({"RAY_API_SERVER_ADDRESS": "{silent}"}, "no Ray job server answers at http://127.0.0.1:"),
        ({"RAY_API_SERVER_ADDRESS": "ray://127.0.0.1:1"}, "as in http://HEAD:8265"),
        ({"ILLADA_DATABASE": "postgresql://postgres@127.0.0.1:1/none"}, "cannot be opened"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_is_done(
    cluster: Bench, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    (tmp_path / "wrong").write_text("0" * 64)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and says nothing
        silent = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        given = {name: value.format(wrong=tmp_path / "wrong", silent=silent) for name, value in environment.items()}
        began = time.monotonic()
        done = cluster.illada(*cluster.arguments("refused"), **given)
    assert time.monotonic() - began < 15
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert cluster.state("refused") is None


def test_relative_store_is_refused(cluster: Bench) -> None:
    done = cluster.illada(*cluster.arguments("refused"), "--set", "placement.store=out/store")
    assert done.returncode == 1
    assert "placement.store 'out/store'" in done.stderr


def test_another_environment_ends_the_run_with_one_error(cluster: Bench, uninterrupted: Path) -> None:
    package = build_package()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package.data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == MANIFEST:
                manifest = package.manifest
                content = json.dumps({**manifest, "versions": {**manifest["versions"], "torch": "1.0"}}).encode()
            new.writestr(name, content)
    other = Package(sha256=sha256(buffer.getvalue()).hexdigest(), data=buffer.getvalue())
    with cluster.database() as engine:
        from illada.durable.package import save_package
        from illada.durable.runs import RunRegistry
        from illada.durable.tend import tend_once, want

        quiet = RunRegistry(engine).get("quiet")
        RunRegistry(engine).create("elsewhere", quiet.config_yaml, quiet.identity, quiet.store, [])
        save_package(engine, other)
        want(engine, "elsewhere", address=cluster.nodes.address, package=other.sha256)
        assert len(tend_once(engine, "elsewhere")) == 1
        wait_for(cluster, "elsewhere", "failed")
        run = RunRegistry(engine).get("elsewhere")
        assert run.error is not None
        assert "1.0 was submitted" in run.error
        assert not run.wanted, "the next job would find the same"


def test_stopped_job_is_an_interrupted_run(cluster: Bench, uninterrupted: Path) -> None:
    cluster.seed("stopped", uninterrupted)
    arguments = [*cluster.arguments("stopped"), "--set", "pretrain.steps=60", "--json"]
    job = json.loads(cluster.illada(*arguments).stdout)["job"]
    deadline = time.monotonic() + 120
    while not cluster.query("select 1 from illada_stages where run_id = 'stopped' and stage = 'pretrain'"):
        assert time.monotonic() < deadline, cluster.log("stopped")
        time.sleep(0.1)
    cluster.ray("job", "stop", job, "--no-wait")
    wait_for(cluster, "stopped", "interrupted", seconds=30)
    deadline = time.monotonic() + 15
    while cluster.drivers("stopped") or cluster.nodes.work():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert cluster.query("select wanted from illada_runs where run_id = 'stopped'") == [(False,)]
    status = json.loads(cluster.illada("status", "stopped", "--json").stdout)[0]
    assert (status["state"], status["resume"]) == ("interrupted", "illada resume stopped")
    assert cluster.illada("resume", "stopped").stdout == "stopped\n"
    wait_for(cluster, "stopped", "running", seconds=60)
    assert cluster.illada("cancel", "stopped").returncode == 0
