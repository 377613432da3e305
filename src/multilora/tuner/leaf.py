"""One tensor of one adapter as a leaf module, so that its name is as PEFT makes names: `….multilora_A.default.weight`.

Others rely on the name and on the leaf. TRL copies the parameters with `.default.` in their names into its reference
adapter; FSDP1 wraps each trained leaf by itself; ZeRO-3 and offloading gather what the module that is called has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from multilora.errors import InputError

_IN_A_CONTAINER = re.compile(r"(^|\.)multilora_(A|B|scaling)(\.[^.]+)?$")
# In every model, or in PEFT's keys of it.
_OWN_NAMES = frozenset(
    {"base_model", "model", "base_layer", "multilora_A", "multilora_B", "multilora_scaling", "multilora_dropout"}
    | {"weight", "bias", "modules_to_save", "original_module", "token_adapter"}
)


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


def current_key(key: str, adapter_name: str | None = None) -> str:
    """A key of an adapter's tensor as it is now; keys of anything else are returned as they are.

    Before there were leaves, files had `….multilora_A` and models `….multilora_A.default`, without `.weight`.

    Args:
        key: of a file or, with the adapter's name in it, of a model.
        adapter_name: the adapter's name; None: keys with a name in them are not looked for.
    """
    found = _IN_A_CONTAINER.search(key)
    names = [None] if adapter_name is None else [None, f".{adapter_name}"]
    return f"{key}.weight" if found is not None and found[3] in names else key


def check_adapter_name(adapter_name: str, keys: Iterable[str]) -> None:
    """Refuse a name with which the adapter, or another one beside it, would not be saved whole.

    PEFT takes adapters apart by their names in keys: saving one leaves out every key with the other's name between its
    dots, in the base model's part too.

    Args:
        adapter_name: of a new adapter.
        keys: of the model's parameters and buffers, before the adapter is there.

    Raises:
        InputError: the name is empty, has a dot, is an attribute of torch's containers, or a part of a key.
    """
    if not adapter_name or "." in adapter_name:
        raise InputError(f"adapter_name {adapter_name!r} must not be empty or have a dot: it becomes a part of keys")
    if hasattr(nn.ModuleDict(), adapter_name):
        raise InputError(f"adapter_name {adapter_name!r} is a name that torch.nn.ModuleDict uses itself; take another")
    if adapter_name in _OWN_NAMES or any(adapter_name in key.split(".") for key in keys):
        raise InputError(
            f"adapter_name {adapter_name!r} is also the name of a module or parameter in the model, and PEFT would "
            "leave out tensors by that name when it saves an adapter. Take another, such as "
            f"{f'{adapter_name}_adapter'!r}"
        )
