"""Jobs are started when they are needed, by one tender, and never for a run that nobody wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from job_server import FakeJobServer

from illada.config import ConfigError
from illada.durable.client import cancel, status
from illada.durable.database import open_database, runs, stages
from illada.durable.jobs import JobServer, JobServerError, JobServerUnreachable
from illada.durable.lease import Lease
from illada.durable.package import build_package, save_package
from illada.durable.runs import Run, RunRegistry
from illada.durable.tend import job_environment, tend_once, want


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobServer]:
    """A job server that asks for no token."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    made = FakeJobServer()
    yield made
    made.stop()


@pytest.fixture
def submitted(engine: sa.Engine, new_run: Callable[..., Run], server: FakeJobServer) -> Run:
    """A wanted run."""
    package = build_package()
    save_package(engine, package)
    new_run()
    return want(engine, "demo", address=server.address, package=package.sha256)


def row(engine: sa.Engine) -> Run:
    """As it is now."""
    return RunRegistry(engine).get("demo")


def make_due(engine: sa.Engine, ago: float = 0.0) -> None:
    """The pause between two jobs is over, and has been for a while."""
    with engine.begin() as connection:
        connection.execute(sa.update(runs).values(next_job=time.time() - ago))


def test_wanted_run_gets_one_job(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    (job,) = tend_once(engine)
    assert job.startswith("illada-demo-1-")
    (body,) = server.submitted
    assert body["entrypoint"] == f"exec python -m illada.cli.main drive demo --job {job}"
    assert body["runtime_env"]["env_vars"]["ILLADA_DATABASE"] == engine.url.render_as_string()
    assert body["runtime_env"]["working_dir"] == f"gcs://_ray_pkg_illada_{submitted.package}.zip"
    assert set(body["runtime_env"]) == {"working_dir", "env_vars"}
    assert list(server.packages.values()) == [build_package().data]
    assert (row(engine).job, row(engine).jobs) == (job, 1)
    assert status(engine, "demo")[0].state == "waiting"
    server.jobs[job]["status"] = "RUNNING"
    make_due(engine)
    assert tend_once(engine) == []


def test_many_tenders_start_one_job(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    with ThreadPoolExecutor(8) as threads:
        started = list(threads.map(lambda _: tend_once(engine), range(8)))
    assert len([job for jobs in started for job in jobs]) == 1
    assert len(server.submitted) == 1


@pytest.mark.parametrize("end", ["FAILED", "SUCCEEDED", None])
def test_lost_job_is_followed_by_the_next(
    engine: sa.Engine, submitted: Run, server: FakeJobServer, end: str | None
) -> None:
    (first,) = tend_once(engine)
    if end is None:
        del server.jobs[first]  # with the cluster it was on
    else:
        server.jobs[first] = {"status": end, "message": "the supervisor died\n at last"}
    assert tend_once(engine) == [], "not at once"
    make_due(engine)
    (second,) = tend_once(engine)
    assert second.startswith("illada-demo-2-")
    assert first in str(row(engine).error)


def test_pause_grows_until_there_is_progress(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    delays = []
    for _ in range(9):
        tend_once(engine)
        delays.append(row(engine).job_delay)
        server.jobs.clear()
        make_due(engine, ago=1)
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    with engine.begin() as connection:
        values: dict[str, Any] = {"run_id": "demo", "stage": "a", "position": 0, "state": "done", "attempt": 1}
        values |= {"fingerprint": "", "reused": False, "unit": "", "figures": "{}", "updated": 0.0}
        connection.execute(sa.insert(stages).values(finished=time.time(), **values))
    tend_once(engine)
    assert row(engine).job_delay == 5


def test_driven_run_is_left_alone(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    with Lease(engine, "demo"):
        assert tend_once(engine) == []
    assert len(tend_once(engine)) == 1


def test_stopped_job_means_that_the_run_is_not_wanted(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    (job,) = tend_once(engine)
    server.jobs[job]["status"] = "STOPPED"
    assert tend_once(engine) == []
    assert (row(engine).status, row(engine).wanted) == ("interrupted", False)
    want(engine, "demo")
    assert len(tend_once(engine)) == 1


def test_cancelled_run_gets_no_job(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    assert cancel(engine, "demo").state == "cancelled"
    assert tend_once(engine) == []
    assert server.submitted == []


def test_cluster_that_does_not_answer_is_waited_for(engine: sa.Engine, submitted: Run, server: FakeJobServer) -> None:
    server.stop()
    told: list[str] = []
    assert tend_once(engine, notice=told.append) == []
    assert "run demo waits for its cluster: no Ray job server answers at http://127.0.0.1:" in told[0]
    assert (row(engine).jobs, row(engine).wanted) == (0, True)


def test_what_cannot_be_wanted(engine: sa.Engine, new_run: Callable[..., Run], server: FakeJobServer) -> None:
    new_run()
    with pytest.raises(ConfigError, match="run demo was never submitted to a cluster"):
        want(engine, "demo")
    RunRegistry(engine).update("demo", status="finished")
    with pytest.raises(ConfigError, match="run demo is finished"):
        want(engine, "demo", address=server.address, package="0")


@pytest.mark.parametrize("url", ["postgresql://me:secret@db/illada", "postgresql://me@db/illada?password=secret"])
def test_no_password_gets_into_a_job(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with pytest.raises(ConfigError, match="PGPASSWORD") as caught:
        job_environment(engine, "http://127.0.0.1:8265")
    assert "secret" not in str(caught.value)


def test_job_environment(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    engine = sa.create_engine("postgresql+psycopg://me@db/illada")
    assert job_environment(engine, "http://head:8265")["ILLADA_DATABASE"] == "postgresql://me@db/illada"
    file = open_database(f"sqlite:///{tmp_path / 'runs.db'}")
    assert job_environment(file, "http://localhost:8265")["ILLADA_DATABASE"] == f"sqlite:///{tmp_path / 'runs.db'}"
    with pytest.raises(ConfigError, match="a cluster needs a PostgreSQL"):
        job_environment(file, "http://head:8265")
    file.dispose()


def test_tokens(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeJobServer(token="right")
    token = tmp_path / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(JobServerError, match="asks for a token: set RAY_AUTH_MODE=token"):
        JobServer(server.address).check()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(JobServerError, match="cannot be read"):
        JobServer(server.address)
    token.write_text("wrong\n")
    with pytest.raises(JobServerError, match="refuses the token of RAY_AUTH_TOKEN_PATH"):
        JobServer(server.address).check()
    token.write_text("right\n")
    JobServer(server.address).check()
    server.stop()
    with pytest.raises(JobServerUnreachable, match="no Ray job server answers"):
        JobServer(server.address).check()


def test_addresses(server: FakeJobServer) -> None:
    for address in ("ray://head:10001", "head:8265", "http://", "http://me:secret@head:8265", "auto"):
        with pytest.raises(JobServerError, match=r"as in http://HEAD:8265"):
            JobServer(address)
    with pytest.raises(JobServerError, match="is not this machine: set RAY_AUTH_MODE=token"):
        JobServer("http://head:8265")
    server.version = b"<html>welcome</html>"
    with pytest.raises(JobServerError, match="is no Ray job server"):
        JobServer(server.address).check()
    server.version = {"hello": 1}
    with pytest.raises(JobServerError, match="is no Ray job server"):
        JobServer(server.address).check()
