"""The gates of a release evaluated again, from the facts it holds, and compared with all that it says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illada.config import ConfigError, Gates, parse_config
from illada.release.card import CARD
from illada.release.checksums import ReleaseError
from illada.release.gates import GATES_FILE, gates_table, judge, require_settled, settle, source_cells
from illada.release.provenance import PROVENANCE


def recheck_gates(folder: Path, provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gates' rows, after checking that facts, thresholds, waivers, card and `provenance` (checked) agree.

    Raises:
        ReleaseError: naming the file that says something else.
    """
    path = folder / GATES_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        facts, said = value["facts"], value["gates"]
        (entry,) = (artifact for artifact in provenance["artifacts"] if artifact["stage"] == "gates")
        config, waivers = parse_config(entry["config"]["gates"], Gates), entry["config"]["waivers"]
        rows = settle(judge(config, facts), waivers)
        require_settled(rows)
        _check_facts(path, facts, provenance)
    except ReleaseError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ReleaseError(f"{path}: does not hold what allows a release ({error})") from None
    if said != rows:
        raise ReleaseError(f"{path}: its outcomes are not those that its facts, thresholds and waivers give")
    if provenance["gates"] != rows:
        raise ReleaseError(f"{folder / PROVENANCE}: its gates are not those of {GATES_FILE}")
    released = provenance["release"]["config"]
    if released["waivers"] != waivers or released["gates"] != entry["config"]["gates"]:
        raise ReleaseError(f"{folder / PROVENANCE}: the release has other gates or waivers than were evaluated")
    _check_card(folder / CARD, rows, provenance)
    return rows


def _check_facts(path: Path, facts: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """The facts are of this chain: its sources' licences, its corpora, its report."""
    sources = [{"source": source["source"], "licence": source["licence"]} for source in provenance["sources"]]
    if facts["licences"] != sources:
        raise ReleaseError(f"{path}: the licences are not those of the sources in {PROVENANCE}")
    entries = {artifact["fingerprint"]: artifact for artifact in provenance["artifacts"]}
    contamination = facts["decontamination"]
    if not contamination["trained_on"] or not entries.keys() >= set(contamination["trained_on"].values()):
        raise ReleaseError(f"{path}: what was trained on is not in the chain of {PROVENANCE}")
    if contamination["report"] is not None:
        searched = {
            digest
            for entry in entries.values()
            if entry["stage"] == "decontaminate"
            for digest in entry["inputs"].values()
        }
        if not searched >= set(contamination["report"]["covers"].values()):
            raise ReleaseError(f"{path}: the decontamination report is not of this chain")


def _check_card(path: Path, rows: list[dict[str, Any]], provenance: Mapping[str, Any]) -> None:
    card = path.read_text(encoding="utf-8")
    if f"\n{gates_table(rows)}\n" not in card:
        raise ReleaseError(f"{path}: its table of gates is not that of {GATES_FILE}")
    for source in provenance["sources"]:
        if f"\n{source_cells(source)}" not in card:
            raise ReleaseError(f"{path}: does not list source {source['source']} with its origin and licence")
