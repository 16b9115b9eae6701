"""One holder at a time; the epoch rises; losing it ends the process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from illada.durable import lease as lease_module
from illada.durable.database import leases
from illada.durable.errors import RunBusy
from illada.durable.lease import EXIT_LEASE_LOST, Lease, request_stop


def set_row(engine: sa.Engine, **values: object) -> None:
    """Change the lease row behind everybody's back."""
    with engine.begin() as connection:
        connection.execute(sa.update(leases).values(**values))


def test_epoch_rises_with_every_acquisition(engine: sa.Engine) -> None:
    for epoch in (1, 2, 3):
        with Lease(engine, "demo") as lease:
            assert lease.epoch == epoch


def test_runs_have_leases_of_their_own(engine: sa.Engine) -> None:
    with Lease(engine, "one"), Lease(engine, "two", wait=0) as second:
        assert second.epoch == 1


def test_living_holder_is_not_waited_for_once_it_renews(engine: sa.Engine) -> None:
    told: list[str] = []
    with (
        Lease(engine, "demo", ttl=1.5),
        pytest.raises(RunBusy, match="run demo is driven by process"),
        Lease(engine, "demo", ttl=1.5, wait=60, on_wait=told.append),
    ):
        pass
    assert len(told) == 1


def test_expired_lease_is_taken_over(engine: sa.Engine) -> None:
    with Lease(engine, "demo"):
        pass
    set_row(engine, holder="elsewhere 1 2 other-boot pid:[1] x", expires=time.time() + 1)
    with Lease(engine, "demo", wait=10) as lease:
        assert lease.epoch == 2


def test_dead_process_of_this_machine_is_not_waited_for_to_expire(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_SETTLE_SECONDS", 0.1)
    url = engine.url.render_as_string()
    code = f"""
        import os
        from illada.durable.database import open_database
        from illada.durable.lease import Lease
        with Lease(open_database({url!r}), "demo", ttl=3600):
            os._exit(0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    with Lease(engine, "demo", wait=10) as lease:
        assert lease.epoch == 2


def test_two_that_wait_for_a_dead_holder_do_not_take_it_from_each_other(engine: sa.Engine) -> None:
    url = engine.url.render_as_string()
    code = f"""
        import subprocess, sys, threading, time
        from illada.durable import lease
        from illada.durable.database import open_database
        lease._SETTLE_SECONDS = 0.5
        dead = "import os; from illada.durable.lease import Lease; from illada.durable.database import open_database;"
        dead += "Lease(open_database({url!r}), 'demo', ttl=3600).__enter__(); os._exit(0)"
        subprocess.run([sys.executable, "-c", dead], check=True)
        def hold():
            try:
                with lease.Lease(open_database({url!r}), "demo", ttl=30, wait=3) as held:
                    time.sleep(4)
                    print("held", held.epoch, flush=True)
            except lease.RunBusy:
                print("busy", flush=True)
        threads = [threading.Thread(target=hold) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["2", "busy", "held"], "the epoch of the first, and a refusal of the second"


@pytest.mark.parametrize(
    "holder",
    [
        "",
        "elsewhere 1 2 other-boot pid:[1] x",
        "unreadable",
    ],
)
def test_nothing_is_concluded_about_processes_elsewhere(holder: str) -> None:
    assert not lease_module._is_dead_neighbour(holder)


def test_holder_itself_is_alive() -> None:
    assert not lease_module._is_dead_neighbour(f"{lease_module._process_identity()} x")


def test_request_to_stop_reaches_the_holder_and_nobody_else(engine: sa.Engine) -> None:
    assert not request_stop(engine, "demo")
    with Lease(engine, "demo", ttl=1.5) as lease:
        assert not lease.should_stop()
        assert request_stop(engine, "demo")
        assert lease.stop.wait(timeout=10)
        assert lease.should_stop()
        assert lease.cancelled
    assert not request_stop(engine, "demo")
    with Lease(engine, "demo") as lease:
        time.sleep(0.5)
        assert not lease.should_stop(), "a request is for the holder it was made to"


def test_lease_is_renewed_while_held(engine: sa.Engine) -> None:
    with Lease(engine, "demo", ttl=0.6) as lease:
        time.sleep(1.5)
        lease.check()
        assert not lease.should_stop()


def test_expired_lease_that_nobody_took_is_kept(engine: sa.Engine) -> None:
    with Lease(engine, "demo", ttl=30) as lease:
        set_row(engine, expires=1.0)
        lease.check()
        with engine.begin() as connection:
            assert connection.execute(sa.select(leases.c.expires)).scalar_one() > time.time()


@pytest.mark.parametrize("check", ["lease.check()", "time.sleep(20)"])
def test_losing_the_lease_ends_the_process(engine: sa.Engine, check: str, tmp_path: Path) -> None:
    url = engine.url.render_as_string()
    code = f"""
        import time
        from pathlib import Path
        import sqlalchemy as sa
        from illada.durable.database import leases, open_database
        from illada.durable.lease import Lease
        engine = open_database({url!r})
        try:
            with Lease(engine, "demo", ttl=0.6) as lease:
                with engine.begin() as connection:
                    connection.execute(sa.update(leases).values(holder="thief", epoch=2))
                {check}
        finally:
            Path({str(tmp_path / "outlived")!r}).touch()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_LEASE_LOST
    assert "lost the lease of run demo (epoch 1): another driver has taken it" in done.stderr
    assert not (tmp_path / "outlived").exists()


def test_unreachable_database_ends_the_process_before_the_lease_does(engine: sa.Engine, tmp_path: Path) -> None:
    url = engine.url.render_as_string()
    code = f"""
        import time
        from illada.durable.database import open_database
        from illada.durable.lease import Lease
        engine = open_database({url!r})
        with Lease(engine, "demo", ttl=0.6) as lease:
            with engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE illada_leases RENAME TO gone")
            time.sleep(20)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_LEASE_LOST
    assert "the database has been out of reach" in done.stderr
