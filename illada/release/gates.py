"""Gates: what must hold of a model before it is released, each a pure function from recorded facts to an outcome.

All gates are evaluated, always. Facts, outcomes and waivers go into `gates.json`, so that anybody can evaluate the
gates again from the release alone, as `illada verify` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illada.config import GateName, Gates

GATES_FILE = "gates.json"


class GatesFailedError(ValueError):
    """Gates that did not pass and were not waived: nothing is released."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one gate found: `detail` is a line for people, `figures` are what it was decided on."""

    gate: GateName
    passed: bool
    detail: str
    figures: Mapping[str, Any]


def judge(gates: Gates, facts: Mapping[str, Any]) -> list[Outcome]:
    """Every gate's outcome, in order; `facts` as `illada.release.facts` gathers them."""
    return [
        judge_evaluation(gates, facts["evaluation"]),
        judge_decontamination(gates, facts["decontamination"]),
        judge_checksums(facts["checksums"]),
        judge_licences(gates, facts["licences"]),
    ]


def judge_evaluation(gates: Gates, metrics: Mapping[str, float]) -> Outcome:
    """Every threshold holds; a metric that was not measured fails, and so does having no threshold."""
    good, bad = [], []
    for threshold in gates.evaluation:
        value = metrics.get(threshold.metric)
        if value is None:
            bad.append(f"{threshold.metric} was not measured (must be {threshold.bounds})")
        elif threshold.holds(value):
            good.append(f"{threshold.metric} is {value:.4g} ({threshold.bounds})")
        else:
            bad.append(f"{threshold.metric} is {value:.4g}, must be {threshold.bounds}")
    if not gates.evaluation:
        bad.append("no threshold is set in release.gates.evaluation")
    figures = {threshold.metric: metrics.get(threshold.metric) for threshold in gates.evaluation}
    return Outcome(gate="evaluation", passed=not bad, detail="; ".join(bad or good), figures=figures)


def judge_decontamination(gates: Gates, facts: Mapping[str, Any]) -> Outcome:
    """A report covers all that was trained on, and no benchmark was found to a greater share than allowed.

    Args:
        facts: `trained_on` (fingerprints of the corpora by name) and `report` (the report's statistics, or None).
    """
    report, limit = facts["report"], gates.contaminated_share
    if report is None:
        detail = "there is no report; name benchmarks in data.decontaminate"
        return Outcome(gate="decontamination", passed=False, detail=detail, figures={})
    covered = set(report["covers"].values())
    bad = [f"the report leaves {name} out" for name, corpus in facts["trained_on"].items() if corpus not in covered]
    good, figures = [], {}
    for name, found in report["benchmarks"].items():
        figures[name] = share = found["matched"] / found["checked"] if found["checked"] else None
        said = f"{name}: {found['matched']} of {found['checked']} items found, in {found['documents']} documents"
        if share is None:
            bad.append(f"{name}: no item is long enough to be checked")
        elif share > limit:
            bad.append(f"{said} (allowed {limit:.4g} of them)")
        else:
            good.append(said)
    return Outcome(gate="decontamination", passed=not bad, detail="; ".join(bad or good), figures=figures)


def judge_checksums(facts: Mapping[str, Any]) -> Outcome:
    """No artifact of the chain is damaged. `facts`: artifacts, files, damaged (what is wrong where)."""
    figures = {"artifacts": facts["artifacts"], "files": facts["files"], "damaged": len(facts["damaged"])}
    read = f"{facts['files']:,} files of {facts['artifacts']} artifacts are as recorded"
    detail = "; ".join(facts["damaged"]) or read
    return Outcome(gate="checksums", passed=not facts["damaged"], detail=detail, figures=figures)


def judge_licences(gates: Gates, sources: Sequence[Mapping[str, str]]) -> Outcome:
    """There are sources, and the licence of each is an allowed one. `sources`: source and licence of each."""
    allowed = {licence.strip().lower() for licence in gates.licences}
    good: list[str] = []
    bad: list[str] = []
    for source in sources:
        licence = source["licence"].strip()
        said = f"{source['source']}: {licence or 'none'}"
        (good if licence.lower() in allowed else bad).append(said)
    detail = f"not allowed: {'; '.join(bad)}" if bad else "; ".join(good) or "no source is listed"
    return Outcome(
        gate="licences",
        passed=bool(good) and not bad,
        detail=detail,
        figures={"sources": len(sources), "bad": len(bad)},
    )


def settle(outcomes: Iterable[Outcome], waivers: Mapping[str, str]) -> list[dict[str, Any]]:
    """One JSON row a gate: gate, outcome (passed, waived or failed), detail, figures, waiver (its reason, or None).

    A waiver of a gate that passes is kept as the reason and changes nothing.
    """
    return [
        {
            "gate": outcome.gate,
            "outcome": "passed" if outcome.passed else "waived" if outcome.gate in waivers else "failed",
            "detail": outcome.detail,
            "figures": dict(outcome.figures),
            "waiver": waivers.get(outcome.gate),
        }
        for outcome in outcomes
    ]


def failures(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """All failed gates with what was found and how to waive them, in one line; None when there are none."""
    failed = [row for row in rows if row["outcome"] == "failed"]
    if not failed:
        return None
    listed = " | ".join(f"{row['gate']}: {row['detail']}" for row in failed)
    ways = " ".join(f"--set 'release.waivers.{row['gate']}=REASON'" for row in failed)
    return f"{listed}. Mend the cause, or waive by name with a reason, which the card will show: {ways}"


def require_settled(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises GatesFailedError that lists every failed gate and says how to waive it."""
    if failed := failures(rows):
        count = sum(row["outcome"] == "failed" for row in rows)
        raise GatesFailedError(f"{count} of {len(rows)} gates failed, nothing is released: {failed}")


def gates_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table: what the card shows, and what is looked for in it."""
    lines = ["| gate | outcome | what was found | waiver |", "|---|---|---|---|"]
    for row in rows:
        waiver = row["waiver"] or "-"
        if row["waiver"] and row["outcome"] == "passed":
            waiver = f"not needed ({row['waiver']})"
        cells = (row["gate"], row["outcome"], row["detail"], waiver)
        lines.append(f"| {' | '.join(cell(text) for text in cells)} |")
    return "\n".join(lines)


def source_cells(source: Mapping[str, Any]) -> str:
    """The start of a source's row in the card's table."""
    return f"| {cell(source['source'])} | {cell(source['origin'])} | {cell(source['licence'])} |"


def cell(value: Any) -> str:
    """Text that stays inside one cell of a Markdown table."""
    return " ".join(str(value).replace("|", "\\|").split())
