"""`illada schedule ...`: runs at set times; and `illada scheduler`, the service that starts them."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from illada.cli.options import Database, Json, Overrides, database_url, table_console
from illada.config import ConfigError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from illada.durable.schedules import Schedule, Slot

_LAST = 10
_COLOURS = {"finished": "green", "failed": "red", "refused": "red", "running": "yellow", "queued": "cyan"}

Name = Annotated[str, typer.Argument(help="The schedule.", metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    schedule = typer.Typer(help="Runs at set times, data refreshes above all.", no_args_is_help=True)
    app.add_typer(schedule, name="schedule")

    @schedule.command(
        epilog='Example: illada schedule add news --cron "0 3 * * *" --timezone Europe/Paris --config refresh.yaml '
        "--address http://HEAD:8265"
    )
    def add(
        name: Name,
        cron: Annotated[str, typer.Option(help="Minute, hour, day of month, month, day of week: '0 3 * * *'.")],
        config: Annotated[Path, typer.Option(help="A workflow configuration (YAML).")],
        address: Annotated[
            str,
            typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server, as in http://HEAD:8265."),
        ],
        timezone: Annotated[str, typer.Option(help="Of the cron expression, as in Europe/Paris.")] = "UTC",
        overrides: Overrides = None,
        database: Database = None,
    ) -> None:
        """Run CONFIG whenever CRON is due, as a job on a Ray cluster, with the code as it is here.

        A run is named after the schedule and the time of its slot. Only one of them is at work at a time.
        """
        from illada.cli.submit import checked_database
        from illada.durable.package import build_package, save_package
        from illada.durable.schedules import add_schedule
        from workflows.registry import load_workflow

        loaded = load_workflow(config, overrides or [])
        engine = checked_database(loaded, address, database)
        package = build_package()
        save_package(engine, package)
        made = add_schedule(engine, name, cron, timezone, loaded, address=address, package=package.sha256)
        print(f"schedule {name}: first at {_local(made, made.next)}; `illada scheduler` must be running")

    @schedule.command("list", epilog="Examples: illada schedule list  |  illada schedule list news --json")
    def list_(
        name: Annotated[str | None, typer.Argument(help="A schedule, with its slots.", metavar="[NAME]")] = None,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Schedules with their next and last slots, or one with the runs of its last slots."""
        from illada.durable.database import open_database
        from illada.durable.schedules import get_schedule, list_schedules, read_slots

        engine = open_database(database_url(database), create=False)
        found = list_schedules(engine) if name is None else [get_schedule(engine, name)]
        slots = {schedule.name: read_slots(engine, schedule.name, _LAST) for schedule in found}
        if as_json:
            print(json.dumps([_as_json(schedule, slots[schedule.name]) for schedule in found], indent=1))
            return
        console = table_console()
        if not found:
            console.print("no schedules yet; see illada schedule add --help")
        elif name is None:
            console.print(_table(found, slots))
        else:
            console.print(_table(found, slots), _slots(found[0], slots[name]))

    @schedule.command()
    def pause(name: Name, database: Database = None) -> None:
        """Fire and start nothing until `resume`; slots that pass meanwhile are skipped. A run at work goes on."""
        from illada.durable.schedules import pause_schedule

        pause_schedule(_open(database), name)
        print(f"schedule {name} is paused; go on with: illada schedule resume {name}")

    @schedule.command()
    def resume(name: Name, database: Database = None) -> None:
        """End a pause: the next slot is the first one from now."""
        from illada.durable.schedules import resume_schedule

        made = resume_schedule(_open(database), name)
        print(f"schedule {name}: next at {_local(made, made.next)}")

    @schedule.command()
    def remove(name: Name, database: Database = None) -> None:
        """Forget a schedule; its history and the run at work stay, runs that wait for their turn are cancelled."""
        from illada.durable.schedules import remove_schedule

        cancelled = remove_schedule(_open(database), name)
        print(f"schedule {name} is removed" + (f"; cancelled: {', '.join(cancelled)}" if cancelled else ""))

    @schedule.command(epilog="Example: illada schedule backfill news --from 2026-01-01 --to 2026-01-07T12:00")
    def backfill(
        name: Name,
        first: Annotated[str, typer.Option("--from", help="A date or time, in the schedule's time zone.")],
        last: Annotated[str, typer.Option("--to", help="A date or time that has passed; inclusive.")],
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Fire the past slots from FIRST to LAST that were not fired, one run for each, oldest first."""
        from illada.durable.schedules import backfill as fire
        from illada.durable.schedules import get_schedule
        from workflows.registry import parse_workflow

        engine = _open(database)
        found = get_schedule(engine, name)
        made = fire(engine, parse_workflow, name, _moment(found, first), _moment(found, last))
        if as_json:
            print(json.dumps([asdict(slot) for slot in made], indent=1))
        elif made:
            print("\n".join(slot.run_id if slot.error is None else f"{slot.run_id}: {slot.error}" for slot in made))
        else:
            print("every slot of this interval was fired before")

    @app.command(epilog="Example: illada scheduler --database postgresql://illada@db/illada")
    def scheduler(
        once: Annotated[bool, typer.Option("--once", help="Do what is due now, and return.")] = False,
        database: Database = None,
    ) -> None:
        """Start the runs of schedules when they are due, and keep submitted runs driven, until SIGTERM.

        It keeps nothing of its own: run it twice for availability, on any machines that reach the run database and the
        clusters. Slots that pass while none runs are fired when one is back.
        """
        from illada.durable.scheduler import scheduler_round, serve
        from workflows.registry import parse_workflow

        engine = _open(database, create=True)
        if once:
            while scheduler_round(engine, parse_workflow, _log):
                pass
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        _log("at work")
        serve(engine, parse_workflow, stop, _log)
        _log("ended")


def _open(database: str | None, create: bool = False) -> sa.Engine:
    from illada.durable.database import open_database

    return open_database(database_url(database), create=create)


def _log(line: str) -> None:
    print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}  {line}", flush=True)


def _moment(schedule: Schedule, text: str) -> float:
    from illada.durable.cron import zone

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: write a date, as in 2026-01-31, or 2026-01-31T03:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone(schedule.timezone))).timestamp()


def _local(schedule: Schedule, slot: float | None) -> str:
    """A slot as its schedule's people read it."""
    from illada.durable.cron import zone

    if slot is None:
        return ""
    return f"{datetime.fromtimestamp(slot, zone(schedule.timezone)):%Y-%m-%d %H:%M:%S %Z}"


def _as_json(schedule: Schedule, slots: list[Slot]) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(schedule).items() if name != "config_yaml"}
    return {**shown, "next": schedule.next, "slots": [asdict(slot) for slot in slots]}


def _table(found: list[Schedule], slots: dict[str, list[Slot]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("schedule", "state", "cron", "next", "last", "run", "queued"):
        table.add_column(heading, no_wrap=True)
    for schedule in found:
        mine = slots[schedule.name]
        last = next((slot for slot in mine if slot.state != "queued"), None)
        queued = sum(slot.state == "queued" for slot in mine)
        table.add_row(
            schedule.name,
            "paused" if schedule.paused else "active",
            Text(schedule.cron),
            _local(schedule, schedule.next),
            _local(schedule, last.slot if last else None),
            Text(last.state, style=_COLOURS.get(last.state, "")) if last else "",
            f"{queued}{'+' if queued == _LAST else ''}" if queued else "",
        )
    return table


def _slots(schedule: Schedule, slots: list[Slot]) -> Table:
    table = Table(box=None, pad_edge=True)
    for heading in ("slot", "state", "run", ""):
        table.add_column(heading, no_wrap=True)
    for slot in slots:
        state = Text(slot.state, style=_COLOURS.get(slot.state, ""))
        table.add_row(_local(schedule, slot.slot), state, slot.run_id, Text(slot.error or ""))
    return table
