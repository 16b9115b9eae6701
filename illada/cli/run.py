"""`illada run` and `illada resume`: take a run from where it is to its end, with a live display and a summary."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from illada.cli.deliver import deliver, place
from illada.cli.live import LiveStages, duration
from illada.cli.mixture import mixture_table
from illada.cli.options import Database, Json, Overrides, RunId, database_url, output_folder, run_config
from illada.cli.submit import Wait, hand_over
from illada.config import ConfigError, ReleaseConfig, RunConfig, dump_config

if TYPE_CHECKING:
    import sqlalchemy as sa

    from illada.durable.runs import Run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @app.command(
        epilog="Examples: illada run configs/workflows/demo.yaml  |  illada run my.yaml --set pretrain.steps=2000"
    )
    def run(
        config: Annotated[Path, typer.Argument(help="A workflow configuration (YAML).", metavar="CONFIG")],
        overrides: Overrides = None,
        run_id: RunId = None,
        ray: Annotated[
            str | None, typer.Option(help="Address of a Ray cluster, or `auto`. Default: an embedded Ray.")
        ] = None,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Run CONFIG here, from where it is to its end; what already exists is reused."""
        changes = list(overrides or [])
        changes += [f"placement.ray_address={ray}"] if ray else []
        changes += [f"name={run_id}"] if run_id else []
        from illada.artifacts import Folder
        from illada.durable.database import default_database, open_database
        from illada.durable.runs import RunRegistry
        from workflows.registry import load_workflow

        loaded = load_workflow(config, changes)
        engine = open_database(database or default_database(loaded.placement))
        store = Folder.at(loaded.placement.store).url
        registered = RunRegistry(engine).create(loaded.name, dump_config(loaded), loaded.identity(), store, sys.argv)
        drive(engine, registered, loaded, as_json=as_json)

    @app.command(epilog="Examples: illada resume demo  |  illada resume demo --from tokenize")
    def resume(
        run_id: Annotated[str, typer.Argument(help="The run to go on with.", metavar="RUN")],
        stage: Annotated[
            str | None, typer.Option("--from", help="Build this stage and all after it again, though they exist.")
        ] = None,
        here: Annotated[
            bool, typer.Option("--here", help="Drive a submitted run in this process, not in a job on its cluster.")
        ] = False,
        wait: Wait = False,
        database: Database = None,
        as_json: Json = False,
    ) -> None:
        """Go on with RUN after a crash, a cancel or a failure; finished stages and units are not done again.

        A submitted run goes on in a job on its cluster, with the code it was submitted with.
        """
        from illada.durable.database import open_database
        from illada.durable.runs import RunRegistry

        engine = open_database(database_url(database))
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        if stage is not None:
            from illada.durable.rebuild import request_rebuild
            from workflows.registry import workflow_of

            keep = workflow_of(run_config(RunRegistry(engine).get(run_id))).looks
            console.print(f"builds again: {', '.join(request_rebuild(engine, run_id, stage, keep))}", markup=False)
        known = RunRegistry(engine).get(run_id)
        if known.status == "finished":
            raise ConfigError(f"run {run_id} is finished; to build a part of it again: --from STAGE")
        if known.package is not None and not here:
            from illada.durable.tend import want

            want(engine, run_id)
            hand_over(engine, run_id, console, wait=wait, as_json=as_json)
            return
        drive(engine, known, run_config(known), as_json=as_json)


def drive(engine: sa.Engine, run: Run, config: RunConfig, *, as_json: bool) -> None:
    """Take the run to its end here, write summary and report, and say where they are. Raises as `perform`."""
    console = Console(stderr=as_json, highlight=False)
    started = time.monotonic()
    try:
        perform(engine, run, config, console)
    finally:
        summary = conclude(engine, run.run_id, config)
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        print_summary(console, summary, time.monotonic() - started)


def perform(engine: sa.Engine, run: Run, config: RunConfig, console: Console, **options: Any) -> None:
    """Check the configuration and execute its graph, on Ray once there is work; `options` go to `execute`.

    Raises:
        ConfigError, ArtifactError: a source is missing, or the store cannot be used (before any work starts).
        RunInterrupted, StageFailed: see `illada.durable.engine.execute`.
    """
    from illada.artifacts import Store
    from illada.durable.cluster import Cluster
    from illada.durable.engine import StageRunner, execute
    from illada.durable.progress import tell_all
    from illada.durable.runs import RunRegistry
    from illada.durable.telemetry import StageMetrics
    from workflows.registry import workflow_of

    workflow = workflow_of(config)

    def graph(runner: StageRunner) -> Mapping[str, Any]:
        workflow.check(config)  # within the run, so that it shows why it failed
        Store(run.store).check()
        return workflow.graph(runner, config)

    def count(nodes: int) -> None:
        RunRegistry(engine).update(run.run_id, nodes=nodes)

    with LiveStages(console) as live, Cluster(config.placement, on_nodes=count) as cluster:
        listener = tell_all(live, StageMetrics())
        result = execute(run, engine, graph, prepare=cluster.start, listener=listener, notice=console.print, **options)
    if isinstance(config, ReleaseConfig):
        deliver(config, Store(run.store).open("release", result["release"]).local(), console.print)


def conclude(engine: sa.Engine, run_id: str, config: RunConfig) -> dict[str, Any]:
    """Write report.html, summary.json and a copy of the release into the output folder, as far as the run has come."""
    from illada.artifacts import write_json
    from illada.cli.report import view_run
    from illada.durable.runs import RunRegistry
    from illada.report.page import write_report
    from illada.report.summary import summarise

    output = output_folder(config)
    output.mkdir(parents=True, exist_ok=True)
    view = view_run(engine, run_id)
    report = output / "report.html"
    write_report(view, report)
    release = next((stage.artifact for stage in view.stages if stage.name == "release"), None)
    folder = output / "release"
    if release is not None:
        place(release.local(), folder)
    summary = summarise(view, release=str(folder) if release else None, report=str(report))
    summary["result"] = RunRegistry(engine).get(run_id).result
    write_json(output / "summary.json", summary)
    return summary


def print_summary(console: Console, summary: dict[str, Any], seconds: float) -> None:
    """What a person wants to know at the end of a run."""
    held_out = summary["held_out"]
    console.print()
    for label, name in (("held-out loss before SFT", "before_sft"), ("held-out loss after SFT", "after_sft")):
        result = held_out.get(name)
        if result:
            console.print(
                f"{label:<26}{result['nll_per_token']:.3f} ± {result['se_per_token']:.3f} nats a token, "
                f"{result['nll_per_byte']:.3f} ± {result['se_per_byte']:.3f} nats a byte"
            )
    if summary["mixture"]:
        console.print(mixture_table(summary["mixture"], trained=True))
    for sample in summary["samples"]:
        console.print(f"\n> {sample['prompt']}", style="bold", markup=False)
        console.print(sample["text"].strip() or "(nothing)", markup=False)
    console.print()
    result = summary["result"] or {}
    if "corpus" in result:
        news = f"{result['new_files']} new source files" if result["new_files"] else "nothing new in its sources"
        console.print(f"corpus    {result['corpus']}@{result['snapshot']}: {news}")
    if summary["release"]:
        console.print(f"release   {summary['release']}", soft_wrap=True)
    console.print(f"report    {summary['report']}", soft_wrap=True)
    console.print(f"run {summary['run']} finished in {duration(seconds)}")
