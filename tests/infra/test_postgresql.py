"""PostgreSQL's settings and role script, on a real server: it starts with them, and illada's role owns its database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from infra_manifests import INFRA

from illada.durable.database import DatabaseError, open_database

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = pytest.mark.skipif(not FOLDERS or not shutil.which("psql"), reason="needs PostgreSQL (Debian: postgresql)")
SOURCE = INFRA / "postgresql"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Port of a server with our settings, whose superuser needs no password from here."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    programs, user = FOLDERS[-1].parent, "postgres" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user, user)
    shutil.copy(SOURCE / "postgresql.conf", folder / "postgresql.conf")
    (folder / "postgresql.conf").chmod(0o644)
    data = folder / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=scram-sha-256", "--auth-local=trust", "-N"]
    password = folder / "password"
    password.write_text("super")
    password.chmod(0o644)
    subprocess.run(
        [*initdb, f"--pwfile={password}"], user=user, group=user, cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [
        programs / "postgres",
        "-D",
        data,
        "-p",
        str(port),
        "-k",
        folder,
        "-c",
        f"config_file={folder}/postgresql.conf",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, user=user, group=user, cwd=folder, stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode:
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    environment = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGPASSWORD": "super",
        "ILLADA_PASSWORD": 'it\'s \\ "odd"',
    }
    for expected in (0, 3):  # a second time is refused, by psql's code for a failed script
        done = subprocess.run(
            ["bash", SOURCE / "roles.sh"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done.stderr
    yield port
    process.terminate()
    process.wait(timeout=30)
    shutil.rmtree(folder)


def url(port: int, user: str, password: str, database: str = "illada") -> str:
    made = sa.URL.create("postgresql", user, password, "127.0.0.1", port, database)
    return made.render_as_string(hide_password=False)


def test_illada_makes_its_tables(server: int) -> None:
    engine = open_database(url(server, "illada", 'it\'s \\ "odd"'))
    tables = sa.inspect(engine).get_table_names()
    assert "illada_runs" in tables
    with engine.begin() as connection:
        owner = connection.execute(
            sa.text("SELECT tableowner FROM pg_tables WHERE tablename = 'illada_runs'")
        ).scalar_one()
        rights = connection.execute(
            sa.text("SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'illada'")
        ).scalar_one()
    assert owner == "illada" and not rights
    engine.dispose()


def test_settings_are_in_force(server: int) -> None:
    engine = sa.create_engine(
        url(server, "postgres", "super", "postgres").replace("postgresql:", "postgresql+psycopg:")
    )
    with engine.begin() as connection:
        for line in (SOURCE / "postgresql.conf").read_text().splitlines():
            setting, _, value = line.partition("#")[0].partition("=")
            if value.strip():
                shown = connection.execute(sa.text(f"SHOW {setting.strip()}")).scalar_one()
                wanted = value.strip().strip("'")
                assert shown == {"60s": "1min"}.get(wanted, wanted), setting
    engine.dispose()


def test_a_wrong_password_is_one_clear_line(server: int) -> None:
    with pytest.raises(DatabaseError, match="password authentication failed") as refused:
        open_database(url(server, "illada", "wrong-planted"))
    assert "\n" not in str(refused.value) and "planted" not in str(refused.value)


def test_without_a_password_nothing_is_done() -> None:
    done = subprocess.run(
        ["bash", SOURCE / "roles.sh"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "ILLADA_PASSWORD" in done.stderr
