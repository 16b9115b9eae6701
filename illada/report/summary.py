"""The machine-readable summary of a run: where its release and report are, how long it took, what came out."""

from __future__ import annotations

from typing import Any

from illada.report.facts import documents_kept, held_out, parameter_count, pick, samples, train_tokens
from illada.report.view import RunView

_KEYS = {"before SFT": "before_sft", "after SFT": "after_sft"}


def summarise(view: RunView, *, release: str | None, report: str | None) -> dict[str, Any]:
    """Figures of a run as plain JSON; what a run that stopped half way does not have is null or missing.

    Args:
        view: the run.
        release: path of the release folder, None while there is none.
        report: path of the HTML report, None when none was written.

    Returns:
        run, state, release, report, seconds (by stage, spent in this run), held_out (before_sft and after_sft: nats per
        token and per byte with standard errors, bits per byte, and what they were measured on), gates (what each found,
        its outcome and its waiver), samples (of the fine-tuned model, of the base model while there is no other),
        loss_by_noise (of each training stage, its last ten steps by tenths of t), tokens (of the training split),
        parameters, documents, mixture (of pretraining, by source and language: tokens
        there are, planned, achieved, and epochs).
    """
    return {
        "run": view.run_id,
        "state": view.state,
        "release": release,
        "report": report,
        "seconds": {stage.name: stage.seconds for stage in view.stages if stage.seconds is not None},
        "held_out": {
            _KEYS[row.label]: {name: value for name, value in row.figures.items() if value is not None}
            for row in held_out(view)
        },
        "gates": pick(view.artifact("gates"), "gates"),
        "samples": [
            {"prompt": pair.prompt, "text": pair.after if pair.after is not None else pair.before}
            for pair in samples(view)
        ],
        "loss_by_noise": {
            name: pick(view.artifact(name), "final_loss_by_noise")
            for name in ("pretrain", "sft")
            if view.artifact(name)
        },
        "tokens": _whole(train_tokens(view)),
        "parameters": _whole(parameter_count(view)),
        "documents": _whole(documents_kept(view)),
        "mixture": pick(view.artifact("pretrain"), "mixture"),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
