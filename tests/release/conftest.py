"""A whole chain of artifacts in a store, with made-up statistics and a really exported model, and its release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from illada.artifacts import Artifact, NoProgress, StageIdentity, Store, sha256_file, write_json, write_text
from illada.config import Deduplicate, Gates, Objective, Optimizer, Privacy, Release, Schedule, Threshold, Training
from illada.release.build import build_release
from illada.release.export import export_model
from illada.release.facts import check_gates

if TYPE_CHECKING:
    from conftest import TinyModel

LICENCE = "GPL | others"
CONFIG = Release(
    model_name="tiny",
    licence="apache-2.0",
    description="A model to test releases with.",
    gates=Gates(licences=(LICENCE,), evaluation=(Threshold(metric="held_out.nll_per_byte", at_most=2.5),)),
    waivers={"decontamination": "no benchmarks | here"},
)


class Chain:
    """Builds artifacts one after another."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.artifacts: list[Artifact] = []

    def add(
        self,
        stage: str,
        statistics: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        model: TinyModel | None = None,
    ) -> Artifact:
        if stage.startswith("acquire-"):
            config = {"licence": LICENCE}
        identity = StageIdentity(stage=stage, version=1, config=config or {"of": stage}, inputs=inputs or {})
        with self.store.attempt(identity) as attempt:
            for name, text in (files or {}).items():
                write_text(attempt.output / name, text)
            if stage.startswith("acquire-"):
                _write_inventory(attempt.output, stage)
            if model is not None:
                export_model(model.weights, model.config, model.tokenizer, attempt.output)
            artifact = self.store.publish(attempt, statistics, {}, 0.0)
        self.artifacts.append(artifact)
        return artifact


def _write_inventory(folder: Path, stage: str) -> None:
    files = [
        {"path": path.name, "kind": "warc", "bytes": path.stat().st_size, "sha256": sha256_file(path), "made_from": []}
        for path in sorted(folder.iterdir())
    ]
    name = stage.removeprefix("acquire-")
    write_json(folder / "inventory.json", {"source": name, "origin": "debian", "licence": LICENCE, "files": files})


def training(epochs: int) -> Training:
    """A training stage's configuration."""
    return Training(
        window=64,
        global_batch=4,
        epochs=epochs,
        objective=Objective(),
        optimizer=Optimizer(),
        schedule=Schedule(peak=1e-3, minimum=1e-4, warmup_steps=2, decay="cosine", decay_fraction=0.4),
    )


def build_chain(root: Path, model: TinyModel) -> Chain:
    """All stages of the demo's graph."""
    chain = Chain(Store(root))
    web = chain.add("acquire-web", {}, files={"00000.warc.gz": "web", "00001.warc.gz": "more"})
    code = chain.add("acquire-code", {}, files={"00000.parquet": "code"})
    counted = {"documents": 900, "bytes": 1_234_567}
    funnel = {
        "step": "extraction|language",
        "documents_in": 1000,
        "bytes_in": 5_000_000,
        "documents_out": 900,
        "bytes_out": 1_234_567,
        "dropped": {"language": 90, "short": 8},
        "failed": {"damaged": 2},
    }
    documents = {"funnel": [funnel], "languages": {"en": counted}, "sources": {"web": counted}, "damaged": []}
    sources = {"web": web.content, "code": code.content}
    found = {"emails": {"documents": 12, "occurrences": 34}, "secrets": {"documents": 1, "occurrences": 1}}
    privacy = {"privacy": Privacy(secrets="drop").identity()}
    lost = [{"unit": "000-000007-000000", "file": "crawl/7.warc.gz", "cause": "killed | by a signal, 3 times"}]
    curated = chain.add("curate", {**documents, "privacy": found, "quarantined": lost}, sources, privacy)
    held_out = {"positive": 40, "negative": 60, "auc": 0.98765}
    judge = chain.add("quality-model", {"held_out": held_out}, {"curated": curated.fingerprint})
    scores = {"sources": {"web": {"scores": [700, 200], "kept": 90}}, "languages": {}}
    best = chain.add(
        "quality", {**documents, "scores": scores}, {"curated": curated.fingerprint, "model": judge.fingerprint}
    )
    unique = chain.add("deduplicate", documents, {"curated": best.fingerprint}, Deduplicate().identity())
    tokenizer = chain.add(
        "tokenizer",
        {"vocab_size": 300, "sample_documents": 10, "sample_bytes": 1000, "bytes_per_token": 2.5},
        {"documents": unique.fingerprint},
    )
    split = {"documents": 800, "tokens": 500_000, "bytes": 1_200_000, "shards": 1}
    token = {
        "train": split,
        "held_out": {**split, "documents": 100},
        "languages": {
            "python": {"documents": 2, "bytes": 900_000, "tokens": 300_000},
            "fr": {"documents": 1, "bytes": 10, "tokens": 4},
            "en": {"documents": 1, "bytes": 10, "tokens": 4},
        },
        "sources": {"web": {"documents": 900, "bytes": 10, "tokens": 4}},
    }
    texts = {"documents": unique.fingerprint, "tokenizer": tokenizer.fingerprint}
    tokens = chain.add("tokenize", token, texts)
    trained = {"steps": 300, "tokens": 76_800, "epochs": 1.25, "final_loss": 5.4321, "parameters": 123}
    architecture = model.config.identity()
    mixed = {"language": "fr", "tokens": 40_000, "planned": 76_900, "achieved": 76_800, "epochs": 1.92}
    base = chain.add(
        "pretrain",
        {**trained, "mixture": [{"source": "web | x", **mixed}]},
        {"tokens": tokens.fingerprint},
        {"training": training(1).identity(), "model": architecture},
    )
    evaluation = {
        "held_out": {
            "nll_per_token": 5.5,
            "se_per_token": 0.05,
            "nll_per_byte": 2.2,
            "se_per_byte": 0.02,
            "bits_per_byte": 3.174,
            "windows": 48,
            "draws": 4,
            "tokens": 3072,
            "bytes": 8000,
        },
        "samples": [{"prompt": "What | is\nthis?", "text": "```python\nprint(1)\n```"}],
    }
    for name, weights, stage_inputs in (("base", base, {}), ("sft", None, {"initial": base.fingerprint})):
        if weights is None:
            pairs = chain.add("pairs", {**token, "origins": {"docstring": 12, "title": 30}}, texts)
            weights = chain.add(
                "sft",
                {**trained, "final_loss": None, "conversations": {"read": 1234, "kept": 1230, "left_out": 4}},
                {"tokens": pairs.fingerprint, **stage_inputs},
                {"training": training(12).identity(), "model": architecture},
            )
        exported = chain.add(
            f"export-{name}",
            {"tensors": len(model.weights), "parameters": 123},
            {"trained": weights.fingerprint, "tokenizer": tokenizer.fingerprint},
            {"model": architecture},
            model=model,
        )
        chain.add(f"evaluate-{name}", evaluation, {"model": exported.fingerprint, "tokens": tokens.fingerprint})
    return chain


def build_gates(store: Store, artifacts: list[Artifact], config: Release) -> Artifact:
    """The outcomes of a chain's gates."""
    stages = {artifact.stage: artifact for artifact in artifacts}
    identity = StageIdentity(
        stage="gates",
        version=1,
        config={"gates": config.gates.identity(), "waivers": config.waivers},
        inputs={artifact.stage: artifact.fingerprint for artifact in artifacts},
    )
    corpora = {name: stages[name] for name in ("deduplicate", "pairs") if name in stages}
    with store.attempt(identity) as attempt:
        statistics = check_gates(
            artifacts,
            corpora,
            stages["evaluate-sft"],
            stages.get("decontaminate"),
            config.gates,
            config.waivers,
            attempt,
            NoProgress(),
        )
        return store.publish(attempt, statistics, {}, 0.0)


def build(store: Store, artifacts: list[Artifact]) -> Artifact:
    """The release artifact of a chain."""
    stages = {artifact.stage: artifact for artifact in artifacts}
    inputs = {artifact.stage: artifact.fingerprint for artifact in artifacts}
    gates = build_gates(store, artifacts, CONFIG)
    identity = StageIdentity(
        stage="release", version=1, config=CONFIG.identity(), inputs={**inputs, "gates": gates.content}
    )
    evaluations = {name: stages[f"evaluate-{name}"].statistics for name in ("base", "sft")}
    chain = [*artifacts, gates]
    with store.attempt(identity) as attempt:
        statistics = build_release(stages["export-sft"], chain, gates, evaluations, CONFIG, attempt, NoProgress())
        return store.publish(attempt, statistics, {}, 0.0)


@pytest.fixture(scope="session")
def chain(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Every stage before the release."""
    return build_chain(tmp_path_factory.mktemp("store"), tiny_model)


@pytest.fixture(scope="session")
def released(chain: Chain) -> Artifact:
    """The release; tests must not change its folder."""
    return build(chain.store, chain.artifacts)


@pytest.fixture
def release_of(tmp_path: Path) -> Callable[[TinyModel], Artifact]:
    """A function that builds every stage of another model, and its release."""

    def made(model: TinyModel) -> Artifact:
        chain = build_chain(tmp_path / "other", model)
        return build(chain.store, chain.artifacts)

    return made


@pytest.fixture(scope="session")
def gates_with() -> Callable[[Store, list[Artifact], Mapping[str, Any]], Artifact]:
    """A function that evaluates a chain's gates with other thresholds or waivers than the release's."""
    return lambda store, artifacts, changes: build_gates(store, artifacts, CONFIG.model_copy(update=dict(changes)))


@pytest.fixture
def build_in(tmp_path: Path) -> Callable[[list[Artifact]], Artifact]:
    """A function that releases a chain into a store of its own."""
    return partial(build, Store(tmp_path / "another-store"))
