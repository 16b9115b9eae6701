"""Documents as the workers sign them, made of small numbers: corpora full of equals, chains and shared addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from illada.artifacts import Attempt, Folder, NoProgress, Progress, StageIdentity, sha256_file
from illada.config import Deduplicate
from pipelines.blocks import Blocks, Fate, SignedBlocks, columns
from pipelines.deduplicate import DeduplicateWorker
from pipelines.fates import Decider, Decision
from pipelines.index import SignatureIndex
from pipelines.phases import Phases
from pipelines.pool import Unit, UnitResult

BANDS = 3
CONFIG = Deduplicate(bands=BANDS, urls=True)


@dataclass(frozen=True, slots=True)
class Signed:
    """What a text is equal to, what each of its bands is equal to, whether it is long enough to have any, the address
    if there is one, and the precedence."""

    text: int
    bands: tuple[int, ...]
    comparable: bool = True
    url: int | None = None
    precedence: float = 0.0


DOCUMENTS = st.lists(
    st.builds(
        Signed,
        st.integers(0, 12),
        st.tuples(*[st.integers(0, 9)] * BANDS),
        st.booleans(),
        st.none() | st.integers(0, 8),
        st.sampled_from([0.0, 1.0, 2.0, float("inf")]),
    ),
    max_size=8,
)


def keys(values: npt.ArrayLike, salt: int) -> npt.NDArray[np.uint64]:
    """128 bits for each small number; every second two share their high word."""
    numbers = np.asarray(values, dtype=np.uint64)
    high = (numbers // 2 + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    return np.stack([high, numbers * np.uint64(0xBF58476D1CE4E5B9)], axis=-1)


def sign(root: Path, documents: Sequence[Signed]) -> tuple[list[UnitResult], list[int]]:
    """The results of signing two files, if there are two documents, and the documents in each."""
    results, rows = [], []
    for number, part in enumerate((documents[: len(documents) // 2], documents[len(documents) // 2 :])):
        folder = root / f"signed-{number}"
        folder.mkdir(parents=True)
        values = {
            "sizes": [1 for _ in part],
            "digests": keys([document.text for document in part], 0),
            "precedence": [document.precedence for document in part],
            "comparable": [document.comparable for document in part],
            "bands": np.stack(
                [keys([document.bands[band] for document in part], band + 1) for band in range(BANDS)], 1
            ),
            "located": [document.url is not None for document in part],
            "urls": keys([document.url or 0 for document in part], BANDS + 1),
        }
        for name, (dtype, shape) in columns(CONFIG).items():
            np.save(folder / f"{name}.npy", np.array(values[name], dtype=dtype).reshape(-1, *shape))
        results.append(unit_result(str(number), folder, {}))
        rows.append(len(part))
    return results, rows


def unit_result(name: str, folder: Path, statistics: dict[str, Any]) -> UnitResult:
    """Of a unit that wrote `folder`."""
    files = {path.name: sha256_file(path) for path in folder.iterdir()}
    return UnitResult(name=name, folder=Folder.at(folder), files=files, statistics=statistics)


class Inline:
    """In place of the actor pool: units run in this process, one after another; `units` remembers them."""

    def __init__(self, index: SignatureIndex | None = None) -> None:
        self.worker = DeduplicateWorker(CONFIG, index)
        self.units: list[Unit] = []

    def run(self, units: Sequence[Unit], work: Folder, progress: Progress, measure: str) -> Any:
        results = []
        for unit in units:
            folder = Path(work.url) / unit.name
            folder.mkdir(parents=True)
            results.append(unit_result(unit.name, folder, self.worker.run(unit, folder)))
        self.units += units
        return results


def attempt_at(root: Path) -> Attempt:
    """With all its folders in `root`."""
    identity = StageIdentity(stage="deduplicate", version=1, config={}, inputs={})
    folders = {name: root / name for name in ("output", "work", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return Attempt(
        identity=identity, output=folders["output"], work=Folder.at(folders["work"]), scratch=folders["scratch"],
        location=Folder.at(root),
    )  # fmt: skip


def decide(
    documents: Sequence[Signed], pool: Inline, attempt: Attempt, index: SignatureIndex | None, bits: int = 18
) -> tuple[list[Fate], Decision]:
    """The fate of each document, in blocks of 2**bits."""
    results, rows = sign(Path(attempt.work.url), documents)
    phases = Phases(pool, attempt, NoProgress())
    blocks = SignedBlocks(phases, results, rows, Blocks(documents=len(documents), bits=bits))
    decision = Decider(CONFIG, index, blocks).decide()
    return [Fate(fate) for result in decision.settled for fate in np.load(result.path("fates.npy"))], decision
