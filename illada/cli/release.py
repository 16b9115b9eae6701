"""`illada release`: any checkpoint of any run as a release, in a durable run of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from illada.cli.deliver import check_folder
from illada.cli.options import Database, Json, database_url, run_config
from illada.cli.run import drive
from illada.config import ConfigError, ReleaseConfig, dump_config, parse_config
from illada.config.load import apply_overrides

if TYPE_CHECKING:
    from illada.config import Checkpoint, RunConfig
    from workflows.checkpoints import Found


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(
        epilog="Examples: illada release demo --list  |  illada release demo --stage sft --step 300 "
        "--waive licences='internal use' --push s3://models/demo"
    )
    def release(
        run_id: Annotated[str, typer.Argument(help="The run that trained the model.", metavar="RUN")],
        stage: Annotated[
            str | None, typer.Option(help="Its training stage: pretrain or sft. Default: the last that has ended.")
        ] = None,
        step: Annotated[
            int | None, typer.Option(help="A checkpoint on its way, also of an unfinished run. Default: its result.")
        ] = None,
        waivers: Annotated[
            list[str] | None, typer.Option("--waive", help="Let a gate fail: GATE=REASON; may be repeated.")
        ] = None,
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", help="Change a key of what is taken over from the run: release.licence=mit."),
        ] = None,
        to: Annotated[Path | None, typer.Option(help="Another folder to put the release into.")] = None,
        push: Annotated[
            str | None, typer.Option(help="Where to push it: s3://bucket/prefix, hf://owner/name[@revision], ...")
        ] = None,
        name: Annotated[
            str | None, typer.Option("--run-id", help="Name of the releasing run. Default: RUN-release.")
        ] = None,
        listing: Annotated[bool, typer.Option("--list", help="Only say which checkpoints there are.")] = False,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Release a checkpoint of RUN, once all gates pass or are waived by name; resumable like every run."""
        from illada.artifacts import Store
        from illada.durable.client import status
        from illada.durable.database import open_database
        from illada.durable.runs import RunRegistry
        from illada.release.push import check_address
        from workflows.checkpoints import choose, find_checkpoints

        engine = open_database(database_url(database), create=False)
        registry = RunRegistry(engine)
        known = registry.get(run_id)
        (state,) = status(engine, run_id)
        stages = [(entry.stage, entry.fingerprint) for entry in state.stages]
        found = find_checkpoints(Store(known.store), run_id, stages)
        if listing:
            _print_list(found, as_json)
            return
        chosen = choose(found, run_id, stage, step).checkpoint
        raw = _raw(run_config(known), chosen, name)
        apply_overrides(raw, [*(overrides or []), *map(_waiver, waivers or [])])
        apply_overrides(raw, [f"placement.store={json.dumps(known.store)}"])
        if to is not None:
            check_folder(to)
        if push is not None:
            check_address(push)
            push = push if "://" in push else str(Path(push).resolve())
        raw |= {"to": str(to.resolve()) if to else None, "push": push}
        config = parse_config(raw, ReleaseConfig, where=f"release of {run_id}")
        registered = registry.create(config.name, dump_config(config), config.identity(), known.store, sys.argv)
        drive(engine, registered, config, as_json=as_json)


def _raw(source: RunConfig, chosen: Checkpoint, name: str | None) -> dict[str, Any]:
    """The configuration of the release: what the run says of measuring and releasing, where it says something."""
    parts = source.model_dump(mode="json")
    data = parts.get("data") or {}
    step = f"-{chosen.stage}-{chosen.step}" if chosen.step else "" if chosen.stage == "sft" else f"-{chosen.stage}"
    raw = {
        "workflow": "release",
        "name": name or f"{chosen.run}{step}-release",
        "checkpoint": chosen.model_dump(mode="json"),
        "decontaminate": data.get("decontaminate", {}),
        "release": {"model_name": chosen.run},
    }
    return raw | {key: parts[key] for key in ("evaluate", "generate", "release", "placement") if key in parts}


def _waiver(text: str) -> str:
    """As an override of the configuration; a reason is text, whatever it looks like."""
    gate, equals, reason = text.partition("=")
    if not equals:
        raise ConfigError(f"--waive {text!r}: write it as GATE=REASON")
    return f"release.waivers.{gate}={json.dumps(reason)}"


def _print_list(found: list[Found], as_json: bool) -> None:
    rows = [{"stage": entry.checkpoint.stage, "step": entry.step, "kind": entry.kind} for entry in found]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("stage", "step", "kind", box=None)
    for row in rows:
        table.add_row(str(row["stage"]), str(row["step"]), str(row["kind"]))
    Console(highlight=False).print(table if rows else "no checkpoint yet")
