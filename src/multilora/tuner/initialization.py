"""How an adapter's parameters start: one table. A new start is a function, a row of the table and its name.

Variances of A as in LoRA's reference code (Kaiming with a = √5): var(A) = 1 / (3 d_in). B has var(B) = 1 / (3 r) in
the paper's starts (its fan-in is r, one module's rank, not n·r), and is small in the calibrated one: Adam moves every
number by about the learning rate a step, so a B of the usual size keeps its start for hundreds of steps at LoRA's
rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from multilora.tuner.factors import Factors, ScalingFunction

# for type checkers: the names in STARTS
InitWeights = Literal["calibrated", "gaussian", "kaiming_uniform", "orthogonal", "lora"]

SMALL = 0.002  # std of B in the calibrated start: ten steps of Adam at 2e-4


@dataclass(frozen=True)
class Start:
    """One way to start.

    Attributes:
        help: what it does, as a part of a sentence.
        fill: fills lora_A (n·r, d_in) and lora_B (d_out, n·r) in place, given them and r.
        zero: what is zero, so that training starts at the base model: the learned scale, or B, which the scale must
            then not be beside (of both at zero every gradient is zero).
        function: the function of the scale that goes with it.
        linear, tanh: the constant of the scale that goes with it, for each function.
    """

    help: str
    fill: Callable[[Tensor, Tensor, int], None]
    zero: Literal["scaling", "lora_B"] = "scaling"
    function: ScalingFunction = "linear"
    linear: float = 1.0
    tanh: float = 1.0

    def constant(self, function: ScalingFunction) -> float:
        """The constant c that goes with this start and that function."""
        return self.tanh if function == "tanh" else self.linear


def _calibrated(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    nn.init.normal_(lora_A, std=1.0 / math.sqrt(3 * lora_A.shape[1]))
    nn.init.normal_(lora_B, std=SMALL)


def _gaussian(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    nn.init.normal_(lora_A, std=1.0 / math.sqrt(3 * lora_A.shape[1]))
    nn.init.normal_(lora_B, std=1.0 / math.sqrt(3 * r))


def _kaiming_uniform(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    for tensor, fan_in in ((lora_A, lora_A.shape[1]), (lora_B, r)):
        bound = 1.0 / math.sqrt(fan_in)  # U(−b, b) has variance b²/3
        nn.init.uniform_(tensor, -bound, bound)


def _orthogonal(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    for block in lora_A.split(lora_A.shape[1]):  # where there are more rows than dimensions
        nn.init.orthogonal_(block)
    lora_A.mul_(1.0 / math.sqrt(3))
    nn.init.normal_(lora_B, std=1.0 / math.sqrt(3 * r))


def _lora(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    bound = 1.0 / math.sqrt(lora_A.shape[1])
    nn.init.uniform_(lora_A, -bound, bound)
    nn.init.zeros_(lora_B)


STARTS: Mapping[InitWeights, Start] = MappingProxyType(
    {
        "calibrated": Start(
            f"A Gaussian (var 1/(3 d_in)), B Gaussian and small (std {SMALL}), scale zero, for LoRA's learning rates",
            _calibrated,
            function="tanh",
            linear=500.0,
            tanh=2000.0,
        ),
        "gaussian": Start("the paper's: A and B Gaussian (var 1/(3 d_in), 1/(3 r)), scale zero", _gaussian),
        "kaiming_uniform": Start("A and B uniform with the same variances, scale zero", _kaiming_uniform),
        "orthogonal": Start(
            "the rows of all A_i mutually orthonormal, scaled to the same variance; B Gaussian, scale zero", _orthogonal
        ),
        "lora": Start("A Kaiming uniform, B zero; needs scaling='none'", _lora, zero="lora_B"),
    }
)
HELP = (
    "How training starts. "
    + " ".join(f"{name!r}: {start.help}." for name, start in STARTS.items())
    + " True: 'calibrated', or 'lora' where scaling='none'. False: everything random, so the adapted model differs "
    "from the base model from the start (for tests)."
)


def start_of(init_weights: bool | InitWeights, scaling: str) -> InitWeights:
    """The name of the start that `init_weights` means. False, everything random, fills A and B as the paper does."""
    if isinstance(init_weights, str):
        return init_weights
    if not init_weights:
        return "gaussian"
    return "lora" if scaling == "none" else "calibrated"


def scaling_defaults(
    init_weights: bool | InitWeights, scaling: str, function: ScalingFunction | None, constant: float | None
) -> tuple[ScalingFunction, float]:
    """Function and constant of the scale: those given, and where None those that go with the start.

    False has the default start's, so that tensors saved of one fit the other.
    """
    start = STARTS[start_of(init_weights if isinstance(init_weights, str) else True, scaling)]
    function = start.function if function is None else function
    return function, start.constant(function) if constant is None else constant


@torch.no_grad()
def initialize(factors: Factors, r: int, init_weights: bool | InitWeights) -> None:
    """Fill an adapter's parameters in place; those on the meta device, which a file will fill, are left alone.

    Args:
        factors: their scaling becomes zero for every start but False.
        r: the rank of one module.
        init_weights: as in `MultiLoraConfig`; its help text says what each does.
    """
    lora_A, lora_B, scaling = factors.lora_A, factors.lora_B, factors.scaling
    if lora_A.is_meta:
        return
    STARTS[start_of(init_weights, "none" if scaling is None else "learned")].fill(lora_A, lora_B, r)
    if scaling is not None:
        if init_weights is False:
            nn.init.normal_(scaling, std=1.0 / factors.scaling_constant)
        else:
            nn.init.zeros_(scaling)
