"""How a model is trained: objective, optimizer, learning-rate schedule, duration. All of it is identity."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from illada.config.base import Config

RESPONSE_STEP = 64
"""Rows of conversations are as long as a multiple of this, or as a window."""


class Responses(Config):
    """LLaDA's fine-tuning (arXiv 2502.09992, 2.3): a conversation a row, only its response masked, EOS to fill up.

    `padded_together` rows of a batch, one after another, are filled up to the longest of them by EOS that is masked and
    predicted like text. The paper's mini-batches have two rows a device.
    """

    padded_together: int = Field(default=2, gt=0)


_PUBLISHED: dict[str, Any] = {"eps": 1e-3, "levels": "independent", "isolate_documents": False, "responses": None}


class Objective(Config):
    """Masked diffusion (LLaDA, arXiv 2502.09992, eq. 3): t ~ U(0,1), p = (1 - eps) t + eps, cross-entropy / p.

    Or `autoregressive`, next-token prediction by a model of causal attention, which has segments alone of all this.

    `random_split` is the probability that a window is cut at a random position into two segments which attend only
    within themselves (iLLaDA's random length). With `isolate_documents` every document of a window is such a segment as
    well, and each segment has a t of its own. `levels` says how t is drawn: for each window on its own, as published,
    or spread evenly over the windows of a global step, which has the same expectation and varies less. Without
    `responses` windows are cut from the stream of all documents and everything in them is masked, prompts too.
    """

    kind: Literal["masked", "autoregressive"] = "masked"
    eps: float = Field(default=_PUBLISHED["eps"], gt=0, lt=1)
    random_split: float = Field(default=0.3, ge=0, le=1)
    levels: Literal["independent", "stratified"] = "independent"
    isolate_documents: bool = False
    responses: Responses | None = None

    @model_validator(mode="after")
    def _nothing_masked(self) -> Self:
        foreign = [name for name in ("eps", "levels", "responses") if getattr(self, name) != _PUBLISHED[name]]
        if self.kind == "autoregressive" and foreign:
            raise ValueError(f"{', '.join(foreign)}: only a masked objective has it; leave out, or kind: masked")
        return self

    @model_validator(mode="after")
    def _whole_conversations(self) -> Self:
        if self.responses is not None and self.random_split:
            raise ValueError(f"responses are not cut at random: random_split must be 0, not {self.random_split}")
        if self.responses is not None and self.isolate_documents:
            raise ValueError("with responses every row is one document: leave out isolate_documents")
        return self

    @model_serializer(mode="wrap")
    def _what_differs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As published, an objective stays the one it was before there was a choice."""
        fields: dict[str, Any] = handler(self)
        always = {"eps"} if self.kind == "masked" else set()
        return {k: v for k, v in fields.items() if k in always or k not in _PUBLISHED or _PUBLISHED[k] != v}


class Optimizer(Config):
    """AdamW with decoupled weight decay and global gradient-norm clipping."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)


class Drop(Config):
    """The constant rate is `rate` once a fraction `after` of all steps is done."""

    after: float = Field(gt=0, lt=1)
    rate: float = Field(gt=0)


class Plateau(Config):
    """The loss counts as falling while each `window` of steps takes at least the fraction `fall` off it.

    `false_alarm` is the probability, over the whole run, that it is said to have stopped while it falls just so.
    """

    window: int = Field(ge=20)
    fall: float = Field(gt=0, lt=1)
    false_alarm: float = Field(default=0.05, gt=0, lt=1)


class Schedule(Config):
    """Linear warmup from 0 to `peak`, constant, then decay to `minimum` over the last `decay_fraction` of all steps.

    `drops` lower the constant rate in stages (LLaDA, arXiv 2502.09992); the decay starts from where the last one left.
    With a `plateau` the decay begins when the loss stops falling (iLLaDA, arXiv 2606.25331), over as many steps, and
    the run is as much shorter; at the latest it begins where it would without.
    """

    peak: float = Field(gt=0)
    minimum: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    drops: tuple[Drop, ...] = ()
    decay: Literal["cosine", "linear"]
    decay_fraction: float = Field(ge=0, le=1)
    plateau: Plateau | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.peak:
            raise ValueError(f"minimum learning rate {self.minimum} is above the peak {self.peak}")
        rate, after = self.peak, 0.0
        for drop in self.drops:
            if not (self.minimum <= drop.rate < rate and after < drop.after < 1 - self.decay_fraction):
                raise ValueError(
                    f"drops go down from the peak {self.peak}, one after the other, before the decay begins at "
                    f"{1 - self.decay_fraction:.6g} of all steps: {drop.rate} after {drop.after} does not"
                )
            rate, after = drop.rate, drop.after
        if self.plateau is not None and (self.drops or not 0 < self.decay_fraction < 1):
            raise ValueError("a plateau begins the decay: it needs a decay_fraction between 0 and 1, and no drops")
        return self


class Guard(Config):
    """Updates that are left out: where loss or gradient is not finite, and where the gradient is a spike.

    A spike is a gradient norm above `spike` times the median of the last `history` updates that were made; None looks
    for none. `most_skips` in a row end the stage.
    """

    spike: float | None = Field(default=10.0, gt=1)
    history: int = Field(default=100, ge=10)
    most_skips: int = Field(default=5, gt=0)


class BatchStage(Config):
    """Steps take `batch` windows until `until_tokens` tokens of the stage have been trained on."""

    batch: int = Field(gt=0)
    until_tokens: int = Field(gt=0)


class Training(Config):
    """One training stage. `steps` or `epochs` sets its length; `global_batch` counts windows a step.

    With a `batch_ramp` the first steps have fewer windows, in stages, and `global_batch` is that of all later ones.
    """

    window: int = Field(gt=1)
    global_batch: int = Field(gt=0)
    batch_ramp: tuple[BatchStage, ...] = ()
    steps: int | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, gt=0)
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule
    guard: Guard = Guard()
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self

    @model_validator(mode="after")
    def _growing(self) -> Self:
        batch, tokens = 0, 0
        for stage in self.batch_ramp:
            if not (batch < stage.batch < self.global_batch and tokens < stage.until_tokens):
                raise ValueError(
                    f"batch_ramp goes up to global_batch {self.global_batch}, stage after stage: "
                    f"{stage.batch} windows until {stage.until_tokens} tokens does not"
                )
            batch, tokens = stage.batch, stage.until_tokens
        return self

    @model_serializer(mode="wrap")
    def _without_a_ramp(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without one, a stage stays the one it was before there was a choice."""
        fields: dict[str, Any] = handler(self)
        return fields if self.batch_ramp else {name: fields[name] for name in fields if name != "batch_ramp"}
