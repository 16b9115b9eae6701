"""The scheduler service: fires slots, and keeps submitted runs driven. Any number may run, on any machine.

It holds nothing: everything is in the run database, so that it may be killed and started anywhere at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from illada.durable.schedules import Notice, Parse, tick
from illada.durable.tend import tend_once

_EVERY_SECONDS = 2.0

Tend = Callable[..., object]


def serve(engine: sa.Engine, parse: Parse, stop: threading.Event, notice: Notice, *, tend: Tend = tend_once) -> None:
    """Work until `stop` is set; outages of the database are ridden out, however long they last.

    `notice` hears what is new: not what was said in the round before already.
    """
    away, said = False, set[str]()
    while not stop.is_set():
        lines = set[str]()

        def tell(line: str, lines: set[str] = lines, said: set[str] = said) -> None:
            if line not in said:
                notice(line)
            lines.add(line)

        try:
            more = scheduler_round(engine, parse, tell, tend=tend)
        except SQLAlchemyError as error:
            if not away:
                notice(f"the database is out of reach, waiting for it: {' '.join(str(error).split())[:200]}")
            away, more = True, False
        else:
            if away:
                notice("the database is back")
            away, said = False, lines
        if not more:
            stop.wait(_EVERY_SECONDS)


def scheduler_round(engine: sa.Engine, parse: Parse, notice: Notice, *, tend: Tend = tend_once) -> bool:
    """Once through everything that is due; whether slots are left that are due already."""
    more = tick(engine, parse, notice)
    tend(engine, notice=notice)
    return more
