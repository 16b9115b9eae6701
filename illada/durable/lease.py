"""One driver per run: a lease row with a fencing epoch, renewed by a heartbeat; losing it ends the driver at once.

DBOS itself has no fencing: two drivers that claim one executor id execute a step twice. The lease is a compare-and-set
on (holder, expiry); every acquisition raises the epoch, which attempts and checkpoints carry. A driver that cannot
prove it still holds the lease exits before the lease can be taken by another one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, ParamSpec, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from illada.artifacts import Folder
from illada.durable.database import clock, leases
from illada.durable.errors import RunBusy

P = ParamSpec("P")
T = TypeVar("T")

EXIT_LEASE_LOST = 70
_POLL_SECONDS = 0.5
_RENEW_SECONDS = 5.0  # at most: what is left of the lease when the database goes away is how long that may last
_SETTLE_SECONDS = 3.0  # Ray workers of a killed driver live on for two seconds or so
_seen_dead: dict[str, float] = {}  # processes of this machine, and when they were first seen to be gone


class Lease:
    """Holds a run, or an artifact that a run builds, while the context is open; `epoch` fences.

    `stop` is set when the run is asked to stop; `cancelled` tells that it was through the database (`illada cancel`).
    With `patience`, a live holder is waited for without end, calling it at every look (it may raise). `epoch` will be
    greater than `above`. `owner` is the lease of the run that builds the artifact.
    """

    def __init__(
        self,
        engine: sa.Engine,
        run_id: str,
        ttl: float = 15.0,
        wait: float = 20.0,
        on_wait: Callable[[str], None] | None = None,
        patience: Callable[[], None] | None = None,
        above: int = 0,
        owner: Lease | None = None,
    ) -> None:
        self.engine = engine
        self.run_id = run_id
        self.ttl = ttl
        self.wait = wait
        self.on_wait = on_wait
        self.patience = patience
        self.above = above
        self.owner = owner
        self.epoch = 0
        self.stop = threading.Event()
        self.cancelled = False
        self._holder = f"{_process_identity()} {uuid.uuid4().hex[:12]}"
        self._renewed = 0.0
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._trouble = "no answer"

    def __enter__(self) -> Self:
        """Acquire: at once when free, else when the holder releases, dies on this machine or lets the lease expire.

        Raises:
            RunBusy: the holder is alive (it renewed while we watched), or `wait` seconds have passed.
        """
        deadline = time.monotonic() + self.wait
        first = self._read()
        while True:
            seen = self._read()
            dead_since = None  # anew for each holder: who else waited may have taken it meanwhile, and is alive
            if _is_dead_neighbour(seen.holder):
                # One driver holds several leases, and is waited for once.
                dead_since = _seen_dead.setdefault(seen.holder.rpartition(" ")[0], time.monotonic())
            settled = dead_since is not None and time.monotonic() - dead_since >= _SETTLE_SECONDS
            epoch = self._try_acquire(seen.holder if settled else None)
            if epoch is not None:
                break
            if self.patience is not None:
                self.patience()
                time.sleep(0.25)
                continue
            alive = seen.holder == first.holder and seen.expires > first.expires and not seen.stop
            if alive or time.monotonic() >= deadline:
                raise RunBusy(
                    f"run {self.run_id} is driven by {seen.name}; watch it with `illada status {self.run_id}`"
                )
            if self.on_wait is not None:
                self.on_wait(f"run {self.run_id} was driven by {seen.name}; waiting to take it over")
                self.on_wait = None
            time.sleep(0.25)
        self.epoch = epoch
        for work in (self._beat, self._judge):
            self._threads.append(threading.Thread(target=work, name=f"lease-{self.run_id}", daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release, so that the next driver need not wait."""
        self._closed.set()
        for thread in self._threads:
            thread.join(self.ttl)
        self.release()

    def release(self) -> None:
        """Give the run free; out of reach of the database, the lease expires by itself."""
        self._closed.set()
        with contextlib.suppress(SQLAlchemyError), self.engine.begin() as connection:
            connection.execute(self._mine(sa.update(leases)).values(expires=0.0, stop=False))

    def check(self) -> None:
        """Prove against the database that the lease is still ours; ends the process otherwise. For step boundaries."""
        while True:
            try:
                if self._renew():
                    return
                self._taken()
            except SQLAlchemyError:
                time.sleep(0.5)  # the heartbeat ends the process when the outage outlasts the lease

    def persist(self, write: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """The value of a read or write of the database, tried again as long as an outage may last."""
        deadline = time.monotonic() + self.ttl
        while True:
            try:
                return write(*arguments, **keywords)
            except (OperationalError, InterfaceError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)

    def should_stop(self) -> bool:
        """Whether the run is asked to stop. Checks a lease that has run out meanwhile, else free: ask often."""
        if time.monotonic() - self._renewed > self.ttl:
            self.check()
        return self.stop.is_set()

    @property
    def _what(self) -> str:
        return f"run {self.run_id}" if self.owner is None else self.run_id

    def _read(self) -> _Row:
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        free = insert(leases).values(run_id=self.run_id, holder="", epoch=0, expires=0.0, stop=False)
        query = sa.select(leases.c.holder, leases.c.expires, leases.c.stop).where(leases.c.run_id == self.run_id)
        with self.engine.begin() as connection:
            connection.execute(free.on_conflict_do_nothing())
            return _Row(*connection.execute(query).one())

    def _try_acquire(self, dead: str | None) -> int | None:
        """The new epoch, or None when somebody else holds the lease; `dead` is a holder known to be gone."""
        now = clock(self.engine)
        before = time.monotonic()
        free = leases.c.expires < now
        newest = sa.case((leases.c.epoch > self.above, leases.c.epoch), else_=self.above)
        if dead is not None:
            free = sa.or_(free, leases.c.holder == dead)
        with self.engine.begin() as connection:
            epoch: int | None = connection.execute(
                sa.update(leases)
                .where(leases.c.run_id == self.run_id, free)
                .values(holder=self._holder, epoch=newest + 1, expires=now + self.ttl, stop=False)
                .returning(leases.c.epoch)
            ).scalar_one_or_none()
        self._renewed = before
        return epoch

    def _renew(self) -> bool:
        now = clock(self.engine)
        before = time.monotonic()
        with self.engine.begin() as connection:
            # Past its expiry too, if nobody has taken it meanwhile: a machine that slept goes on where it was.
            update = self._mine(sa.update(leases)).values(expires=now + self.ttl)
            renewed = connection.execute(update).rowcount == 1
        if renewed:
            self._renewed = before
        return renewed

    def _mine(self, statement: sa.Update) -> sa.Update:
        return statement.where(
            leases.c.run_id == self.run_id, leases.c.holder == self._holder, leases.c.epoch == self.epoch
        )

    def _beat(self) -> None:
        while not self._closed.wait(self._tick):
            try:
                if time.monotonic() - self._renewed > min(self.ttl / 3, _RENEW_SECONDS) and not self._renew():
                    self._taken()
                with self.engine.begin() as connection:
                    query = sa.select(leases.c.stop).where(leases.c.run_id == self.run_id)
                    if connection.execute(query).scalar_one():
                        self.cancelled = True
                        self.stop.set()
            except SQLAlchemyError as error:
                self._trouble = type(error).__name__

    def _judge(self) -> None:
        """Ends the process before the lease does. Not the heartbeat's work: its question may never be answered.

        Time that the whole machine slept is not counted: then the heartbeat finds out first whose the lease is.
        """
        silence, seen, last = 0.0, self._renewed, time.monotonic()
        while not self._closed.wait(self._tick):
            now = time.monotonic()
            silence += min(now - last, 4 * self._tick)
            last = now
            if self._renewed != seen:
                silence, seen = 0.0, self._renewed
            elif silence > self.ttl * 0.9:  # nobody could take the lease without the database either, until now
                self._lost(f"the database has been out of reach ({self._trouble})")

    @property
    def _tick(self) -> float:
        return min(_POLL_SECONDS, self.ttl / 5)

    def _taken(self) -> None:
        if self.owner is not None:
            self.owner.check()  # a driver that has lost its run as well says so
        self._lost("another driver has taken it")

    def _lost(self, why: str) -> None:
        if self._closed.is_set():
            return
        print(
            f"illada: lost the lease of {self._what} (epoch {self.epoch}): {why}; this driver ends now",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_LEASE_LOST)


def request_stop(engine: sa.Engine, run_id: str) -> bool:
    """Ask the run's driver to stop. False when no live driver holds the run."""
    now = clock(engine)
    with engine.begin() as connection:
        return (
            connection.execute(
                sa.update(leases).where(leases.c.run_id == run_id, leases.c.expires >= now).values(stop=True)
            ).rowcount
            == 1
        )


def is_held(engine: sa.Engine, run_id: str) -> bool:
    """Whether a driver holds the run, as far as can be known from here: one that died elsewhere holds until expiry."""
    now = clock(engine)
    with engine.begin() as connection:
        query = sa.select(leases.c.holder).where(leases.c.run_id == run_id, leases.c.expires >= now)
        holder = connection.execute(query).scalar_one_or_none()
    return holder is not None and not _is_dead_neighbour(holder)


def build_lease_id(folder: Folder) -> str:
    """What the lease on building the artifact of a folder is called."""
    stage, name = folder.url.split("/")[-2:]
    return f"artifact/{stage}/{name}"


class _Row(NamedTuple):
    holder: str
    expires: float
    stop: bool

    @property
    def name(self) -> str:
        host, pid = ([*self.holder.split(" "), "", ""])[:2]
        return f"process {pid} on {host}"


def _process_identity() -> str:
    """``host pid start-time boot-id pid-namespace``: enough to know for sure that a local holder is dead."""
    return f"{socket.gethostname()} {os.getpid()} {_start_time(os.getpid())} {_machine()}"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown unknown"


def _start_time(pid: int) -> str:
    """The kernel's start time of a live process (clock ticks since boot), or "dead" or "unknown"."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return "dead" if Path("/proc/self/stat").exists() else "unknown"
    except OSError:
        return "unknown"
    return "dead" if fields[0] in "ZX" else fields[19]


def _is_dead_neighbour(holder: str) -> bool:
    """Whether the holder ran in this machine's process namespace and is gone, so that waiting for expiry is idle."""
    parts = holder.split(" ")
    if len(parts) != 6 or f"{parts[3]} {parts[4]}" != _machine() or "unknown" in parts:
        return False
    return _start_time(int(parts[1])) != parts[2]
