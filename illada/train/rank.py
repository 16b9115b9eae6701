"""What every rank's process runs: the loop in one thread, and in another one what watches it.

Imported by processes that need neither torch nor Megatron: imports stay local.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from illada.artifacts import Fence, StaleDriverError
from illada.train import control
from illada.train.job import Job
from illada.train.logs import RankLog
from illada.train.pulse import Pulse

LOGS = "logs"
_WATCH_SECONDS = 0.5
_FENCE_SECONDS = 5.0
_OTHER_RANKS_FENCE_SECONDS = 60.0  # thousands of ranks ask one object store; rank 0 tells them at the next step
_BEAT_SECONDS = 15.0  # at most; thousands of ranks tell one control service
_GRACE_SECONDS = 1.0
_STDERR = 2  # of the process, which is its log


def log_name(rank: int) -> str:
    """Name of a rank's log in the folder LOGS."""
    return f"rank-{rank:05d}.log"


def rank_main(config: dict[str, Any]) -> None:
    """What every rank runs, in a thread of its process, once Ray Train has formed the process group."""
    job, key = Job.from_json(config["job"]), config["key"]
    stop, pulse = threading.Event(), Pulse()
    import torch.distributed as dist

    rank = dist.get_rank()
    threading.Thread(target=_watch, args=(job, key, rank, stop, pulse), daemon=True).start()
    with RankLog(job.work / LOGS, log_name(rank)):
        warnings.simplefilter("ignore")  # deprecations inside Megatron and torch; the log is for what explains a crash
        logging.getLogger("megatron").setLevel(logging.WARNING)
        from illada.train.process import prepare

        prepare(max(1, int(job.placement.cpus_per_rank)))
        from illada.train.loop import run

        try:
            run(job, stop, partial(_tell, key), pulse)
        finally:
            pulse.end()


def _tell(key: str, row: Mapping[str, Any]) -> None:
    control.write(key, control.ROW, json.dumps(row).encode())


def _watch(job: Job, key: str, rank: int, stop: threading.Event, pulse: Pulse) -> None:
    """Tells the loop when it should end, and ends the process if it does not: it may wait for a rank that is gone.

    Tells where the loop is, and ends the process when it does not move; its log then has what every thread was at.
    """
    hang, told = job.placement.hang_seconds, -math.inf
    often = min(_BEAT_SECONDS, hang / 4) if hang else _BEAT_SECONDS
    fence = Fence(job.work, job.epoch, _FENCE_SECONDS if rank == 0 else _OTHER_RANKS_FENCE_SECONDS)
    while control.read(key, control.STOP) is None:
        stands = hang is not None and pulse.stands_still(hang)
        if stands or time.monotonic() - told >= often:
            told = time.monotonic()
            control.write(key, f"{control.BEAT}{rank}", pulse.beat(stands).to_bytes())
        if stands:
            faulthandler.dump_traceback(_STDERR)
            os._exit(1)
        try:
            fence.check()
        except StaleDriverError:
            break
        except OSError:
            pass  # the store is out of reach just now
        time.sleep(_WATCH_SECONDS)
    stop.set()
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
