"""kill -9 of the driver while it tokenizes or joins shards: the next attempt publishes the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from illada.artifacts import Artifact

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, sys
from pathlib import Path
import ray
from illada.artifacts import NoProgress, StageIdentity, Store
from illada.config import DataPlacement, Tokenize
from pipelines.tokenize import tokenize_documents

class KillIn(NoProgress):
    unit = ""
    def start(self, total, unit):
        self.unit = unit
    def update(self, done, **figures):
        if done and self.unit == sys.argv[4]:
            os.kill(os.getpid(), signal.SIGKILL)

inputs, store = Store(Path(sys.argv[1])), Store(Path(sys.argv[2]))
documents, tokenizer = (inputs.open(*name.split("=")) for name in sys.argv[3].split(","))
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
identity = StageIdentity(stage="tokenize", version=1, config={}, inputs={})
config, placement = Tokenize(shard_tokens=5000, held_out=0.1), DataPlacement(workers=1, cpus_per_worker=0.5)
with store.attempt(identity) as attempt:
    statistics = tokenize_documents(config, documents, tokenizer, attempt, placement, KillIn())
    print(store.publish(attempt, statistics, {}, 0.0).content)
ray.shutdown()
"""


@pytest.mark.faults
def test_killed_equals_uninterrupted(tmp_path: Path, shared, corpus: Artifact, tokenizer: Artifact) -> None:
    names = ",".join(f"{artifact.stage}={artifact.fingerprint}" for artifact in (corpus, tokenizer))

    def run(store: str, kill_in: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(shared.store.root), str(tmp_path / store), names, kill_in]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    expected = run("straight").stdout.split()[-1]
    for phase in ("documents", "tokens in shards"):
        assert run("killed", phase).returncode == -signal.SIGKILL
    assert list((tmp_path / "killed").glob("tokenize/*/work/units/*.json"))
    assert run("killed").stdout.split()[-1] == expected
