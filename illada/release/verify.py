"""Check a release offline: what `illada verify FOLDER` does.

Nothing from the folder is executed: the weights are loaded by this package's own class. What is not checked is who made
the release: that needs the sha256 of checksums.json from somewhere you trust.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.data.tokenizer import TokenizerError
from illada.release.checksums import ReleaseError, check_files
from illada.release.probes import check_probes
from illada.release.provenance import check_provenance
from illada.release.recheck import recheck_gates
from illada.sample.model import ModelFolderError, load


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was found right, and what was seen."""

    name: str
    detail: str


def verify(folder: Path) -> list[Check]:
    """Check the files, the chain of provenance, the gates, the weights and their logits.

    Raises:
        ReleaseError: naming the first file that is not as it should be.
    """
    checksums = check_files(folder)
    checks = [Check(name="files", detail=f"{len(checksums)} files are as listed, and no others")]
    provenance = check_provenance(folder, checksums)
    sources = sum(len(source["files"]) for source in provenance["sources"])
    detail = f"{len(provenance['artifacts'])} artifacts lead back to {sources} source files"
    checks.append(Check(name="provenance", detail=detail))
    checks.append(Check(name="gates", detail=_outcomes(recheck_gates(folder, provenance))))
    try:
        model, _ = load(folder)
    except (ModelFolderError, TokenizerError) as error:
        raise ReleaseError(str(error)) from error
    checks.append(Check(name="weights", detail=f"{sum(p.numel() for p in model.parameters()):,} parameters load"))
    difference = check_probes(model, folder)
    checks.append(Check(name="probes", detail=f"logits are reproduced to {difference:.1e}"))
    return checks


def _outcomes(rows: Sequence[Mapping[str, Any]]) -> str:
    count = Counter(row["outcome"] for row in rows)
    waived = [f"{row['gate']} ({row['waiver']})" for row in rows if row["outcome"] == "waived"]
    return f"{count['passed']} passed" + (f", waived: {', '.join(waived)}" if waived else "")
