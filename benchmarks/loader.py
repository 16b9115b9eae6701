"""The loader's ceiling in tokens a second, shuffled, against reading the same bytes through a memory map alone.

`mapped` copies the shard's windows into a batch one after another, from a plain memory map of the file, in the order
in which they lie; `tokens` are the batches of the loader without noise: shuffled order, shard and place of each window,
the same copies; `batches` are whole ones, with mask, weights and boundaries. Process CPU time, one thread, page cache
warm; the best of --rounds.

    python benchmarks/loader.py --to out/bench/loader.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from training_setup import CASES, write_shards

from illada.artifacts import Folder, write_json
from illada.config import Objective
from illada.data.loader import Loader
from illada.data.shards import TokenShards
from illada.data.windows import Windows


def main() -> None:
    """Measure, print one JSON object; also write it to --to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("windows", 200_000), ("batch", 256), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    case = CASES["24M-float32"]
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", case, options.windows)
        shards = TokenShards.open(Folder.at(Path(folder) / "shards"))
        windows = Windows(shards, case.window)
        loader = Loader(windows, options.batch, 0, Objective())
        steps = loader.steps(1)
        stream = np.asarray(shards.values(0))
        file = np.memmap(shards.path(0), dtype=np.uint8, mode="r")
        offset = bytes(file[: 2**20]).index(stream[:64].tobytes())
        plain = np.memmap(shards.path(0), dtype=stream.dtype, mode="r", offset=offset, shape=(len(stream),))

        def mapped() -> Iterator[np.ndarray]:
            for step in range(steps):
                first = step * options.batch * case.window
                rows = plain[first : first + options.batch * case.window]
                yield rows.reshape(options.batch, case.window).astype(np.int64)

        readers: dict[str, Callable[[], Iterator[np.ndarray]]] = {
            "mapped": mapped,
            "tokens": lambda: (loader.tokens(loader.window_ids(step)) for step in range(steps)),
            "batches": lambda: (loader.batch(step, 0, options.batch).tokens for step in range(steps)),
        }
        rates = dict.fromkeys(readers, 0.0)
        for _ in range(options.rounds):
            for name, read in readers.items():
                began = time.process_time()
                count = sum(batch.size for batch in read())
                rates[name] = max(rates[name], count / (time.process_time() - began))
    ratios = {name: rate / rates["mapped"] for name, rate in rates.items()}
    result = {"tokens_per_second": rates, "of_mapped": ratios, "windows": options.windows, "window": case.window}
    result |= {"batch": options.batch, "machine": platform.processor() or platform.machine()}
    print(json.dumps(result, indent=1))
    if options.to:
        write_json(options.to, result)


if __name__ == "__main__":
    main()
