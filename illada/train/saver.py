"""Checkpoints that training hardly waits for: copied to host memory at once, written by a thread, published later.

    begin     every rank copies what it owns, and its thread begins to write it: file, checksum, bytes on disk
    agree     the sums of a step have told that all ranks have written
    publish   the sums of the next one carried their checksums: rank 0's thread makes it a checkpoint, at once as ever

So a checkpoint counts some steps after the one it is of, and whatever happens before leaves the one before it. There is
one at a time: the next waits for it, and so does the end of training.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from illada.artifacts import Folder
from illada.train.checkpoint import begin, join, publish
from illada.train.events import append_event
from illada.train.metrics import MetricsLog
from illada.train.parallel import Wrapped
from illada.train.pieces import optimizer_pieces, weight_pieces
from illada.train.process import device
from illada.train.shards import index_of, tensor_file, write_rest
from illada.train.state import model_state, require_state
from illada.train.sums import DIGEST
from illada.train.tensor_file import TensorFile


@dataclass(kw_only=True, slots=True)
class _Save:
    """One under way; `written` gives the sha256 of this rank's file, `published` is rank 0's."""

    manifest: Mapping[str, Any]
    started: float
    stalled: float
    written: Future[str]
    agreed: bool = False
    published: Future[None] | None = None


class Saver:
    """Saves modules and optimizer, whose tensors keep their storage; collective, on all ranks."""

    def __init__(self, work: Folder, scratch: Path, wrapped: Wrapped, keep: int, log: MetricsLog | None) -> None:
        """`keep` is how many checkpoints are left; `log`, on rank 0, has all rows on disk before one is published."""
        self._work, self._scratch, self._wrapped, self._keep, self._log = work, scratch, wrapped, keep, log
        self._rank = dist.get_rank()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._save: _Save | None = None
        self._file: TensorFile | None = None
        self._sizes: list[int] = []
        self._index: dict[str, Any] = {}
        names: list[Any] = [uuid.uuid4().hex[:8] if self._rank == 0 else None]
        dist.broadcast_object_list(names)
        self._run = names[0]

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Take the checkpoint of `manifest["step"]` as things are now.

        Raises:
            OSError: a checkpoint that was under way could not be written.
        """
        started = time.perf_counter()
        self._wait()
        if self._file is None:
            self._file = self._plan()
        self._file.copy()
        common = self._wrapped.optimizer.state_dict() if self._rank == 0 else None
        written = self._thread.submit(self._write, int(manifest["step"]), common)
        self._save = _Save(manifest=manifest, started=started, stalled=time.perf_counter() - started, written=written)

    def written(self) -> bool:
        """Whether this rank has written what is under way and not yet published. Raises what went wrong meanwhile."""
        save = self._save
        if save is None:
            return False
        under_way: Future[Any] = save.written if save.published is None else save.published
        if under_way.done():
            under_way.result()
        return save.published is None and save.written.done()

    def agree(self) -> None:
        """All ranks have written, and all know it: their digests may be gathered."""
        assert self._save is not None
        self._save.agreed = True

    @property
    def agreed(self) -> bool:
        """Whether `digest` is asked for."""
        return self._save is not None and self._save.agreed

    def digest(self) -> Tensor:
        """[DIGEST], what this rank has written; waits until it has. Raises OSError when it could not."""
        assert self._save is not None
        data = bytes.fromhex(self._save.written.result())
        return torch.from_numpy(np.frombuffer(data, dtype=">u4").astype(np.float64))

    def publish(self, digests: Tensor) -> None:
        """Begin to make what all ranks have written a checkpoint; `digests`: [ranks, DIGEST]."""
        save = self._save
        assert save is not None
        if self._rank > 0:
            self._save = None
            return
        save.agreed = False
        words = digests.cpu().numpy().astype(">u4")
        written = {
            tensor_file(rank): {"bytes": self._sizes[rank], "sha256": words[rank].tobytes().hex()}
            for rank in range(len(words))
        }
        save.published = self._thread.submit(self._publish, save, written)

    def finish(self) -> None:
        """Returns on all ranks once everything is published.

        Raises:
            OSError: it could not be written.
            StaleDriverError: on rank 0, a newer driver owns the stage.
        """
        self._wait()
        dist.barrier()

    def _wait(self) -> None:
        if self._save is not None and self._save.published is None:
            digests = torch.zeros(dist.get_world_size(), DIGEST, dtype=torch.float64, device=device())
            digests[self._rank] = self.digest()
            dist.all_reduce(digests)
            self.publish(digests)
        if self._save is not None and self._save.published is not None:  # on rank 0
            self._save.published.result()
        self._save = None

    def _plan(self) -> TensorFile:
        """Who writes what, which is the same at every checkpoint of these ranks."""
        require_state(self._wrapped.optimizer)
        model = model_state(self._wrapped.modules)
        pieces = [*weight_pieces(model), *optimizer_pieces(model, self._wrapped.optimizer)]
        located = [(each.key, each.global_shape, each.name, each.offset, list(each.tensor.shape)) for each in pieces]
        file = TensorFile({piece.name: piece.tensor for piece in pieces})
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.gather_object((file.size, located), gathered if self._rank == 0 else None)
        if self._rank == 0:
            self._sizes = [size for size, _ in gathered]
            self._index = index_of([pieces for _, pieces in gathered])
        return file

    def _write(self, step: int, common: Mapping[str, Any] | None) -> str:
        """In the thread."""
        assert self._file is not None
        draft = (begin if self._rank == 0 else join)(self._work, step, self._scratch, self._run)
        if common is not None:
            write_rest(draft.path, self._index, common)
        name = tensor_file(self._rank)
        digest = self._file.write(draft.path / name)
        draft.put(name, digest)
        if self._work.path is None and self._rank > 0:
            shutil.rmtree(draft.path)
        return digest

    def _publish(self, save: _Save, written: Mapping[str, Mapping[str, Any]]) -> None:
        """In rank 0's thread."""
        assert self._log is not None
        self._log.sync()
        step = int(save.manifest["step"])
        stored = publish(join(self._work, step, self._scratch, self._run), save.manifest, written, self._keep)
        append_event(
            self._work,
            "checkpoint",
            step=step,
            seconds=time.perf_counter() - save.started,
            stalled=save.stalled,
            bytes=sum(file["bytes"] for file in stored.manifest["files"].values()),
        )
