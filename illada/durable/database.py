"""The run database: where runs, leases and progress are kept, beside DBOS's own tables.

SQLite (one machine) unless the placement names a PostgreSQL. Nothing here holds data or decides whether an artifact
exists: a lost database costs history, never work.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from illada.artifacts.folder import is_url
from illada.config import Placement

SCHEMA_VERSION = 2
_NETWORK = {  # a server that is cut off is noticed in seconds, not in the kernel's quarter of an hour
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_MIGRATION_LOCK = 0x696C6C61  # "illa": serialises table creation on PostgreSQL

metadata = sa.MetaData()

schema = sa.Table("illada_schema", metadata, sa.Column("version", sa.Integer, nullable=False))

runs = sa.Table(
    "illada_runs",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("config_yaml", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("argv", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("failed_stage", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("result", sa.Text),
    # Set for a submitted run: a job on the Ray cluster at `address` drives it, with the code of `package`, as long as
    # it is `wanted`. `jobs` counts the jobs started for it, `job` is the last one's id, `next_job` when another may be,
    # which is `job_delay` seconds after the last one's start.
    sa.Column("address", sa.Text),
    sa.Column("package", sa.String(64)),
    sa.Column("wanted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("jobs", sa.Integer, nullable=False, server_default="0"),
    sa.Column("job", sa.Text),
    sa.Column("next_job", sa.Double, nullable=False, server_default="0"),
    sa.Column("job_delay", sa.Double, nullable=False, server_default="0"),
    sa.Column("nodes", sa.Integer),  # of the Ray cluster, as its driver last saw it
    sa.Column("parent", sa.String(200)),  # the run this one was forked from, and the first stage that may differ
    sa.Column("fork_stage", sa.String(200)),
    sa.Column("rebuild", sa.Text),  # stages (JSON) whose artifacts are taken back as a driver comes to them
)

packages = sa.Table(
    "illada_packages",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

events = sa.Table(
    "illada_events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String(200), nullable=False, index=True),
    sa.Column("stage", sa.String(200)),  # None: of the run as a whole
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

schedules = sa.Table(
    "illada_schedules",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("cron", sa.String(200), nullable=False),
    sa.Column("timezone", sa.String(64), nullable=False),
    sa.Column("config_yaml", sa.Text, nullable=False),
    sa.Column("address", sa.Text),
    sa.Column("package", sa.String(64)),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("cursor", sa.Double, nullable=False),  # slots up to here have been fired, or lie in a pause
)

slots = sa.Table(
    "illada_slots",
    metadata,
    sa.Column("schedule", sa.String(63), primary_key=True),
    sa.Column("slot", sa.BigInteger, primary_key=True),  # seconds since the epoch
    sa.Column("run_id", sa.String(200), nullable=False),
    sa.Column("fired", sa.Double, nullable=False),
    sa.Column("error", sa.Text),
)

leases = sa.Table(
    "illada_leases",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("stop", sa.Boolean, nullable=False),
)

stages = sa.Table(
    "illada_stages",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("stage", sa.String(200), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("reused", sa.Boolean, nullable=False),
    sa.Column("done", sa.Double),
    sa.Column("total", sa.Double),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("rate", sa.Double),
    sa.Column("eta", sa.Double),
    sa.Column("figures", sa.Text, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("error", sa.Text),
)


class DatabaseError(ValueError):
    """The run database cannot be used: which one, why, and what to do."""


def default_database(placement: Placement) -> str:
    """The database URL of a placement: its own, or ``illada.db`` beside the store, or in the output folder where
    the store is none of files. SQLite paths are made absolute."""
    if placement.database is None:
        folder = Path(placement.output) if is_url(placement.store) else Path(placement.store).resolve().parent
        return f"sqlite:///{folder.resolve() / 'illada.db'}"
    return _url(placement.database).render_as_string(hide_password=False)


def open_database(url: str, create: bool = True) -> sa.Engine:
    """Connect, creating our tables where they are missing (`create`; otherwise a missing database is an error).

    Raises:
        DatabaseError: bad URL, unreachable or missing database, or one written by a newer illada.
    """
    target = _url(url)
    if target.get_backend_name() == "sqlite":
        engine = _open_sqlite(target, create)
    else:
        engine = sa.create_engine(target, pool_pre_ping=True, pool_size=3, connect_args=_NETWORK)
    try:
        with engine.begin() as connection:
            _prepare(connection, create, target)
    except DBAPIError as error:
        engine.dispose()
        cause = " ".join(str(error.orig).split())
        raise DatabaseError(f"database {target.render_as_string()} cannot be opened: {cause}") from None
    return engine


def out_of_reach(engine: sa.Engine, error: SQLAlchemyError) -> DatabaseError:
    """What to tell people about a database that was there and has gone away."""
    cause = " ".join(str(getattr(error, "orig", error)).split())
    return DatabaseError(f"database {engine.url.render_as_string()} has gone out of reach: {cause}")


def clock(engine: sa.Engine) -> sa.ColumnElement[float]:
    """Now, in seconds since the epoch, as an SQL expression: the database's own clock where it is a server."""
    if engine.dialect.name == "postgresql":
        return sa.literal_column("extract(epoch from clock_timestamp())::float8", sa.Double)
    return sa.literal(time.time(), sa.Double)


def _url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except ArgumentError:
        raise DatabaseError(
            f"database {text!r} is not a URL; write sqlite:///path/to/file.db or postgresql://user@host/name"
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise DatabaseError(f"database {text!r} must name a file, as in sqlite:///path/to/file.db")
        return url.set(database=str(Path(url.database).resolve()))
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise DatabaseError(f"database {url.render_as_string()}: only sqlite:// and postgresql:// are supported")


def _open_sqlite(url: sa.URL, create: bool) -> sa.Engine:
    path = Path(str(url.database))
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"{path.parent}: cannot hold the run database ({error.strerror})") from None
    elif not path.is_file():
        raise DatabaseError(f"{path}: no run database here; start a run first, or name its database")
    engine = sa.create_engine(url)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        connection.execute("PRAGMA busy_timeout=30000")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # Taking the write lock first lets the busy timeout work: a reader that turns writer fails at once instead.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _prepare(connection: sa.Connection, create: bool, url: sa.URL) -> None:
    name = url.render_as_string()
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    if not sa.inspect(connection).has_table(schema.name):
        if not create:
            raise DatabaseError(f"{name}: holds no runs; start a run first, or name its database")
        metadata.create_all(connection)
        connection.execute(schema.insert().values(version=SCHEMA_VERSION))
    version = connection.execute(sa.select(sa.func.max(schema.c.version))).scalar_one()
    if version > SCHEMA_VERSION:
        raise DatabaseError(f"{name}: written by a newer illada (schema {version}, this one knows {SCHEMA_VERSION})")
    if version < SCHEMA_VERSION:
        _upgrade(connection)


def _upgrade(connection: sa.Connection) -> None:
    """Add the tables and columns that have come since: history is kept, an older illada refuses the database."""
    metadata.create_all(connection)
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
    connection.execute(schema.update().values(version=SCHEMA_VERSION))
