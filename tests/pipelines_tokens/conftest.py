"""A small corpus of prose and code as a published artifact, and a way to run stages on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from illada.artifacts import Artifact, Attempt, NoProgress, StageIdentity, Store
from illada.config import Tokenizer
from pipelines.documents import TextDocument, document_id, write_documents
from pipelines.tokenizer import build_tokenizer

WORDS = """
the of and window page server file package install command user system option value list table network
configuration directory version default error number string language model token sample document
""".strip().split()
CODE = '''"""Module {n}."""

def add_{n}(left, right=0, *rest, key: int = {n}) -> int:
    """Return the sum of {n} and both numbers.

    Not part of the description.
    """
    return left + right

async def fetch_{n}(url):
    """Fetch the page number {n} from
    the network."""

def short_{n}():
    """Too short."""

def __hidden__():
    """This one has a long enough docstring."""

def doctest_{n}():
    """>>> doctest_{n}() gives nothing useful"""

def bare_{n}(x): return x
'''
LANGUAGES = ("en", "fr", "de", "es")


def prose(number: int) -> TextDocument:
    rng = random.Random(number)
    paragraphs = [" ".join(rng.choices(WORDS, k=rng.randint(8, 30))).capitalize() + "." for _ in range(4)]
    return TextDocument(
        text="\n\n".join([f"Page {number}", *paragraphs]),
        id=document_id("web", str(number)),
        url=f"https://example.org/{number}",
        source="web",
        language=LANGUAGES[number % 4],
        language_score=0.9,
        title=f"Page {number}" if number % 5 else "",
    )


def code(number: int) -> TextDocument:
    text = CODE.format(n=number) if number % 7 else "def broken(:\n"
    return TextDocument(
        text=text,
        id=document_id("code", str(number)),
        url="",
        source="code",
        language="python",
        language_score=1.0,
        title="",
    )


CORPUS = [document for n in range(120) for document in (prose(n), code(n))]


class Stages:
    """Runs stage builders against one store."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def run(
        self, name: str, build: Callable[[Attempt], Mapping[str, Any]], config: Mapping[str, Any] | None = None
    ) -> Artifact:
        identity = StageIdentity(stage=name, version=1, config=config or {}, inputs={})
        with self.store.attempt(identity) as attempt:
            return self.store.publish(attempt, build(attempt), {}, 0.0)

    def documents(self, name: str, documents: Iterable[TextDocument], files: int = 1) -> Artifact:
        everything = list(documents)

        def build(attempt: Attempt) -> dict[str, Any]:
            size = -(-len(everything) // files) or 1
            for number in range(files):
                part = everything[number * size : (number + 1) * size]
                write_documents(attempt.output / "documents" / f"{number:05d}.parquet", part)
            return {}

        return self.run(name, build)


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    """One processor's worth of Ray."""
    import ray

    ray.shutdown()  # another room's may still be up
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    """An empty store of one test."""
    return Stages(tmp_path / "store")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The store of what tests only read."""
    return Stages(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def texts() -> list[TextDocument]:
    """120 pages in four languages (four of five with a title) and 120 Python files (six of seven parse)."""
    return CORPUS


@pytest.fixture(scope="session")
def corpus(shared: Stages) -> Artifact:
    """`texts` in three files."""
    return shared.documents("deduplicate", CORPUS, files=3)


@pytest.fixture(scope="session")
def tokenizer(shared: Stages, corpus: Artifact) -> Artifact:
    config = Tokenizer(vocab_size=400)
    return shared.run("tokenizer", lambda attempt: build_tokenizer(config, corpus, attempt, NoProgress()))
