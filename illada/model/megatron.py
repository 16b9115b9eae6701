"""The model as a Megatron-Core module: `GPTModel` made bidirectional, with its head on masked positions only.

Megatron owns tensor and pipeline parallelism, tied embeddings across stages and sharded checkpoints. What is ours:
attention within segments (`attention`), the head and loss (`head`), and a norm that carries Megatron's attributes.
Weights are left uninitialised: they come from `weights.load_hf_weights`, so that they do not depend on the layout.

Shapes: b windows of the micro-batch, s window length, h hidden width, V embedding rows.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from illada.config import ModelConfig
from illada.model.attention import SegmentAttention, Segments
from illada.model.head import chunked_cross_entropy


class DiffusionGPT(GPTModel):
    """One pipeline stage of the model, on one tensor-parallel rank."""

    def __init__(self, model: ModelConfig, config: TransformerConfig, spec: ModuleSpec) -> None:
        super().__init__(
            config,
            spec,
            vocab_size=model.vocab_size,
            max_sequence_length=model.max_positions,
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
            position_embedding_type="none",
            share_embeddings_and_output_weights=model.tied_embeddings,
        )
        self.architecture = model
        for module in self.modules():
            _mark_sharding(module)

    def forward(
        self, tokens: Tensor, boundaries: Tensor, targets: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Run this stage; inputs other than the first stage's tokens come through `set_input_tensor`.

        Args:
            tokens: int64 [b, s], corrupted.
            boundaries: int32 [b, 3], (0, split, s) per row; split == s where the row is one segment.
            targets: int64 [b, s], the clean tokens; read where `mask` is true.
            mask: bool [b, s], the positions to predict; needed with `targets`.

        Returns:
            Last stage: float32 [n] cross-entropy in nats of the masked positions in row-major (b, s) order, or with
            `targets` None the logits [b, s, V]. Other stages: hidden states [s, b, h].
        """
        length = tokens.shape[1]
        if length > self.architecture.max_positions:
            raise ValueError(
                f"window of {length} tokens is longer than max_positions {self.architecture.max_positions}"
            )
        segments = Segments.of(
            boundaries, length, self.architecture.head_dim, self.architecture.rope_theta, self.config.params_dtype
        )
        output: Tensor = super().forward(tokens, None, None, labels=targets, loss_mask=mask, packed_seq_params=segments)
        return output

    def _postprocess(
        self, hidden_states: Tensor, *, labels: Tensor | None, loss_mask: Tensor | None, **_: Any
    ) -> Tensor:
        if not self.post_process:
            return hidden_states
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        if labels is None:
            logits, _bias = self.output_layer(hidden_states, weight=weight, runtime_gather_output=True)
            return logits.transpose(0, 1).contiguous()
        assert loss_mask is not None, "targets need a mask: the head runs on masked positions only"
        rows, columns = loss_mask.nonzero(as_tuple=True)
        picked = hidden_states.flatten(0, 1).index_select(0, columns * loss_mask.shape[0] + rows)
        return chunked_cross_entropy(picked, weight, labels[rows, columns], self.tp_group)


class RMSNorm(torch.nn.RMSNorm):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32, with the constructor Megatron's specs call."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)


def build_module(config: ModelConfig, *, dtype: torch.dtype) -> DiffusionGPT:
    """This rank's part of the model, weights uninitialised; the layout is read from Megatron's `parallel_state`.

    Raises:
        ValueError: the layout does not divide the model.
    """
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    pipeline = parallel_state.get_pipeline_model_parallel_world_size()
    for name, size, parts in (
        ("kv_heads", config.kv_heads, tensor),
        ("ffn_size", config.ffn_size, tensor),
        ("vocab_size", config.vocab_size, tensor),
        ("layers", config.layers, pipeline),
    ):
        if size % parts:
            raise ValueError(f"{name} {size} cannot be divided over {parts} ranks; choose another layout")
    megatron = _transformer_config(config, tensor, pipeline, dtype)
    module = DiffusionGPT(config, megatron, _block_spec(megatron))
    return module.cuda() if torch.cuda.is_available() else module  # made on the CPU, where fake tensors have to stay


def _transformer_config(config: ModelConfig, tensor: int, pipeline: int, dtype: torch.dtype) -> TransformerConfig:
    return TransformerConfig(
        num_layers=config.layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.heads,
        num_query_groups=config.kv_heads,
        ffn_hidden_size=config.ffn_size,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        normalization="RMSNorm",
        layernorm_epsilon=config.norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        use_cpu_initialization=True,
        perform_initialization=False,
    )


def _block_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.params = {"attn_mask_type": AttnMaskType.no_mask}
    layer.submodules.self_attention.submodules.core_attention = SegmentAttention
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm)


def _mark_sharding(module: torch.nn.Module) -> None:
    """Set what Megatron's own initialisation would have set: without it, gradient norms count only rank 0's shards."""
    sharded = isinstance(module, (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding))
    if sharded and module.weight is not None:
        dim = 1 if isinstance(module, RowParallelLinear) else 0
        set_tensor_model_parallel_attributes(module.weight, True, dim, 1)
