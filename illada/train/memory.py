"""Device memory of one training rank, by part, from the configuration alone.

Follows what `illada.train.parallel` and `illada.model` really do: Megatron's distributed optimizer (weights and float32
gradients on every rank, optimizer state divided over data-parallel ranks: 6 + 12/d bytes a parameter in bfloat16 and
8 + 8/d in float32, as Megatron-Core's user guide has it), no recomputation, no sequence parallelism, the 1F1B pipeline
schedule, attention that keeps no scores, and a head that makes logits in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

from illada.config import ModelConfig, Training, TrainPlacement

CHUNK_LOGITS = 2**25
"""Logits alive at once; equal to `illada.model.head.CHUNK_LOGITS`, which cannot be read without loading torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """Bytes on the fullest rank. `pipeline_stage` says which one that is, from 0.

    `logits` is one chunk of them, `head_gradient` the scratch its weight gradient is summed in.
    """

    pipeline_stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    head_gradient: int

    @property
    def total(self) -> int:
        """Everything above; the CUDA context, communication buffers and fragmentation come on top."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits, self.head_gradient)
        return sum(parts)


def rank_memory(model: ModelConfig, training: Training, placement: TrainPlacement) -> RankMemory:
    """Memory of the rank that needs most."""
    stages = [_stage(stage, model, training, placement) for stage in range(placement.pipeline)]
    return max(stages, key=lambda memory: memory.total)


def rank_parameters(model: ModelConfig, placement: TrainPlacement, stage: int) -> int:
    """Parameters of one tensor-parallel rank in pipeline stage `stage`.

    Matrices and embeddings are divided over tensor-parallel ranks, norms are not. With a pipeline the last stage holds
    the output embedding, a copy of the input embedding where they are tied.
    """
    hidden = model.hidden_size
    matrices = 2 * hidden * hidden + 2 * hidden * model.kv_heads * model.head_dim + 3 * hidden * model.ffn_size
    embedding = model.vocab_size // placement.tensor * hidden
    count = model.layers // placement.pipeline * (matrices // placement.tensor + 2 * hidden)
    first, last = stage == 0, stage == placement.pipeline - 1
    if first:
        count += embedding
    if last:
        count += hidden
        if not (first and model.tied_embeddings):
            count += embedding
    return count


def layer_activations(model: ModelConfig, tensor: int) -> float:
    """Elements that the backward pass of one layer needs, per token, as measured with autograd's saved tensors.

    On every rank: input and output of both norms (which are fused on CUDA; unfused ones keep more). Divided over
    tensor-parallel ranks: the joint projection, which the value is a view of, rotated query and key, attention's
    output, and of the FFN the projection, silu(gate), a copy of up, and their product.
    """
    hidden, kv = model.hidden_size, model.kv_heads * model.head_dim
    return 4 * hidden + (3 * hidden + 3 * kv + 5 * model.ffn_size) / tensor


def _stage(stage: int, model: ModelConfig, training: Training, placement: TrainPlacement) -> RankMemory:
    half = training.dtype == "bfloat16"
    width = 2 if half else 4
    count = rank_parameters(model, placement, stage)
    tokens = placement.micro_batch * training.window
    micro_batches = training.global_batch // (placement.data * placement.micro_batch)
    in_flight = min(placement.pipeline - stage, micro_batches)
    layers = model.layers // placement.pipeline
    vocabulary = model.vocab_size // placement.tensor
    last = stage == placement.pipeline - 1
    chunk = min(max(vocabulary, CHUNK_LOGITS), tokens * vocabulary) if last else 0
    return RankMemory(
        pipeline_stage=stage,
        weights=count * width,
        gradients=count * 4,
        optimizer=count * (12 if half else 8) // placement.data,
        activations=round(layers * layer_activations(model, placement.tensor) * tokens * width * in_flight),
        logits=chunk * (6 if half else 4),
        head_gradient=vocabulary * model.hidden_size * 8 if last else 0,
    )
