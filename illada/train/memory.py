"""Device memory of one training rank, by part, from the configuration alone.

Follows what `illada.train.parallel` and `illada.model` really do: Megatron's distributed optimizer (weights and float32
gradients on every rank, optimizer state divided over data x context-parallel ranks: 6 + 12/d bytes a parameter in
bfloat16 and 8 + 8/d in float32, as Megatron-Core's user guide has it), no recomputation, sequence parallelism, the 1F1B
pipeline schedule or its interleaved form, attention that keeps no scores, and a head that makes logits in chunks. Every
position counts as masked, as it may be. `illada plan --dry-run` holds these figures against modules really built.
"""

from __future__ import annotations

from dataclasses import dataclass

from illada.config import ModelConfig, Training, TrainPlacement

TILE_LOGITS, KEPT_BYTES = 2**22, 2**28
"""Equal to those of `illada.model.head`, which cannot be read without loading torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """Bytes on one rank, at the peak of a step. `pipeline_stage` says whose, from 0.

    `activations` wait for their backward pass, `boundary` are hidden states and their gradients that pass between
    stages, `gathered` is what the parts of tensor-parallel ranks are put together in. Then the scratch of a backward
    pass: `logits` are those alive in the head, `head_gradient` the rest of what it needs; on stages without a head,
    `layer_gradient` is a layer's: of the FFN's two projections, or hidden states.
    """

    pipeline_stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    boundary: int
    gathered: int
    logits: int
    head_gradient: int
    layer_gradient: int

    @property
    def scratch(self) -> int:
        """What a step needs beside activations."""
        return self.boundary + self.gathered + self.logits + self.head_gradient + self.layer_gradient

    @property
    def total(self) -> int:
        """Everything above; the CUDA context, communication buffers and fragmentation come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.scratch


def rank_memory(model: ModelConfig, training: Training, placement: TrainPlacement) -> RankMemory:
    """Memory of the rank that needs most."""
    stages = [stage_memory(stage, model, training, placement) for stage in range(placement.pipeline)]
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


def layer_activations(model: ModelConfig, tensor: int, context: int = 1) -> float:
    """Elements that the backward pass of one layer needs, per token of a rank, measured by autograd's saved tensors.

    Input and output of both norms (which are fused on CUDA; unfused ones keep more), the joint projection, which the
    value is a view of, rotated query and key, attention's output, and of the FFN the projection, silu(gate), a copy of
    up, and their product: all divided over tensor-parallel ranks. With context parallelism the projection is not kept,
    but key and value of the whole window.
    """
    hidden, kv = model.hidden_size, model.kv_heads * model.head_dim
    attention = 3 * hidden + 3 * kv if context == 1 else 2 * hidden + 2 * kv * context
    return (4 * hidden + attention + 5 * model.ffn_size) / tensor


def in_flight(stage: int, placement: TrainPlacement, micro_batches: int) -> int:
    """Micro-batches whose activations a rank of pipeline stage `stage` keeps, each of one of its virtual stages."""
    after = placement.pipeline - stage
    if placement.virtual == 1:
        return min(after, micro_batches)
    ahead = 2 * (after - 1) + (placement.virtual - 1) * placement.pipeline
    return min(ahead + 1, micro_batches * placement.virtual)


def stage_memory(stage: int, model: ModelConfig, training: Training, placement: TrainPlacement) -> RankMemory:
    """Memory of the ranks of pipeline stage `stage`."""
    half = training.dtype == "bfloat16"
    width = 2 if half else 4
    count = rank_parameters(model, placement, stage)
    tokens = placement.micro_batch * training.window // placement.context
    micro_batches = training.global_batch // (placement.data * placement.micro_batch)
    kept_of = in_flight(stage, placement, micro_batches)
    layers = model.layers // (placement.pipeline * placement.virtual)
    kept = kept_of * layers * layer_activations(model, placement.tensor, placement.context)
    first, last = stage == 0, stage == placement.pipeline - 1
    if last:  # the final norm's input, and of its output what the head is given
        kept += model.hidden_size / placement.tensor + model.hidden_size
    scratch = max(2 * model.ffn_size // placement.tensor, 3 * model.hidden_size)
    boundary = (0 if last else kept_of + 1) + (0 if first else 1)
    if placement.virtual > 1:  # every stage passes on, and one more tensor is on its way each way
        boundary = kept_of + 3
    logits, head_gradient = _head(model.vocab_size // placement.tensor, model.hidden_size, tokens, width)
    return RankMemory(
        pipeline_stage=stage,
        weights=count * width,
        gradients=count * 4,
        optimizer=count * (12 if half else 8) // (placement.data * placement.context),
        activations=round(kept * tokens * width),
        boundary=boundary * model.hidden_size * tokens * width // placement.tensor,
        gathered=model.hidden_size * tokens * width if placement.tensor > 1 else 0,
        logits=logits if last else 0,
        head_gradient=head_gradient if last else 0,
        layer_gradient=0 if last else scratch * tokens * width,
    )


def _head(vocabulary: int, hidden: int, tokens: int, width: int) -> tuple[int, int]:
    """Bytes of logits, and of all else, at the head's peak; see `illada.model.head`.

    That is in the forward pass where the float32 logits of a tile are made and the tiles before it are kept; or in the
    backward pass where the gradients of the weight and, in float32, of the hidden states are begun while all kept tiles
    are there; or at its end, where what targets add to the gradients is made of copies of the hidden states.
    """
    rows = min(vocabulary, max(1, TILE_LOGITS // tokens))
    tile, tiles = rows * tokens, -(-vocabulary // rows)
    everything = vocabulary * tokens * width
    kept = min(everything, KEPT_BYTES // (tile * width) * tile * width)
    made = 0 if width == 4 else tile * 4  # float32 needs no copy in another type
    made += 0 if kept == everything else tile * width
    sums = tiles * tokens * 4
    gradients = vocabulary * hidden * width + tokens * hidden * 4 + sums
    peaks = (
        (kept + made, sums),
        (kept, gradients + tokens * hidden * 4 + (tokens * hidden * width if width == 2 else 0)),
        (kept, gradients + tokens * hidden * 2 * width + rows * hidden * width),
        (0, gradients + tokens * hidden * 2 * 4),
    )
    return max(peaks, key=sum)
