"""Each gate passes and fails for its own reason; waivers are by name, with a reason, and seen everywhere."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from illada.artifacts import Artifact, Store
from illada.cli.main import app
from illada.config import ConfigError, Gates, Release, Threshold, parse_config
from illada.release.checksums import ReleaseError, write_checksums
from illada.release.gates import (
    GatesFailedError,
    gates_table,
    judge_checksums,
    judge_decontamination,
    judge_evaluation,
    judge_licences,
    require_settled,
    settle,
)
from illada.release.verify import verify

if TYPE_CHECKING:
    from conftest import Chain


def threshold(**bounds: float) -> Gates:
    return Gates(evaluation=(Threshold(metric="held_out.nll_per_byte", **bounds),))


@pytest.mark.parametrize(
    ("gates", "value", "passed"),
    [
        (threshold(at_most=2.0), 2.0, True),
        (threshold(at_most=2.0), 2.0001, False),
        (threshold(at_most=0), 0.1, False),
        (threshold(at_least=0.5), 0.5, True),
        (threshold(at_least=0.5), 0.4, False),
        (threshold(at_least=0.5, at_most=1), 1.5, False),
        (threshold(at_most=2.0), float("nan"), False),
        (threshold(at_most=2.0), None, False),
        (Gates(), 1.0, False),
    ],
)
def test_evaluation(gates: Gates, value: float | None, passed: bool) -> None:
    outcome = judge_evaluation(gates, {} if value is None else {"held_out.nll_per_byte": value})
    assert (outcome.gate, outcome.passed) == ("evaluation", passed)
    if gates.evaluation:
        assert "held_out.nll_per_byte" in outcome.detail
        assert list(outcome.figures) == ["held_out.nll_per_byte"]


def report(matched: int = 0, checked: int = 100, covers: str = "d") -> dict[str, Any]:
    found = {"items": 120, "checked": checked, "matched": matched, "documents": matched}
    return {"ngram": 13, "covers": {"deduplicate": covers}, "benchmarks": {"gsm8k": found}}


@pytest.mark.parametrize(
    ("facts", "share", "message"),
    [
        (report(), 0.0, None),
        (report(matched=1), 0.01, None),
        (report(matched=1), 0.0, "gsm8k: 1 of 100 items found, in 1 documents (allowed 0 of them)"),
        (report(matched=2), 0.01, "gsm8k: 2 of 100"),
        (report(checked=0), 1.0, "no item is long enough"),
        (report(covers="another"), 1.0, "the report leaves deduplicate out"),
        (None, 1.0, "there is no report"),
    ],
)
def test_decontamination(facts: dict[str, Any] | None, share: float, message: str | None) -> None:
    gates = Gates(contaminated_share=share)
    outcome = judge_decontamination(gates, {"report": facts, "trained_on": {"deduplicate": "d"}})
    assert outcome.passed == (message is None)
    assert message is None or message in outcome.detail


def test_checksums() -> None:
    sound: dict[str, Any] = {"artifacts": 3, "files": 1200, "damaged": []}
    assert judge_checksums(sound).passed
    assert judge_checksums(sound).detail == "1,200 files of 3 artifacts are as recorded"
    outcome = judge_checksums({**sound, "damaged": ["curate/0123: a.parquet: missing"]})
    assert not outcome.passed and outcome.detail == "curate/0123: a.parquet: missing"


@pytest.mark.parametrize(
    ("licences", "message"),
    [
        (["MIT", " cc-by-4.0 "], None),
        (["MIT", "various"], "not allowed: s1: various"),
        (["unknown"], "not allowed: s0: unknown"),
        ([""], "not allowed: s0: none"),
        ([], "no source is listed"),
    ],
)
def test_licences(licences: list[str], message: str | None) -> None:
    sources = [{"source": f"s{number}", "licence": licence} for number, licence in enumerate(licences)]
    outcome = judge_licences(Gates(licences=("mit", "CC-BY-4.0")), sources)
    assert outcome.passed == (message is None)
    assert message is None or outcome.detail == message


def test_all_failures_are_listed_with_the_way_to_waive() -> None:
    outcomes = [judge_evaluation(Gates(), {}), judge_licences(Gates(), [{"source": "web", "licence": "various"}])]
    rows = settle(outcomes, {})
    with pytest.raises(GatesFailedError) as caught:
        require_settled(rows)
    assert "2 of 2 gates failed" in str(caught.value)
    for text in ("no threshold is set", "web: various", "release.waivers.evaluation=", "release.waivers.licences="):
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    require_settled(settle(outcomes, {"evaluation": "too early", "licences": "internal use"}))
    with pytest.raises(GatesFailedError, match="1 of 2"):
        require_settled(settle(outcomes, {"evaluation": "too early"}))


def test_a_waiver_that_was_not_needed_is_said() -> None:
    (row,) = settle([judge_checksums({"artifacts": 1, "files": 1, "damaged": []})], {"checksums": "old | disk"})
    assert row["outcome"] == "passed"
    assert gates_table([row]).endswith("| not needed (old \\| disk) |")


@pytest.mark.parametrize(
    ("waivers", "message"),
    [
        ({"licence": "x"}, "no gate 'licence'; did you mean 'licences'"),
        ({"zzz": "x"}, "gates: evaluation, decontamination, checksums, licences"),
        ({"licences": " "}, "licences is waived without a reason"),
    ],
)
def test_waivers_of_nothing_or_for_nothing_are_refused(waivers: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match="waivers: ") as caught:
        parse_config({"model_name": "m", "waivers": waivers}, Release)
    assert message in str(caught.value)


def test_a_threshold_needs_a_bound() -> None:
    with pytest.raises(ConfigError, match="give `at_most`"):
        parse_config({"metric": "m"}, Threshold)


def test_gates_of_a_chain(chain: Chain, gates_with: Callable[..., Artifact], tmp_path: Path) -> None:
    """What is damaged is named without the store's path; every failure is in one error; nothing is published."""
    shutil.copytree(chain.store.root.url, tmp_path / "store")
    store = Store(tmp_path / "store")
    artifacts = [store.open(artifact.stage, artifact.fingerprint) for artifact in chain.artifacts]
    victim = next(artifact for artifact in artifacts if artifact.stage == "acquire-web")
    victim.path("00000.warc.gz").write_text("xyz")
    before = (store.root / "gates").folders()
    strict = {"waivers": {}, "gates": threshold(at_most=1)}
    with pytest.raises(GatesFailedError, match="4 of 4 gates failed") as caught:
        gates_with(store, artifacts, strict)
    assert f"acquire-web/{victim.fingerprint[:12]}: 00000.warc.gz: its sha256 differs" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    published = [name for name in (store.root / "gates").folders() if store.root.exists(f"gates/{name}/record.json")]
    assert published == before


def test_outcomes_are_in_card_provenance_and_record(released: Artifact) -> None:
    rows = json.loads(released.path("gates.json").read_text())["gates"]
    assert [(row["gate"], row["outcome"]) for row in rows] == [
        ("evaluation", "passed"),
        ("decontamination", "waived"),
        ("checksums", "passed"),
        ("licences", "passed"),
    ]
    assert json.loads(released.path("provenance.json").read_text())["gates"] == rows
    card = released.path("README.md").read_text()
    assert gates_table(rows) in card
    assert (
        "| decontamination | waived | there is no report; name benchmarks in data.decontaminate | no benchmarks" in card
    )


@pytest.fixture
def copy(released: Artifact, tmp_path: Path) -> Path:
    return shutil.copytree(released.path("README.md").parent, tmp_path / "release")


def _in(name: str, *changes: tuple[str, str]) -> Callable[[Path], None]:
    """A change of the text of a file; each old text must be there."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_in("README.md", ("no benchmarks", "many benchmarks")), r"README\.md: its table of gates"),
        (_in("README.md", ("| waived |", "| passed |")), r"README\.md: its table of gates"),
        (
            _in("README.md", ("| debian | GPL \\| others |", "| debian | mit |")),
            r"README\.md: does not list source web",
        ),
        (_in("gates.json", ('"waived"', '"passed"')), r"gates\.json: is not the file that .* gates wrote"),
        (_in("provenance.json", ('"waived"', '"passed"')), r"provenance\.json: its gates are not those"),
        (_in("provenance.json", ("no benchmarks", "none needed")), r"fingerprint of gates"),
        (_in("provenance.json", ("GPL | others", "mit")), r"fingerprint of acquire-web"),
        (_in("provenance.json", ('"at_most": 2.5', '"at_most": 9.5')), r"fingerprint of gates"),
    ],
)
def test_tampering_is_found_though_checksums_fit(copy: Path, change: Callable[[Path], None], message: str) -> None:
    change(copy)
    write_checksums(copy)
    with pytest.raises(ReleaseError, match=message):
        verify(copy)


def test_a_licence_changed_in_the_list_of_sources_alone_is_found(copy: Path) -> None:
    value = json.loads((copy / "provenance.json").read_text())
    value["sources"][0]["licence"] = "mit"
    (copy / "provenance.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    write_checksums(copy)
    with pytest.raises(ReleaseError, match=r"source web: is listed as 'mit' but was acquired as 'GPL \| others'"):
        verify(copy)


def test_verify_needs_no_network_and_speaks_json(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    done = CliRunner().invoke(app, ["verify", str(copy), "--json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert value["sound"] is True
    assert list(value["checks"]) == ["files", "provenance", "gates", "weights", "probes"]
    assert [row["outcome"] for row in value["gates"]] == ["passed", "waived", "passed", "passed"]

    (copy / "config.json").write_text("{}")
    done = CliRunner().invoke(app, ["verify", str(copy), "--json"])
    assert done.exit_code == 1
    assert "config.json" in json.loads(done.stdout)["error"]
