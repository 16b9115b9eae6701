"""What every rank's process runs: the loop in one thread, and in another one what watches it.

Imported by processes that need neither torch nor Megatron: imports stay local.
"""

from __future__ import annotations

import json
import logging
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

LOGS = "logs"
_WATCH_SECONDS = 0.5
_FENCE_SECONDS = 5.0
_OTHER_RANKS_FENCE_SECONDS = 60.0  # thousands of ranks ask one object store; rank 0 tells them at the next step
_GRACE_SECONDS = 1.0


def log_name(rank: int) -> str:
    """Name of a rank's log in the folder LOGS."""
    return f"rank-{rank:05d}.log"


def rank_main(config: dict[str, Any]) -> None:
    """What every rank runs, in a thread of its process, once Ray Train has formed the process group."""
    job, key = Job.from_json(config["job"]), config["key"]
    stop = threading.Event()
    import torch.distributed as dist

    rank = dist.get_rank()
    threading.Thread(target=_watch, args=(job, key, rank, stop), daemon=True).start()
    with RankLog(job.work / LOGS, log_name(rank)):
        warnings.simplefilter("ignore")  # deprecations inside Megatron and torch; the log is for what explains a crash
        logging.getLogger("megatron").setLevel(logging.WARNING)
        from illada.train.process import prepare

        prepare()
        from illada.train.loop import run

        run(job, stop, partial(_tell, key))


def _tell(key: str, row: Mapping[str, Any]) -> None:
    control.write(key, control.ROW, json.dumps(row).encode())


def _watch(job: Job, key: str, rank: int, stop: threading.Event) -> None:
    """Tells the loop when it should end, and ends the process if it does not: it may wait for a rank that is gone."""
    fence = Fence(job.work, job.epoch, _FENCE_SECONDS if rank == 0 else _OTHER_RANKS_FENCE_SECONDS)
    while control.read(key, control.STOP) is None:
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
