"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from illada.config import ModelConfig


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What a killed process has written stays; only a power cut could take it, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyModel:
    """A random model of a few thousand parameters: its pieces, and the folder they were exported to."""

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    tokenizer: Path
    folder: Path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Exported once a session: tests must not change the folder."""
    from illada.config import ModelConfig
    from illada.data.tokenizer import save_tokenizer, train_tokenizer
    from illada.model.weights import hf_tensor_names, initial_tensor
    from illada.release.export import export_model

    root = tmp_path_factory.mktemp("tiny")
    texts = ["The quick brown fox jumps over the lazy dog. " * 5, "How do I install a package? apt install it."]
    save_tokenizer(train_tokenizer(texts, 300, 2), root / "tokenizer")
    config = ModelConfig(
        layers=2, hidden_size=32, heads=4, kv_heads=2, ffn_size=48, vocab_size=320, max_positions=96, init_std=0.3
    )
    weights = {name: initial_tensor(config, name, seed=0) for name in hf_tensor_names(config)}
    export_model(weights, config, root / "tokenizer", root / "model")
    return TinyModel(config=config, weights=weights, tokenizer=root / "tokenizer", folder=root / "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyRun:
    """A finished run of the tiny chain. `store` is what it published, for reading; `folder` is where the run lives on,
    with its `tiny.yaml`, `runs.db` and a `store` of its own.
    """

    folder: Path
    store: Path


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prose of the tiny chain: what runs have in common is published under one fingerprint."""
    from chain import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.jsonl")


@pytest.fixture(scope="session")
def tiny_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Nothing happened to it. It takes the better part of a minute."""
    from chain import illada, write_config

    folder = tmp_path_factory.mktemp("tiny-run")
    illada("run", write_config(folder, tiny_corpus), database=folder / "runs.db")
    shutil.copytree(folder / "store", folder / "kept")
    return TinyRun(folder=folder, store=folder / "kept")


_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server (moto) in a process of its own, which ends with this one."""
    server = subprocess.Popen(
        [sys.executable, "-c", _MOTO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    lines = iter(server.stdout.readline, "")
    port = next(line for line in lines if line.strip().isdecimal()).strip()
    yield f"http://127.0.0.1:{port}"
    server.stdin.close()
    server.wait()


@pytest.fixture
def s3_url(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the test's own, reachable from here and from processes started from here, with an empty cache."""
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "ILLADA_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{bucket}"
