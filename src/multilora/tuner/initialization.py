"""How an adapter's parameters start. Every init but `False` leaves the adapted model equal to the base model.

Variances as in LoRA's reference code (Kaiming with a = √5): var(A) = 1 / (3 d_in), var(B) = 1 / (3 r). The fan-in of B
is r, one module's rank, not n·r.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from multilora.tuner.factors import Factors


@torch.no_grad()
def initialize(factors: Factors, r: int, init_weights: bool | str) -> None:
    """Fill an adapter's parameters in place.

    Args:
        factors: their scaling becomes zero for every init but False.
        r: the rank of one module.
        init_weights: as in `MultiLoraConfig`; its help text says what each does.
    """
    lora_A, lora_B, scaling = factors.lora_A, factors.lora_B, factors.scaling
    if lora_A.is_meta:  # to be loaded from a file
        return
    if init_weights is True:
        init_weights = "lora" if scaling is None else "gaussian"
    d_in = lora_A.shape[1]
    std_A, std_B = 1.0 / math.sqrt(3 * d_in), 1.0 / math.sqrt(3 * r)
    bound_A, bound_B = 1.0 / math.sqrt(d_in), 1.0 / math.sqrt(r)  # U(−b, b) has variance b²/3

    if init_weights in ("kaiming_uniform", "lora"):
        nn.init.uniform_(lora_A, -bound_A, bound_A)
    elif init_weights == "orthogonal":
        _orthonormal_rows(lora_A)
        lora_A.mul_(1.0 / math.sqrt(3))
    else:
        nn.init.normal_(lora_A, std=std_A)

    if init_weights == "lora":
        nn.init.zeros_(lora_B)
    elif init_weights == "kaiming_uniform":
        nn.init.uniform_(lora_B, -bound_B, bound_B)
    else:
        nn.init.normal_(lora_B, std=std_B)

    if scaling is not None:
        if init_weights is False:
            nn.init.normal_(scaling)
        else:
            nn.init.zeros_(scaling)


def _orthonormal_rows(lora_A: Tensor) -> None:
    """Mutually orthonormal rows, in blocks of d_in rows where there are more rows than dimensions."""
    for block in lora_A.split(lora_A.shape[1]):
        nn.init.orthogonal_(block)
