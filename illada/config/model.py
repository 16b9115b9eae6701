"""The architecture: one record builds the Megatron module for training and the released Hugging Face twin."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from illada.config.base import Config


class ModelConfig(Config):
    """A Llama-style transformer with bidirectional attention (iLLaDA, arXiv 2606.25331, table 1).

    RMSNorm before attention and FFN, rotary positions, SwiGLU, grouped-query attention, no bias. `vocab_size` counts
    embedding rows, which the tokenizer must fit in. With causal `attention` it is Llama itself (arXiv 2307.09288), for
    the autoregressive objective.
    """

    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    ffn_size: int = Field(gt=0)
    vocab_size: int = Field(gt=6)
    max_positions: int = Field(gt=1)
    rope_theta: float = Field(default=500_000.0, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)
    tied_embeddings: bool = True
    init_std: float = Field(default=0.02, gt=0)
    attention: Literal["bidirectional", "causal"] = "bidirectional"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"the head width {self.head_dim} (hidden_size / heads) must be even for rotary positions")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    @model_serializer(mode="wrap")
    def _what_differs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A bidirectional model stays the one it was before there was a choice."""
        fields: dict[str, Any] = handler(self)
        return {name: fields[name] for name in fields if name != "attention" or self.attention == "causal"}
