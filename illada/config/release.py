"""What a release says of itself, and what must hold of a model before it is released."""

from __future__ import annotations

import difflib
from typing import Literal, Self

from pydantic import Field, model_validator

from illada.config.base import Config

GateName = Literal["evaluation", "decontamination", "checksums", "licences"]
GATES: tuple[GateName, ...] = ("evaluation", "decontamination", "checksums", "licences")

_OPEN_LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-3.0", "cc-by-4.0",
    "odc-by", "pddl", "public domain",
)  # fmt: skip


class Threshold(Config):
    """A bound on one figure of the released model's evaluation, by its dotted name: `held_out.nll_per_byte`."""

    metric: str = Field(min_length=1)
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bounds(self) -> str:
        """As people read it: "at most 3"."""
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bounds."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_most is None and self.at_least is None:
            raise ValueError("give `at_most`, `at_least` or both")
        return self


class Gates(Config):
    """Every gate is evaluated; a release needs each one to pass or to be waived by name.

    evaluation: each threshold holds; with none there is nothing to pass. decontamination: there is a report on all
    that the model was trained on, and of no benchmark more than `contaminated_share` of the items were found.
    checksums: every file of every artifact of the chain is as recorded. licences: each source's is one of `licences`,
    compared without regard to case ("unknown" and "various" only if they are listed).
    """

    evaluation: tuple[Threshold, ...] = ()
    contaminated_share: float = Field(default=0.0, ge=0, le=1)
    licences: tuple[str, ...] = _OPEN_LICENCES


class Release(Config):
    """What the model card says of itself, and the conditions. `waivers` maps a gate to the reason why it may fail."""

    model_name: str
    licence: str = "apache-2.0"
    description: str = ""
    gates: Gates = Gates()
    waivers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _waivers_are_known_and_reasoned(self) -> Self:
        for gate, reason in self.waivers.items():
            if gate not in GATES:
                near = difflib.get_close_matches(gate, GATES, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"gates: {', '.join(GATES)}"
                raise ValueError(f"waivers: no gate {gate!r}; {hint}")
            if not reason.strip():
                raise ValueError(f"waivers: {gate} is waived without a reason; say why it may fail")
        return self
