"""Configuration of the iLLaDA-style masked diffusion language model (arXiv 2606.25331, table 1) for `transformers`.

Shipped unchanged inside every release, so it knows only `transformers`. Field names are those of Llama-family
configurations; the defaults are the published 8B figures (the rotary base is not published: LLaDA's 500000 is used).
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class ILLaDAConfig(PreTrainedConfig):
    """Sizes, special token ids and rotary parameters. Every width must divide evenly, as `__post_init__` checks."""

    model_type = "illada"
    default_theta = 500_000.0

    vocab_size: int = 155_136
    hidden_size: int = 4096
    intermediate_size: int = 14_336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    rope_parameters: dict[str, Any] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    mask_token_id: int = 5

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the derived fields. Raises ValueError for sizes that do not fit together."""
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 2 x num_attention_heads "
                f"{self.num_attention_heads}: rotary positions need an even head width"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        super().__post_init__(**kwargs)
        assert self.rope_parameters is not None  # the base class fills it in
        if self.rope_parameters["rope_type"] != "default":
            raise ValueError(f"rope_type {self.rope_parameters['rope_type']!r} is not supported, only 'default'")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


__all__ = ["ILLaDAConfig"]
