"""One tensor of one adapter as a leaf module, so that its name is as PEFT makes names: `….multilora_A.default.weight`.

Others rely on the name and on the leaf. TRL copies the parameters with `.default.` in their names into its reference
adapter; FSDP1 wraps each trained leaf by itself; ZeRO-3 and offloading gather what the module that is called has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdapterWeight(nn.Module):
    """A parameter that is all of a module.

    Attributes:
        weight: the tensor, in fp32 whatever torch's default dtype is. PEFT then moves it to the base layer's dtype, or
            keeps fp32.
    """

    weight: nn.Parameter

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, dtype=torch.float32))

    def forward(self) -> Tensor:
        """A copy of the weight, since who gathers it for the call (FSDP, ZeRO-3, offloading) frees it afterwards."""
        return self.weight.clone()

    def extra_repr(self) -> str:
        return f"shape={tuple(self.weight.shape)}"


def at_hand(leaf: nn.Module) -> Tensor:
    """The weight of an adapter's leaf in a forward pass: itself where it lies there, else what calling the leaf gives.

    A call costs microseconds and a copy. It is for leaves that something has taken in hand: wrapped (FSDP1), given
    another class (FSDP2, parametrisations) or hooked (ZeRO-3, accelerate's offloading, torch's own hooks).
    """
    if (
        type(leaf) is AdapterWeight
        and "forward" not in leaf.__dict__
        and not (leaf._forward_pre_hooks or leaf._forward_hooks or leaf._backward_pre_hooks or leaf._backward_hooks)
    ):
        return leaf.weight
    return leaf()
