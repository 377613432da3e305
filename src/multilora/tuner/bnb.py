"""Weights that bitsandbytes packs into 4 or 8 bits: kept as they are, counted, packed anew, and put back.

The functions of `multilora.tuner.quantizers.Quantizer`, for bitsandbytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft.import_utils import is_bnb_available
from torch import Tensor, nn


def packed_bits(layer: nn.Module) -> int | None:
    """4 or 8 for a linear layer of bitsandbytes; None for any other module."""
    if not is_bnb_available():
        return None
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return 4 if isinstance(layer, Linear4bit) else 8 if isinstance(layer, Linear8bitLt) else None


def prepare(model: nn.Module) -> None:
    """Let no 4-bit layer of a model sort its weight for evaluation, and undo it where that has happened.

    At the first forward in eval mode on a CPU with AVX512-BF16, bitsandbytes sorts a 4-bit weight for its kernel, in
    place, and rounds the scales to bf16. From then on no gradient passes through the layer, merging and saving read
    numbers in the wrong order; and if d_out is no multiple of 32, or d_in no multiple of the block, that forward fails.
    Unsorted, a layer computes `x Wᵀ` with the dequantised W to the bit, in evaluation as in training.
    """
    for module in model.modules():
        if packed_bits(module) == 4:
            layer: Any = module
            layer.support_avx512bf16_for_cpu = False
            if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
                _undo_sorting(layer)


def _undo_sorting(layer: Any) -> None:
    from bitsandbytes import functional

    weight = layer.weight
    weight.data, state = functional._convert_weight_packed_for_cpu_inverse(weight.data, weight.quant_state)
    if state.absmax.dim() == 2:  # (d_in / block, d_out): without double quantisation it is left sorted
        state.absmax = state.absmax.t().reshape(-1).float()
    layer.quant_state = state


def packed_count(parameter: Tensor) -> int | None:
    """Numbers in a packed 4-bit weight, which has several in each element that it stores; None for any other."""
    state = getattr(parameter, "quant_state", None)  # an attribute of bitsandbytes' own parameters
    return None if state is None else state.shape.numel()


def packed_tensors(model: nn.Module) -> list[Tensor]:
    """Every tensor that the packed weights of a model consist of: numbers, scales and their tables."""
    found: list[Tensor] = []
    for module in model.modules():
        layer: Any = module
        bits = packed_bits(module)
        if bits == 8:
            found += [layer.weight.data, _scales(layer)]
        elif bits == 4:
            state = layer.weight.quant_state
            found += [layer.weight.data, state.absmax, state.code]
            if state.nested:
                found += [state.offset, state.state2.absmax, state.state2.code]
    return found


def repacked(layer: nn.Module, weight: Tensor) -> Tensor:
    """What becomes of a weight that a layer packs: quantised as the layer's own weight is, and dequantised again.

    Args:
        layer: a linear layer of bitsandbytes.
        weight: (d_out, d_in), floating point.

    Returns:
        (d_out, d_in), in the dtype of `weight` for 4 bits, in fp32 for 8 bits.
    """
    from bitsandbytes import functional

    own: Any = layer.weight
    if packed_bits(layer) == 8:
        numbers, scales, _ = functional.int8_vectorwise_quant(weight.half())
        return functional.int8_vectorwise_dequant(numbers, scales)
    packed, state = functional.quantize_4bit(
        weight.contiguous(),
        blocksize=own.blocksize,
        compress_statistics=own.compress_statistics,
        quant_type=own.quant_type,
        quant_storage=own.quant_storage,
    )
    return functional.dequantize_4bit(packed, state)


@dataclass(frozen=True)
class KeptWeight:
    """A packed weight as it was before a merge.

    Attributes:
        weight: the parameter of a 4-bit layer; of an 8-bit one its numbers, (d_out, d_in).
        scales: (d_out,) of an 8-bit layer.
    """

    weight: Any
    scales: Tensor | None


def keep_weight(layer: nn.Module) -> KeptWeight:
    """The packed weight of a layer of bitsandbytes, for `put_back`."""
    own: Any = layer
    if packed_bits(layer) == 4:
        return KeptWeight(own.weight, None)
    return KeptWeight(own.weight.data, _scales(own))


def put_back(layer: nn.Module, kept: KeptWeight) -> None:
    """Give a layer the packed weight that it had, on the device where the layer is now."""
    import bitsandbytes

    own: Any = layer
    device = own.weight.device
    if kept.scales is None:
        kept.weight.bnb_quantized = True  # PEFT takes that from the parameter whose weight it replaces
        own.weight = kept.weight if kept.weight.device == device else kept.weight.to(device)
        own.quant_state = own.weight.quant_state
    else:
        numbers, scales = kept.weight.to(device), kept.scales.to(device)
        parameter: Any = bitsandbytes.nn.Int8Params
        own.weight = parameter(
            numbers, requires_grad=False, has_fp16_weights=own.weight.has_fp16_weights, CB=numbers, SCB=scales
        )
        own.state.reset_grads()


def _scales(layer: Any) -> Tensor:
    """(d_out,) of an 8-bit layer, whose first forward moves them from the weight to the state."""
    return layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
