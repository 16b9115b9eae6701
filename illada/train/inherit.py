"""A stage that is another one up to a move takes over that one's newest checkpoint instead of training to it again.

Batches are a pure function of the step and of the moves made so far, and everything else that training depends on is
the same in both stages (they differ in later moves only), so the checkpoint is the very one that the new stage would
have written. Its loader state proves it: it names the shards, the order and every move made before it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from illada.artifacts import Folder
from illada.data.loader import Loader
from illada.train import checkpoint
from illada.train.events import append_event
from illada.train.job import Job
from illada.train.metrics import METRICS


def inherit(job: Job, loader: Loader, earlier: Sequence[Folder], scratch: Path) -> None:
    """Publish the newest fitting checkpoint of `earlier` stages' work folders in `job.work`, which has none yet."""
    names = [(work, name) for work in earlier for name in checkpoint.published(work)]
    fitting = [(stored, work) for work, name in names if (stored := _fits(loader, work, name))]
    for stored, work in sorted(fitting, key=lambda found: int(found[0].manifest["step"]), reverse=True):
        step = int(stored.manifest["step"])
        draft = checkpoint.begin(job.work, step, scratch, uuid.uuid4().hex[:8])
        try:
            for name in stored.manifest["files"]:
                draft.folder.copy(stored.folder, name, name)
        except FileNotFoundError:
            continue  # the other run is at work, and has just removed it
        own = {key: value for key, value in stored.manifest.items() if key not in ("format", "files", "data")}
        manifest = {**own, "epoch": job.epoch}
        checkpoint.publish(draft, manifest, stored.manifest["files"], job.placement.keep_checkpoints)
        job.work.replace_lines(METRICS, work.read_lines(METRICS))  # rows of later steps are dropped before training
        append_event(job.work, "inherited", step=step, origin=stored.folder.url)
        return


def _fits(loader: Loader, work: Folder, name: str) -> checkpoint.Stored | None:
    try:
        stored = checkpoint.verify(work / checkpoint.FOLDER, name)
        loader.check(stored.manifest["loader"])
    except (ValueError, FileNotFoundError):  # damaged or gone, or from after its way parted from this one's
        return None
    return stored
