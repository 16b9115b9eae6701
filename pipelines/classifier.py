"""A fastText classifier of text quality: the form it reads texts in, its training, and a datatrove step that scores.

A text is one line of words between blanks, as in DCLM's published filter (arXiv 2406.11794): lines are joined, case and
punctuation stay. Trained and scored texts go through the same function. Words that mean something to fastText itself
(labels, the end of a line) are taken apart, so that no text can speak as one.

floret is a fork of fastText; of it only the plain fastText mode is used. One thread makes training deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from illada.config import Quality

POSITIVE, NEGATIVE = "positive", "negative"
SCORE = "quality"
"""Metadata key of the score."""
_LABEL = "__label__"


def as_line(text: str) -> str:
    """`text` as the classifier reads it, without the end of the line."""
    line = " ".join(text.encode(errors="replace").decode().replace("\0", " ").split())
    if "__label__" in line or "</s>" in line:
        line = line.replace("__label__", "_ _label__").replace("</s>", "< /s>")
    return line


def labelled(line: str, label: str) -> str:
    """A line of training data."""
    return f"{_LABEL}{label} {line}\n"


def train_classifier(config: Quality, lines: Path, model: Path) -> None:
    """Train on a file of labelled lines and write the model, whose bytes depend on `config` and the lines alone.

    Raises:
        ValueError: training diverged.
    """
    import floret

    try:
        trained = floret.train_supervised(
            input=str(lines),
            wordNgrams=config.word_ngrams,
            dim=config.dim,
            epoch=config.epochs,
            lr=config.lr,
            minCount=config.min_count,
            bucket=config.buckets,
            seed=config.seed,
            thread=1,
            verbose=0,
        )
    except RuntimeError as error:  # "Encountered NaN."
        raise ValueError(f"data.quality: training diverged ({error}); lower lr, which is {config.lr}") from None
    trained.save_model(str(model))


class Classifier:
    """A trained model. Loading reads native structures without checks: `path` is a file whose checksum was verified."""

    def __init__(self, path: Path) -> None:
        import floret

        self._model = floret.load_model(str(path)).f  # its Python half fails with NumPy 2

    def score(self, line: str) -> float:
        """The probability that a text, given `as_line`, is positive, in [0, 1] and exact in single precision."""
        for probability, label in self._model.predict(line + "\n", 2, 0.0, "strict"):
            if label == _LABEL + POSITIVE:
                return min(float(probability), 1.0)
        return 0.0


class QualityScorer(PipelineStep):
    """Leaves each document's score in its metadata; those that are marked as code have none.

    `model` is a file that `train_classifier` wrote, from a place that nobody else writes to.
    """

    type = "🔎 - SCORER"
    name = "quality"

    def __init__(self, model: Path) -> None:
        super().__init__()
        self._path = model
        self._classifier: Any = None

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The same documents, scored."""
        self._classifier = self._classifier or Classifier(self._path)
        for document in data:
            if document.metadata.get("kind") != "code":
                document.metadata[SCORE] = self._classifier.score(as_line(document.text))
            yield document
