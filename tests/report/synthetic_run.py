"""A believable finished run in a temporary store, made without running anything: what the report's tests look at."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from illada.artifacts import Artifact, StageIdentity, Store
from illada.report.view import RunView, StageView

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x.png onerror=alert(1)>\"'&amp;"

CONFIG = """\
name: demo
data:
  sources:
  - {kind: web-docs, name: web, packages: [debian-handbook, apache2-doc], pages: 6000}
  - {kind: python-code, name: code, files: 1500}
model: {layers: 4, hidden_size: 128, vocab_size: 4096}
release:
  model_name: illada-demo
  description: A demonstration model, trained for minutes on documentation pages; it shows the chain, not a capability.
"""


def finished_run(root: Path, *, hostile: bool = False, upto: str | None = None) -> RunView:
    """A run whose stages took plausible times; `upto` stops it in that stage, `hostile` puts markup into every text."""
    made = _Run(Store(root / "store"), HOSTILE if hostile else "")
    stages: list[StageView] = []
    for index, (name, seconds, inputs, files, statistics) in enumerate(made.plan()):
        if name == upto:
            error = (
                f"a worker died: {made.evil}" if made.evil else "no space left on the device: /data/store (12 MB free)"
            )
            stages.append(StageView(name=name, state="failed", seconds=1.5, attempts=2, error=error))
            break
        artifact = made.publish(name, inputs, files, statistics, seconds)
        reused = name in ("acquire-web", "acquire-code")
        stages.append(
            StageView(
                name=name,
                state="reused" if reused else "done",
                seconds=0.1 if reused else seconds,
                reused=reused,
                attempts=2 if index == 7 else 1,
                artifact=artifact,
            )
        )
    state = "failed" if upto else "finished"
    return RunView(
        run_id="demo", state=state, config_yaml=CONFIG + made.comment(), created=1_795_500_000.0, stages=stages
    )


class _Run:
    def __init__(self, store: Store, evil: str) -> None:
        self.store = store
        self.evil = evil
        self.artifacts: dict[str, Artifact] = {}

    def comment(self) -> str:
        return f"# {self.evil}\n" if self.evil else ""

    def plan(self) -> Sequence[tuple[str, float, Sequence[str], Mapping[str, str], Mapping[str, Any]]]:
        web, code = _inventory("web", 24, self.evil), _inventory("code", 1, self.evil)
        return [
            (
                "acquire-web",
                9.4,
                [],
                {"inventory.json": web},
                {"origin": "debian", "documents": 6000, "bytes": 143_000_000},
            ),
            (
                "acquire-code",
                2.1,
                [],
                {"inventory.json": code},
                {"origin": "environment", "documents": 1500, "bytes": 21_000_000},
            ),
            ("curate", 21.7, ["acquire-web", "acquire-code"], {}, self.curation()),
            ("deduplicate", 6.2, ["curate"], {}, self.deduplication()),
            ("tokenizer", 3.9, ["deduplicate"], {}, {"vocab_size": 4096, "bytes_per_token": 3.31}),
            ("tokenize", 4.4, ["deduplicate", "tokenizer"], {}, self.tokens(3_412_551)),
            (
                "pretrain",
                96.0,
                ["tokenize"],
                _training(300, 8.3, 4.6, 3e-3, 20, self.evil),
                {**_trained(300, 16 * 256), "mixture": self.mixture()},
            ),
            ("export-base", 3.1, ["pretrain", "tokenizer"], {}, {}),
            ("evaluate-base", 8.8, ["export-base", "tokenize"], {}, self.evaluation(4.912, 1.483)),
            (
                "pairs",
                1.7,
                ["deduplicate", "tokenizer"],
                {},
                {"origins": {"docstring": 402, "title": 198}, "train": {"tokens": 61_000}},
            ),
            ("sft", 41.0, ["pairs", "pretrain"], _training(348, 4.9, 3.6, 5e-4, 5, ""), _trained(348, 8 * 256)),
            ("export-sft", 3.2, ["sft", "tokenizer"], {}, {}),
            ("evaluate-sft", 9.1, ["export-sft", "tokenize"], {}, self.evaluation(4.871, 1.471)),
            ("gates", 0.3, ["export-sft", "evaluate-base", "evaluate-sft"], {"gates.json": "{}"}, self.gates()),
            (
                "release",
                2.0,
                ["tokenizer", "tokenize", "export-sft", "evaluate-base", "evaluate-sft", "gates"],
                {"README.md": "card"},
                {},
            ),
        ]

    def publish(
        self, name: str, inputs: Sequence[str], files: Mapping[str, str], statistics: Mapping[str, Any], seconds: float
    ) -> Artifact:
        identity = StageIdentity(
            stage=name,
            version=1,
            config={"note": self.evil or "as configured"},
            inputs={
                other: self.artifacts[other].content
                if other.startswith("acquire-")
                else self.artifacts[other].fingerprint
                for other in inputs
            },
        )
        with self.store.attempt(identity) as attempt:
            for file, text in {"data.bin": name, **files}.items():
                (attempt.output / file).write_text(text, encoding="utf-8")
            if name == "curate":
                (attempt.output / "rejected").mkdir()
                pq.write_table(pa.Table.from_pylist(self.rejected()), attempt.output / "rejected" / "00000.parquet")
            self.artifacts[name] = self.store.publish(attempt, statistics, {}, time.time() - seconds)
        return self.artifacts[name]

    def mixture(self) -> list[Mapping[str, Any]]:
        rows = [("code", "python", 400_000, 614_400, 614_400), (f"web{self.evil}", "en", 3_000_000, 614_656, 614_400)]
        return [
            {"source": s, "language": n, "tokens": t, "planned": p, "achieved": a, "epochs": a / t}
            for s, n, t, p, a in rows
        ]

    def curation(self) -> Mapping[str, Any]:
        steps = [
            ("read", 7503, {}, {"truncated record": 3}),
            ("url", 7500, {"listed domain": 4}, {}),
            ("extract", 7496, {"no main text": 311}, {"parser": 2}),
            ("language", 7183, {"not wanted": 1422, "uncertain": 208}, {}),
            (
                "gopher repetition",
                5553,
                {"duplicate line fraction": 161, "top n-gram": 96, "duplicate n-grams": 44},
                {},
            ),
            ("gopher quality", 5252, {"too short": 402, "few stop words": 66, "symbol ratio": 21, "bullets": 9}, {}),
            ("c4", 4754, {"too few sentences": 133, "lorem ipsum": 1, "curly bracket": 41}, {}),
            ("fineweb", 4579, {"line punctuation": 88, self.evil or "short lines": 37}, {}),
        ]
        return {
            "funnel": _funnel(steps, 164e6),
            "damaged": self.damaged(),
            "quarantined": [{"unit": "u", "file": f"warc/00017.warc.gz{self.evil}", "cause": "killed by a signal"}],
            "domains": self.domains(),
            **self.mixes(0),
        }

    def rejected(self) -> list[dict[str, str]]:
        reasons = [
            ("extract", "no main text"),
            ("language", "not wanted"),
            ("gopher quality", self.evil or "too short"),
        ]
        return [
            {
                "id": f"{n:032x}", "url": f"https://example.org/{n}{self.evil}", "source": "web", "language": "en",
                "step": step, "reason": reason,
                "text": "" if step == "extract" else f"Rejected text {n}. \x1b[1m{self.evil} " + "and so on " * 100,
            }
            for n in range(5)
            for step, reason in reasons
        ]  # fmt: skip

    def domains(self) -> Mapping[str, Any]:
        names = ["debian.org", "apache.org", "python.org", "", *(f"site-{n}.example" for n in range(40))]
        rows = {
            name: {"read": 3000 // (rank + 1), "documents": 1300 // (rank + 1), "bytes": 9_100_000 // (rank + 1)}
            for rank, name in enumerate([self.evil or "gnu.org", *names])
        }
        return {"domains": rows, "others": {"read": 77, "documents": 9, "bytes": 51_000}}

    def damaged(self) -> Sequence[Mapping[str, Any]]:
        rows = [
            ("warc/00003.warc.gz", "offset 1048577", "gzip stream ends early"),
            ("warc/00011.warc.gz", "<urn:uuid:77c1>", "length"),
        ]
        return [{"file": file, "record": record + self.evil, "error": error} for file, record, error in rows]

    def deduplication(self) -> Mapping[str, Any]:
        steps = [
            ("exact", 4454, {"duplicate": 187}, {}),
            ("minhash", 4267, {"near duplicate": 391}, {}),
        ]
        return {"funnel": _funnel(steps, 31e6), "damaged": [], **self.mixes(0)}

    def mixes(self, tokens: int) -> Mapping[str, Any]:
        languages = {
            "en": 41,
            "python": 19,
            "fr": 9,
            "de": 8,
            "es": 7,
            "ru": 6,
            "it": 5,
            "pt": 3,
            "nl": 1,
            self.evil or "xx": 1,
        }
        return {
            "languages": {name: _share(part, tokens) for name, part in languages.items()},
            "sources": {"web": _share(81, tokens), f"code{self.evil}": _share(19, tokens)},
        }

    def tokens(self, tokens: int) -> Mapping[str, Any]:
        split = {"documents": 3790, "tokens": tokens, "bytes": 11_300_000, "shards": 4}
        held_out = {"documents": 86, "tokens": 71_940, "bytes": 238_000, "shards": 1}
        return {"train": split, "held_out": held_out, **self.mixes(tokens)}

    def gates(self) -> Mapping[str, Any]:
        figures = {"held_out.nll_per_byte": 1.471}
        rows = [
            {"gate": "evaluation", "outcome": "passed", "detail": "good", "figures": figures, "waiver": None},
            {"gate": "licences", "outcome": "waived", "detail": "web", "figures": {"bad": 1}, "waiver": "a demo"},
        ]
        return {"gates": rows}

    def evaluation(self, per_token: float, per_byte: float) -> Mapping[str, Any]:
        figures = {"nll_per_token": per_token, "se_per_token": 0.0312, "nll_per_byte": per_byte, "se_per_byte": 0.0094}
        figures |= {
            "bits_per_byte": per_byte / math.log(2),
            "windows": 48,
            "draws": 4,
            "tokens": 12_288,
            "bytes": 40_690,
        }
        text = "To install a package, use the command of the command of the package and\nthe file is a configuration."
        if per_token < 4.9:
            text = "Use apt install with the name of the package.\n\nThe package comes from the archive."
        return {
            "held_out": figures,
            "samples": [
                {"prompt": "How do I install a package?", "text": text},
                {
                    "prompt": f"Write the signature of the function: Return the sum of two numbers.{self.evil}",
                    "text": "def sum(self, a, b)" + self.evil,
                },
            ],
        }


def _funnel(
    steps: Sequence[tuple[str, int, Mapping[str, int], Mapping[str, int]]], size: float
) -> list[dict[str, Any]]:
    rows = []
    for name, documents, dropped, failed in steps:
        kept = documents - sum(dropped.values()) - sum(failed.values())
        after = size * (0.24 if name == "extract" else kept / documents)
        rows.append(
            {
                "step": name,
                "documents_in": documents,
                "documents_out": kept,
                "bytes_in": round(size),
                "bytes_out": round(after),
                "dropped": dict(dropped),
                "failed": dict(failed),
            }
        )
        size = after
    return rows


def _share(part: int, tokens: int) -> dict[str, int]:
    share = {"documents": 39 * part, "bytes": 113_000 * part}
    return share | ({"tokens": tokens * part // 100} if tokens else {})


def _inventory(name: str, files: int, evil: str) -> str:
    packages = [
        "debian-handbook 11.20220917",
        "apache2-doc 2.4.65-1",
        "git-doc 1:2.39.5",
        f"installation-guide-amd64 20230803{evil}",
    ]
    rows = [
        {
            "path": f"warc/{index:05d}.warc.gz" if name == "web" else "documents/00000.parquet",
            "kind": "warc" if name == "web" else "parquet",
            "bytes": 5_912_345 + index,
            "sha256": f"{index:064x}",
            "made_from": [
                {
                    "package": packages[index % 4].split()[0],
                    "version": packages[index % 4].split()[1],
                    "sha256": "ab" * 32,
                }
            ],
        }
        for index in range(files)
    ]
    return json.dumps({"source": name, "origin": "debian", "licence": f"various{evil}", "files": rows})


def _training(steps: int, start: float, end: float, peak: float, warmup: int, evil: str) -> Mapping[str, str]:
    rng = random.Random(steps)
    rows = []
    for step in range(1, steps + 1):
        level = end + (start - end) * math.exp(-4.5 * step / steps)
        by_noise: list[float | None] = [max(0.3, level * (0.52 + 0.055 * k) + rng.gauss(0, 0.2)) for k in range(10)]
        if step % 7 == 0:
            by_noise[0] = None
        decay = max(0.1, 1 if step < 0.6 * steps else 0.55 + 0.45 * math.cos(math.pi * (step / steps - 0.6) / 0.4))
        rows.append(
            {
                "step": step,
                "epoch": step * 16 // 3000,
                "loss": level * math.exp(rng.gauss(0, 0.09)),
                "lr": peak * min(step / warmup, decay),
                "grad_norm": 0.6 + 2 * math.exp(-step / 30) + abs(rng.gauss(0, 0.12)),
                "masked_fraction": rng.uniform(0.4, 0.6),
                "by_noise": by_noise,
                "loss_by_noise": [None if value is None else 1.02 * value for value in by_noise],
                "positions_by_noise": [0 if value is None else 400 for value in by_noise],
                "tokens": step * 4096,
                "tokens_per_second": 12_800 + rng.gauss(0, 420) - (5000 if step in (1, 141) else 0),
                "seconds": 0.32,
            }
        )
    events: list[dict[str, Any]] = [
        {"event": "start", "time": 1.0, "step": 0, "ranks": 4, "layout": "tensor 2, pipeline 2"}
    ]
    for step in range(100, steps + 1, 100):
        events.append({"event": "checkpoint", "time": 2.0, "step": step, "bytes": 15_700_000, "seconds": 0.4})
    if steps == 300:
        events.insert(2, {"event": "restart", "time": 3.0, "reason": f"rank 2 died (signal 9){evil}"})
        events.insert(3, {"event": "start", "time": 4.0, "step": 100, "resumed_from": "step-00000100"})
    return {
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "events.jsonl": "".join(json.dumps(row) + "\n" for row in events),
    }


def _trained(steps: int, tokens_a_step: int) -> Mapping[str, Any]:
    return {
        "steps": steps,
        "tokens": steps * tokens_a_step,
        "epochs": 1.4,
        "parameters": 1_312_896,
        "restarts": 1,
        "checkpoints": [100, 200, 300],
    }
