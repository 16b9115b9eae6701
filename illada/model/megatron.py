"""The model as a Megatron-Core module: `GPTModel` made bidirectional, with its head on masked positions only.

Megatron owns tensor, sequence and pipeline parallelism, tied embeddings across stages and sharded checkpoints. What is
ours: attention within segments and over context-parallel ranks (`attention`), the head and loss (`head`), and a norm
that carries Megatron's attributes. Tensor-parallel ranks always divide the sequence as well, between the matrices
(arXiv 2205.05198): it costs no communication and saves activations. Weights are left uninitialised: they come from
`weights.load_hf_weights`, so that they do not depend on the layout.

Shapes: b windows of the micro-batch, s tokens of a window on this context-parallel rank, w tokens of the window, h
hidden width, m boundaries of a row, V embedding rows.
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
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from illada.config import ModelConfig
from illada.model.attention import SegmentAttention, Segments
from illada.model.head import tiled_cross_entropy


class DiffusionGPT(GPTModel):
    """One pipeline stage of the model, on one tensor-parallel rank; `virtual` says which, where a rank has several."""

    def __init__(self, model: ModelConfig, config: TransformerConfig, virtual: int | None = None) -> None:
        super().__init__(
            config,
            _block_spec(config, virtual, causal=model.attention == "causal"),
            vocab_size=model.vocab_size,
            max_sequence_length=model.max_positions,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=virtual),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=virtual),
            position_embedding_type="none",
            share_embeddings_and_output_weights=model.tied_embeddings,
            vp_stage=virtual,
        )
        self.architecture = model
        for module in self.modules():
            _mark_sharding(module)

    def forward(
        self, tokens: Tensor, boundaries: Tensor, targets: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Run this stage; inputs other than the first stage's tokens come through `set_input_tensor`.

        Args:
            tokens: int64 [b, s], corrupted: this context-parallel rank's slice of windows, see `context_slice`.
            boundaries: int32 [b, m] of whole windows: 0, then ends of segments, the last of them w, maybe repeated.
            targets: int64 [b, s], the clean tokens; read where `mask` is true.
            mask: bool [b, s], the positions to predict; needed with `targets`.

        Returns:
            Last stage: float32 [n] cross-entropy in nats of the masked positions in row-major (b, s) order, or with
            `targets` None the logits [b, s, V]. Other stages: hidden states [s / tensor-parallel ranks, b, h].
        """
        context = self.cp_group
        length = tokens.shape[1] * context.size()
        if length > self.architecture.max_positions:
            raise ValueError(
                f"window of {length} tokens is longer than max_positions {self.architecture.max_positions}"
            )
        segments = Segments.of(
            boundaries,
            length,
            self.architecture.head_dim,
            self.architecture.rope_theta,
            self.config.params_dtype,
            (context.rank(), context.size()),
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
        if self.config.sequence_parallel:  # its backward pass sums what each slice of the vocabulary adds
            hidden_states = gather_from_sequence_parallel_region(hidden_states, group=self.tp_group)
        rows, columns = loss_mask.nonzero(as_tuple=True)
        picked = hidden_states.flatten(0, 1).index_select(0, columns * loss_mask.shape[0] + rows)
        return tiled_cross_entropy(picked, weight, labels[rows, columns], self.tp_group)


class RMSNorm(torch.nn.RMSNorm):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32, with the constructor Megatron's specs call.

    Where the sequence is divided, so is the weight's gradient: Megatron sums what is marked so over tensor ranks.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def build_module(config: ModelConfig, *, dtype: torch.dtype) -> DiffusionGPT:
    """`build_modules` in a layout without virtual stages."""
    (module,) = build_modules(config, dtype=dtype)
    return module


def build_modules(config: ModelConfig, *, dtype: torch.dtype) -> list[DiffusionGPT]:
    """This rank's parts of the model, one for each virtual pipeline stage in their order, weights uninitialised.

    The layout is read from Megatron's `parallel_state`.

    Raises:
        ValueError: the layout does not divide the model.
    """
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    pipeline = parallel_state.get_pipeline_model_parallel_world_size()
    virtual = parallel_state.get_virtual_pipeline_model_parallel_world_size()
    for name, size, parts in (
        ("kv_heads", config.kv_heads, tensor),
        ("ffn_size", config.ffn_size, tensor),
        ("vocab_size", config.vocab_size, tensor),
        ("layers", config.layers, pipeline * (virtual or 1)),
    ):
        if size % parts:
            raise ValueError(f"{name} {size} cannot be divided over {parts} ranks; choose another layout")
    if config.attention == "causal" and parallel_state.get_context_parallel_world_size() > 1:
        raise ValueError("causal attention is not divided over context-parallel ranks; choose another layout")
    # Without dropout nothing is random: a tracker that tracks nothing, as CUDA's generators may not be there.
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    megatron = _transformer_config(config, dtype)
    modules = [DiffusionGPT(config, megatron, stage) for stage in (range(virtual) if virtual else (None,))]
    # made on the CPU, where fake tensors have to stay
    return [module.cuda() for module in modules] if torch.cuda.is_available() else modules


def context_slice(window: int) -> slice:
    """The tokens of a window of `window` that this context-parallel rank has.

    Raises:
        ValueError: there are not equally many for each rank, and of those for each tensor-parallel rank.
    """
    size, rank = parallel_state.get_context_parallel_world_size(), parallel_state.get_context_parallel_rank()
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    if window % (size * tensor):
        raise ValueError(
            f"window of {window} tokens cannot be divided over {size} context x {tensor} tensor-parallel ranks"
        )
    return slice(rank * (window // size), (rank + 1) * (window // size))


def _transformer_config(config: ModelConfig, dtype: torch.dtype) -> TransformerConfig:
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    virtual = parallel_state.get_virtual_pipeline_model_parallel_world_size()
    return TransformerConfig(
        num_layers=config.layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.heads,
        num_query_groups=config.kv_heads,
        ffn_hidden_size=config.ffn_size,
        tensor_model_parallel_size=tensor,
        sequence_parallel=tensor > 1,
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        virtual_pipeline_model_parallel_size=virtual,
        overlap_p2p_comm=virtual is not None,  # not all at once: two ranks would take activations for gradients
        batch_p2p_comm=virtual is None,
        context_parallel_size=parallel_state.get_context_parallel_world_size(),
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


def _block_spec(config: TransformerConfig, virtual: int | None, *, causal: bool) -> TransformerBlockSubmodules:
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    mask = AttnMaskType.causal if causal else AttnMaskType.no_mask
    layer.submodules.self_attention.params = {"attn_mask_type": mask}
    layer.submodules.self_attention.submodules.core_attention = SegmentAttention
    layers = [layer] * get_num_layers_to_build(config, virtual)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def _mark_sharding(module: torch.nn.Module) -> None:
    """Set what Megatron's own initialisation would have set: without it, gradient norms count only rank 0's shards."""
    sharded = isinstance(module, (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding))
    if sharded and module.weight is not None:
        dim = 1 if isinstance(module, RowParallelLinear) else 0
        set_tensor_model_parallel_attributes(module.weight, True, dim, 1)
