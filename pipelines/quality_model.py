"""Stage `quality-model`: train the classifier of text quality on labelled examples, and see how well it tells them.

Examples are distinct texts, shuffled by hash; one that both labels have is left out. A part of them is held out by
hash and scored with the finished model. Output: `model.bin`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from illada.artifacts import Artifact, Attempt, Progress
from illada.config import Quality
from pipelines.background import in_thread
from pipelines.classifier import NEGATIVE, POSITIVE, Classifier, labelled, train_classifier
from pipelines.quality_examples import MINIMUM, quality_identity, read_examples
from pipelines.sample import hash64, held_out

QUALITY_MODEL_VERSION = 1
MODEL = "model.bin"
_BUCKETS = 10
_LINES = "lines.txt"


def build_quality_model(config: Quality, curated: Artifact, attempt: Attempt, progress: Progress) -> dict[str, Any]:
    """Build the model.

    Returns statistics: examples (trained on, by label), conflicting (texts under both labels), held_out (figures of
    `judge`).

    Raises:
        ValueError: an example file cannot be read or changed, there are too few examples of a label.
    """
    if quality_identity(config) != attempt.identity.config:
        raise ValueError("a file of examples changed while the stage was starting; run again")
    examples = read_examples(config, curated, progress)
    conflicting = set(examples[POSITIVE]) & set(examples[NEGATIVE])
    rows = sorted(
        (hash64(line, "quality-order"), line, label)
        for label, lines in examples.items()
        for line in lines
        if line not in conflicting
    )
    for label in examples:
        if (count := sum(of == label for _, _, of in rows)) < MINIMUM:
            raise ValueError(
                f"data.quality: {count} {label} examples, at least {MINIMUM} are needed; add some, or raise "
                f"`documents` ({len(conflicting)} texts were left out because both labels have them)"
            )
    kept_apart = [(line, label) for _, line, label in rows if held_out(line, config.held_out, config.seed)]
    trained = [(line, label) for _, line, label in rows if not held_out(line, config.held_out, config.seed)]
    path = attempt.scratch / _LINES
    with path.open("w", encoding="utf-8") as file:
        file.writelines(labelled(line, label) for line, label in trained)
    model = attempt.output / MODEL
    in_thread(functools.partial(train_classifier, config, path, model), progress, "training")
    classifier = Classifier(model)
    scores = np.array([classifier.score(line) for line, _ in kept_apart])
    return {
        "examples": {label: sum(of == label for _, of in trained) for label in examples},
        "conflicting": len(conflicting),
        "held_out": judge(scores, np.array([label == POSITIVE for _, label in kept_apart], dtype=bool)),
    }


def judge(scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """How well scores in [0, 1] [n] tell positive [n] from negative examples.

    Returns positive and negative (their numbers), auc (the probability that a positive example scores higher, ties
    counting half; None when a label is missing), precision and recall at 0.5, and calibration: for each tenth of the
    scores, examples, their mean score and the share of them that is positive.
    """
    good, bad = scores[positive], scores[~positive]
    auc = None
    if len(good) and len(bad):
        ordered = np.sort(bad)
        lower, upper = np.searchsorted(ordered, good, "left"), np.searchsorted(ordered, good, "right")
        auc = float((lower + upper).sum() / 2 / len(good) / len(bad))
    said = scores >= 0.5
    right = int((said & positive).sum())
    buckets = np.minimum((scores * _BUCKETS).astype(int), _BUCKETS - 1)
    calibration: Sequence[Mapping[str, Any]] = [
        {
            "from": number / _BUCKETS,
            "examples": int(inside.sum()),
            "mean_score": float(scores[inside].mean()),
            "positive": float(positive[inside].mean()),
        }
        for number in range(_BUCKETS)
        if (inside := buckets == number).any()
    ]
    return {
        "positive": len(good),
        "negative": len(bad),
        "auc": auc,
        "precision": right / int(said.sum()) if said.any() else None,
        "recall": right / len(good) if len(good) else None,
        "calibration": calibration,
    }
