"""What `illada data` looks into: the documents, rejected documents and token shards of a run, artifact or path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from illada.cli.options import database_url
from illada.config import Placement
from illada.report.facts import DOCUMENTS

if TYPE_CHECKING:
    from illada.artifacts import Artifact, Folder, Store
    from illada.data.shards import TokenShards

Target = Annotated[
    str,
    typer.Argument(
        help="A run, a snapshot (corpus@number), an artifact's folder, a Parquet file, or a folder of shards.",
        metavar="RUN|SNAP|PATH",
    ),
]
Stage = Annotated[str | None, typer.Option("--stage", help="A run's stage. Default: its last one with documents.")]
Location = Annotated[str, typer.Option("--store", help="The artifact store, for a snapshot.")]
STORE = Placement().store
_SPLITS = ("train", "held_out")


@dataclass(kw_only=True, slots=True)
class Collection:
    """Files are fetched when they are asked for. `shards` are by split."""

    label: str
    documents: list[Callable[[], Path]] = field(default_factory=list)
    rejected: list[Callable[[], Path]] = field(default_factory=list)
    shards: dict[str, TokenShards] = field(default_factory=dict)
    tokenizer: Artifact | None = None

    def require(self, kind: str) -> Sequence[Callable[[], Path]]:
        """Its `kind` ("documents" or "rejected"). Raises ValueError when there is none."""
        files: Sequence[Callable[[], Path]] = getattr(self, kind)
        if not files:
            raise ValueError(f"{self.label} has no {kind}; name another stage (--stage) or path")
        return files


def locate(target: str, stage: str | None, database: str | None, store: str) -> Collection:
    """What `target` names. A path that exists is taken for that, then `corpus@number`, then a run.

    Raises:
        ValueError: there is nothing of that name, or nothing to look into in it.
    """
    from illada.artifacts import Folder
    from illada.artifacts.folder import is_url

    path = Path(target)
    if path.exists():
        return _at_path(path.resolve())
    if is_url(target):
        return _of_shards(Folder.at(target))
    if "@" in target:
        return _of_snapshot(target, store)
    return _of_run(target, stage, database)


def _at_path(path: Path) -> Collection:
    from illada.artifacts import Folder, Store
    from illada.data.shards import INDEX

    if path.is_file():
        return _files(str(path), [path])
    if (path / "record.json").is_file():
        found = Store(path.parent.parent)
        return _of_artifacts(str(path), found, [found.open(path.parent.name, path.name)])
    if (path / INDEX).is_file():
        return _of_shards(Folder.at(path))
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise ValueError(f"{path}: holds no record.json, no {INDEX} and no Parquet file")
    return _files(str(path), files)


def _of_shards(folder: Folder) -> Collection:
    """A folder of shards; with their tokenizer when it is where an artifact has them: <artifact>/<attempt>/<split>."""
    from illada.artifacts import ArtifactError, Store
    from illada.data.shards import TokenShards

    found = Collection(label=str(folder), shards={folder.name: TokenShards.open(folder)})
    root, *parts = folder.url.rsplit("/", 4)
    if len(parts) == 4:
        with contextlib.suppress(ArtifactError):
            artifact = Store(root).open(parts[0], parts[1])
            found.tokenizer = Store(root).open("tokenizer", artifact.record["inputs"].get("tokenizer", ""))
    return found


def _files(label: str, files: Sequence[Path]) -> Collection:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(files[0]).names
    except pa.ArrowInvalid as error:
        raise ValueError(f"{files[0]}: is not a readable Parquet file ({error})") from None
    if "text" not in columns or "id" not in columns:
        raise ValueError(f"{files[0]}: holds no documents (columns {', '.join(columns)})")
    found = Collection(label=label)
    chosen = found.rejected if "reason" in columns else found.documents
    chosen += [partial(Path, file) for file in files]
    return found


def _of_snapshot(name: str, location: str) -> Collection:
    from illada.artifacts import Store
    from illada.data.corpora import resolve

    store = Store(location)
    snapshot = resolve(store, name)
    found = [snapshot.artifact]
    last = set()
    for refresh in snapshot.history():
        built = refresh.value["built"]
        stages = ["curate", next(stage for stage in reversed(DOCUMENTS) if stage in built)]
        last.add(stages[-1])
        found += [store.open(stage, built[stage]) for stage in dict.fromkeys(stages)]
    return _of_artifacts(snapshot.label, store, found, documents_of=last)


def _of_run(run_id: str, stage: str | None, database: str | None) -> Collection:
    from illada.artifacts import Store
    from illada.cli.report import view_run
    from illada.durable.database import open_database
    from illada.durable.runs import RunRegistry

    engine = open_database(database_url(database), create=False)
    store = Store(RunRegistry(engine).get(run_id).store)
    view = view_run(engine, run_id)
    reached = {entry.name: entry.artifact for entry in view.stages if entry.artifact is not None}
    if stage is not None and stage not in reached:
        raise ValueError(f"run {run_id} has built no {stage!r}; it has {', '.join(reached) or 'nothing yet'}")
    if stage is not None:
        return _of_artifacts(f"{run_id}, stage {stage}", store, [reached[stage]])
    last = [name for name in DOCUMENTS if name in reached]
    wanted = [*last[-1:], "curate", "tokenize"]
    artifacts = [reached[name] for name in dict.fromkeys(wanted) if name in reached]
    if not artifacts:
        raise ValueError(f"run {run_id} has built nothing to look into yet")
    return _of_artifacts(run_id, store, artifacts, documents_of=last[-1:] or None)


def _of_artifacts(
    label: str, store: Store, artifacts: Sequence[Artifact], documents_of: Container[str] | None = None
) -> Collection:
    """`documents_of` are the stages whose documents count where several stages have some."""
    from illada.data.snapshots import open_shards, shards_of

    found = Collection(label=label)
    for artifact in artifacts:
        if documents_of is None or artifact.stage in documents_of:
            found.documents += _under(artifact, "documents/")
        found.rejected += _under(artifact, "rejected/")
        for split in _SPLITS:
            if artifact.stage == "snapshot" or f"{split}/shards.json" in artifact.names:
                found.shards[split] = open_shards(shards_of(artifact, split))
        digest = artifact.record["inputs"].get("tokenizer")
        if found.shards and found.tokenizer is None and digest:
            found.tokenizer = store.open("tokenizer", digest)
    return found


def _under(artifact: Artifact, prefix: str) -> list[Callable[[], Path]]:
    return [
        partial(artifact.path, name) for name in artifact.names if name.startswith(prefix) and name.endswith(".parquet")
    ]
