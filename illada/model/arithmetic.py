"""Parameters and floating-point operations of a model, from its configuration alone.

A matrix product with P weights costs 2 P operations a token forward; attention costs 4 x hidden x (positions attended
to) a token and layer, both ways since it is bidirectional; the backward pass costs twice the forward one. Norms,
rotary positions and activations are left out, as is usual (Kaplan et al., arXiv 2001.08361; PaLM, arXiv 2204.02311,
appendix B). The output head runs on masked positions only.
"""

from __future__ import annotations

from dataclasses import dataclass

from illada.config import ModelConfig, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Trainable parameters. `embedding` counts the input and, where untied, the output embedding."""

    embedding: int
    attention: int
    ffn: int
    norm: int

    @property
    def non_embedding(self) -> int:
        """Everything but the embeddings."""
        return self.attention + self.ffn + self.norm

    @property
    def total(self) -> int:
        """Everything; a tied embedding counts once."""
        return self.embedding + self.non_embedding

    @property
    def active(self) -> int:
        """Those that work on each token: all, since every FFN is dense."""
        return self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFlops:
    """Floating-point operations of one forward pass, per token of the window (masked or not)."""

    matrices: float
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """One forward pass."""
        return self.matrices + self.attention + self.head

    @property
    def training(self) -> float:
        """Forward and backward, recomputation not counted (what model FLOPs utilisation is measured against)."""
        return 3 * self.forward


def parameters(config: ModelConfig) -> ParameterCount:
    """Count the parameters of a model."""
    hidden = config.hidden_size
    return ParameterCount(
        embedding=config.vocab_size * hidden * (1 if config.tied_embeddings else 2),
        attention=config.layers * (2 * hidden * hidden + 2 * hidden * config.kv_heads * config.head_dim),
        ffn=config.layers * 3 * hidden * config.ffn_size,
        norm=(2 * config.layers + 1) * hidden,
    )


def token_flops(config: ModelConfig, *, attended: float, masked: float) -> TokenFlops:
    """Operations per token.

    Args:
        attended: mean positions a token attends to: the window, or `mean_attended` under random splits.
        masked: fraction of positions the head runs on (`mean_masked` in training, 1 when all logits are wanted).
    """
    count = parameters(config)
    return TokenFlops(
        matrices=2.0 * (count.attention + count.ffn),
        attention=4.0 * config.layers * config.hidden_size * attended,
        head=2.0 * config.vocab_size * config.hidden_size * masked,
    )


def training_flops(config: ModelConfig, *, window: int, objective: Objective) -> float:
    """Operations per trained token, forward and backward, in expectation over masks and splits."""
    attended, masked = mean_attended(window, objective.random_split), mean_masked(objective.eps)
    if objective.kind == "autoregressive":  # position k of a segment attends to k, and all are predicted
        attended, masked = (attended + 1) / 2, 1.0
    return token_flops(config, attended=attended, masked=masked).training


def mean_attended(window: int, random_split: float) -> float:
    """Mean positions a token attends to when windows are split with that probability at a uniform point in 1..L-1.

    A split at k leaves (k^2 + (L - k)^2) / L positions a token, (2 L - 1) / 3 in the mean over k.
    """
    return (1 - random_split) * window + random_split * (2 * window - 1) / 3


def mean_masked(eps: float) -> float:
    """Mean masking probability of p = (1 - eps) t + eps, t ~ U(0, 1)."""
    return (1 + eps) / 2
