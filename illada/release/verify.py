"""Check a release offline: `python -m illada.release.verify FOLDER`.

Nothing from the folder is executed: the weights are loaded by this package's own class. What is not checked is who made
the release: that needs the sha256 of checksums.json from somewhere you trust.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from illada.data.tokenizer import TokenizerError
from illada.release.checksums import ReleaseError, check_files
from illada.release.probes import check_probes
from illada.release.provenance import check_provenance
from illada.sample.model import ModelFolderError, load


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was found right, and what was seen."""

    name: str
    detail: str


def verify(folder: Path) -> list[Check]:
    """Check the files, the chain of provenance, the weights and their logits.

    Raises:
        ReleaseError: naming the first file that is not as it should be.
    """
    checksums = check_files(folder)
    checks = [Check(name="files", detail=f"{len(checksums)} files are as listed, and no others")]
    artifacts, sources = check_provenance(folder, checksums)
    checks.append(Check(name="provenance", detail=f"{artifacts} artifacts lead back to {sources} source files"))
    try:
        model, _ = load(folder)
    except (ModelFolderError, TokenizerError) as error:
        raise ReleaseError(str(error)) from error
    checks.append(Check(name="weights", detail=f"{sum(p.numel() for p in model.parameters()):,} parameters load"))
    difference = check_probes(model, folder)
    checks.append(Check(name="probes", detail=f"logits are reproduced to {difference:.1e}"))
    return checks


def main(arguments: Sequence[str]) -> int:
    """Print the checks of the folder named on the command line; 0 when all hold."""
    if len(arguments) != 1:
        print("usage: python -m illada.release.verify FOLDER", file=sys.stderr)
        return 2
    try:
        for check in verify(Path(arguments[0])):
            print(f"ok  {check.name}: {check.detail}")
    except ReleaseError as error:
        print(f"bad {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
