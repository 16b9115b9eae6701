"""The run database opens where it can and says clearly why where it cannot."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from illada.config import Placement
from illada.durable.database import SCHEMA_VERSION, DatabaseError, default_database, open_database, schema, slots
from illada.durable.runs import RunRegistry


def test_default_is_beside_the_store_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_database(Placement(store="out/store")) == f"sqlite:///{tmp_path}/out/illada.db"
    assert default_database(Placement(database="sqlite:///runs.db")) == f"sqlite:///{tmp_path}/runs.db"


def test_postgresql_goes_through_psycopg_with_its_password() -> None:
    url = default_database(Placement(database="postgresql://me:secret@db.example/illada"))
    assert url == "postgresql+psycopg://me:secret@db.example/illada"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("runs.db", "is not a URL; write sqlite:///"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("mysql://db.example/illada", "only sqlite:// and postgresql:// are supported"),
    ],
)
def test_unusable_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message):
        open_database(url)


def test_missing_database_is_an_error_unless_it_may_be_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'deep' / 'illada.db'}"
    with pytest.raises(DatabaseError, match=r"deep/illada\.db: no run database here"):
        open_database(url, create=False)
    assert not (tmp_path / "deep").exists()
    open_database(url).dispose()
    open_database(url, create=False).dispose()


def test_foreign_database_is_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    foreign = sa.create_engine(f"sqlite:///{path}")
    with foreign.begin() as connection:
        connection.execute(sa.text("CREATE TABLE something (x INTEGER)"))
    foreign.dispose()
    with pytest.raises(DatabaseError, match="holds no runs"):
        open_database(f"sqlite:///{path}", create=False)


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "illada.db"
    path.write_text("a diary\n" * 1000)
    with pytest.raises(DatabaseError, match=r"illada\.db cannot be opened: file is not a database"):
        open_database(f"sqlite:///{path}")


def test_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:1/illada cannot be opened") as caught:
        open_database("postgresql://me:secret@127.0.0.1:1/illada")
    assert "secret" not in str(caught.value)


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'illada.db'}"
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(sa.update(schema).values(version=SCHEMA_VERSION + 1))
    engine.dispose()
    with pytest.raises(DatabaseError, match=f"written by a newer illada \\(schema {SCHEMA_VERSION + 1}"):
        open_database(url)


def test_many_openers_at_once_create_it_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'illada.db'}"
    failures: list[BaseException] = []

    def opener() -> None:
        try:
            open_database(url).dispose()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=opener) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    engine = open_database(url)
    with engine.begin() as connection:
        assert connection.execute(sa.select(schema.c.version)).scalars().all() == [SCHEMA_VERSION]
    engine.dispose()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'illada.db'}")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        connection.execute(sa.text("CREATE TABLE counter (value INTEGER)"))
        connection.execute(sa.text("INSERT INTO counter VALUES (0)"))

    def count() -> None:
        for _ in range(50):
            with engine.begin() as connection:
                value = connection.execute(sa.text("SELECT value FROM counter")).scalar_one()
                connection.execute(sa.text("UPDATE counter SET value = :value"), {"value": value + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT value FROM counter")).scalar_one() == 200
    engine.dispose()


def test_database_of_the_first_schema_is_upgraded_and_keeps_its_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'illada.db'}"
    engine = open_database(url)
    RunRegistry(engine).create("old", "x: 1\n", {"x": 1}, "store", ["illada"])
    with engine.begin() as connection:
        for column in ("address", "package", "wanted", "jobs", "job", "next_job", "nodes", "parent", "fork_stage"):
            connection.exec_driver_sql(f"ALTER TABLE illada_runs DROP COLUMN {column}")
        for table in ("packages", "events", "schedules", "slots"):
            connection.exec_driver_sql(f"DROP TABLE illada_{table}")
        connection.execute(sa.update(schema).values(version=1))
    engine.dispose()
    engine = open_database(url)
    run = RunRegistry(engine).get("old")
    assert (run.identity, run.wanted, run.jobs, run.address) == ({"x": 1}, False, 0, None)
    with engine.begin() as connection:
        assert connection.execute(sa.select(schema.c.version)).scalar_one() == SCHEMA_VERSION
        assert connection.execute(sa.select(sa.func.count()).select_from(slots)).scalar_one() == 0
    engine.dispose()
