"""What quantised weights take: the layers that bitsandbytes packs, and the bytes that it packs them into."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from peft.tuners.tuners_utils import _get_in_out_features
from torch import nn

from multilora.base.quantization import COMPUTE_DTYPES, quantised_names, refuse_requantising, stored_quantization
from multilora.recipe import QuantizationSection

_BLOCK, _SCALES_BLOCK = 64, 256  # numbers that share a scale; scales that share a scale


@dataclass(frozen=True)
class QuantizedWeights:
    """The quantised weights of a base model.

    Attributes:
        bits: 4 or 8.
        numbers: in all of them.
        bytes: that they take, scales and tables included.
        largest: numbers in the largest one, which is dequantised for each product.
        compute_bytes: of a number that is dequantised; None: as the computation's.
    """

    bits: int
    numbers: int
    bytes: int
    largest: int
    compute_bytes: int | None


def quantized_weights(structure: nn.Module, section: QuantizationSection | None) -> QuantizedWeights | None:
    """The weights that are quantised as the recipe says, or that are stored so; None without any.

    Args:
        structure: the base model, which may be on the meta device.
        section: of the recipe.

    Raises:
        InputError: the model is stored quantised and the recipe quantises it too; or as `quantised_names` and
            `stored_quantization` say.
    """
    refuse_requantising(section, structure.config)
    wanted = section or stored_quantization(structure)
    if wanted is None:
        return None
    shapes = [
        cast(tuple[int, int], _get_in_out_features(structure.get_submodule(name)))
        for name in quantised_names(wanted, structure)
    ]
    if not shapes:  # all are skipped
        return None
    return QuantizedWeights(
        bits=wanted.bits,
        numbers=sum(d_in * d_out for d_in, d_out in shapes),
        bytes=sum(packed_bytes(d_in, d_out, wanted) for d_in, d_out in shapes),
        largest=max(d_in * d_out for d_in, d_out in shapes),
        compute_bytes=COMPUTE_DTYPES[wanted.compute_dtype].itemsize if wanted.compute_dtype else None,
    )


def packed_bytes(d_in: int, d_out: int, section: QuantizationSection) -> int:
    """Bytes of one weight.

    8 bits: a byte for each number, a scale in fp32 for each row. 4 bits: half a byte for each number, a scale in fp32
    for each block of 64, a table of 16 numbers; with double quantisation each scale is a byte, and 256 of them have a
    scale in fp32, beside a table of 256 numbers and their mean.
    """
    numbers = d_in * d_out
    if section.bits == 8:
        return numbers + 4 * d_out
    blocks = math.ceil(numbers / _BLOCK)
    scales = blocks + 4 * math.ceil(blocks / _SCALES_BLOCK) + 4 * 256 + 4 if section.double_quant else 4 * blocks
    return math.ceil(numbers / 2) + scales + 4 * 16
