"""A run's memory on each device, part by part, at the moments of a training step that may be its peak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from multilora.recipe import FullMethod, Recipe
from multilora.resources.blocks import Block, Computation, decoder_blocks
from multilora.resources.parameters import BYTES_TRAINED, Parameters
from multilora.resources.quantized import QuantizedWeights

# TRL projects onto the vocabulary in tiles of so many tokens and ids (`trl.kernels.chunked_logprob`).
_TILE_TOKENS, _TILE_IDS = 4096, 32768
# Assumed, not measured: what the driver and the libraries take of a GPU, and what its allocator cannot use.
CONTEXT_BYTES, FRAGMENTATION = 2**30, 0.05


@dataclass(frozen=True)
class Workload:
    """A training step on one of several equal devices.

    Attributes:
        how: the computation of one forward and backward pass.
        gradient_checkpointing: blocks keep their input alone and run again in backward.
        accumulates: a step has several passes.
        devices: that train together.
        sharded: weights, gradients and optimizer state are divided among them.
    """

    how: Computation
    gradient_checkpointing: bool
    accumulates: bool
    devices: int
    sharded: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Workload:
        """The recipe's step at its largest: every row has max_length tokens, or is a packed row."""
        training, hardware, method = recipe.training, recipe.hardware, recipe.method
        return cls(
            Computation(
                method=method.name,
                bf16=training.precision == "bf16",
                dropout=not isinstance(method, FullMethod) and method.lora_dropout > 0,
                rows=training.batch_size,
                length=training.row_length if training.packing else training.max_length,
                masked=training.packing or training.batch_size > 1,  # a single row has no padding
                gpu=hardware.device == "gpu",
            ),
            gradient_checkpointing=training.gradient_checkpointing,
            accumulates=training.gradient_accumulation > 1,
            devices=hardware.devices,
            sharded=hardware.sharding == "full",
        )


@dataclass(frozen=True)
class Moment:
    """A moment of a step.

    Attributes:
        name: when it is.
        parts: bytes on a device, by part: base_weights, quantized_weights (which the former are without),
            adapter_weights, optimizer_state, between_devices, gradients, activations, weights_in_bf16, output_and_loss,
            working, dequantized_weight; those that are not zero.
    """

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Memory:
    """What a step takes on each device.

    Attributes:
        moments: of the step, in its order.
        gpu: there is an overhead beside the tensors.
        activations_known: False: what is kept for backward is left out, as the blocks are not as Llama has them.
    """

    moments: tuple[Moment, ...]
    gpu: bool
    activations_known: bool

    @property
    def peak(self) -> Moment:
        """The moment with the most bytes."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def overhead(self) -> int:
        """Bytes beside the tensors, by assumption."""
        return CONTEXT_BYTES + round(FRAGMENTATION * self.peak.total) if self.gpu else 0

    @property
    def total(self) -> int:
        """Bytes at the peak, overhead included."""
        return self.peak.total + self.overhead


@dataclass(frozen=True)
class ModelSizes:
    """What of a model its memory depends on.

    Attributes:
        parameters: its counts.
        blocks: its decoder blocks; None: they are not as Llama has them.
        hidden, vocabulary: sizes of the output layer.
        quantized: its quantised weights; None without any.
    """

    parameters: Parameters
    blocks: Sequence[Block] | None
    hidden: int
    vocabulary: int
    quantized: QuantizedWeights | None = None

    @classmethod
    def of(cls, model: nn.Module, parameters: Parameters, quantized: QuantizedWeights | None = None) -> ModelSizes:
        """From a base model, which may be on the meta device, its counts, and what of it is quantised."""
        config = cast(Any, model).config.get_text_config()
        blocks = decoder_blocks(model, parameters.adapters)
        return cls(parameters, blocks, config.hidden_size, config.vocab_size, quantized)


def estimate(model: ModelSizes, work: Workload) -> Memory:
    """The bytes on each device in a training step that is not the first, so that AdamW's state is there.

    Not counted: loading, validation, saving, and what one of torch's kernels allocates for itself.
    """
    how, full, checkpointing = work.how, work.how.method == "full", work.gradient_checkpointing
    parameters, blocks, quantized = model.parameters, model.blocks or (), model.quantized
    share = work.devices if work.sharded else 1
    trained = _divided(parameters.trainable * BYTES_TRAINED, share)
    always = {
        "base_weights": _divided(
            (parameters.base_total - (quantized.numbers if quantized else 0)) * (4 if full else how.bytes), share
        ),
        "quantized_weights": _divided(quantized.bytes, share) if quantized else 0,
        "adapter_weights": _divided(parameters.added * BYTES_TRAINED, share),
        "optimizer_state": 2 * trained,
    }
    if work.devices > 1:
        always["between_devices"] = _gathered(model, how) if work.sharded else trained  # DDP's buckets

    # Below the lowest adapter nothing needs a gradient, and nothing is kept.
    lowest = 0 if full else next((i for i, block in enumerate(blocks) if block.adapters), len(blocks))
    kept = [block.kept(how) for block in blocks[lowest:]]
    one = max(kept, default=0)
    working = max((block.working(how) for block in blocks[lowest:]), default=0)
    inputs = len(blocks) * how.tokens * model.hidden * how.stream_bytes + (how.tokens * how.length if how.masked else 0)
    # The last norm's input and, where it is trained, its product; the loss's input.
    end = how.tokens * model.hidden * ((8 if full else 4) + how.stream_bytes)

    # Autocast keeps what it casts until its block ends, and backward keeps what it needs; FSDP casts what it gathers.
    casts = 2 * sum(block.linear_weights for block in blocks) if full and how.bf16 and not work.sharded else 0
    casts_kept = 0 if checkpointing else casts
    before = trained if work.accumulates else 0  # gradients of the passes before
    of_head = before or (_divided(BYTES_TRAINED * model.hidden * model.vocabulary, share) if full else 0)
    tiles, tiles_backward = _loss(model, how)
    dequantized = quantized.largest * (quantized.compute_bytes or how.bytes) if quantized else 0
    in_block = {"working": working, "dequantized_weight": dequantized}

    def moment(name: str, gradients: int, activations: int, **others: int) -> Moment:
        parts = {**always, "gradients": gradients, "activations": activations, **others}
        return Moment(name, {part: size for part, size in parts.items() if size})

    if checkpointing and quantized and quantized.bits == 8:  # bitsandbytes keeps these out of autograd's sight
        inputs += sum(block.inputs(how) for block in blocks[lowest:])
    until_loss = end + (inputs if checkpointing else sum(kept))
    in_backward = inputs + one if checkpointing else sum(kept)
    moments = (
        moment("the loss", before, until_loss, weights_in_bf16=casts, output_and_loss=tiles),
        moment("the loss's backward", of_head, until_loss, weights_in_bf16=casts_kept, output_and_loss=tiles_backward),
        moment("the last block's backward", of_head, in_backward, weights_in_bf16=casts_kept, **in_block),
        moment("the first block's backward", trained, one, **in_block),
        moment("the optimizer's step", trained, 0),
    )
    return Memory(moments, how.gpu, model.blocks is not None)


def _loss(model: ModelSizes, how: Computation) -> tuple[int, int]:
    """Bytes of the tiles of logits in the loss's forward; in its backward, with its input's gradient in fp32."""
    tokens = min(how.tokens, _TILE_TOKENS)
    product = tokens * _TILE_IDS * how.bytes  # of the full width, whatever the vocabulary
    # On a GPU a kernel works inside the product; torch's operations make 3 and 7 tiles in fp32, and one of booleans.
    tile = 0 if how.gpu else tokens * min(model.vocabulary, _TILE_IDS)
    return product + (3 * 4 + 1) * tile, product + (7 * 4 + 1) * tile + 4 * how.tokens * model.hidden


def _gathered(model: ModelSizes, how: Computation) -> int:
    """What a device gathers for a while when weights are sharded: two blocks; embeddings, norms and output layer; one
    block's gradients before they are divided. Reckoned from what FSDP2 gathers together, not measured on a GPU.
    """
    blocks = model.blocks or ()
    largest = max((block.parameters for block in blocks), default=0)
    adapters = max((block.trained for block in blocks), default=0)
    outside = model.parameters.base_total - sum(block.parameters for block in blocks)
    gathered = how.bytes * (2 * largest + outside) + 2 * BYTES_TRAINED * adapters
    return gathered + BYTES_TRAINED * (largest if how.method == "full" else adapters)


def _divided(size: int, share: int) -> int:
    return math.ceil(size / share)
