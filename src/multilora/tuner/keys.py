"""Keys of adapters' tensors: as they were before there were leaves, under FSDP1, and names that spoil them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from multilora.errors import InputError

_IN_A_CONTAINER = re.compile(r"(^|\.)multilora_(A|B|scaling)(\.[^.]+)?$")
# In every model, or in PEFT's keys of it.
_OWN_NAMES = frozenset(
    {"base_model", "model", "base_layer", "multilora_A", "multilora_B", "multilora_scaling", "multilora_dropout"}
    | {"weight", "bias", "modules_to_save", "original_module", "token_adapter"}
)
_WRAPPED = "_fsdp_wrapped_module."  # what FSDP1 puts into modules' names, and not into keys


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


def is_wrapped(model: nn.Module) -> bool:
    """Whether FSDP1 has wrapped modules inside the model, so that their names are not those in keys."""
    return any(_WRAPPED in name for name, _ in model.named_modules())


def tensors_of_layers(
    model: nn.Module, layer_type: type[nn.Module], tensors: Mapping[str, Tensor], bias: str
) -> dict[str, Tensor]:
    """Those of a state dict's tensors that belong to adapters on the layers of that type, inside FSDP1's wrappers too.

    Args:
        bias: which biases are trained with them, as in the configuration: "none", "all", or those of the layers.
    """
    names = [name.replace(_WRAPPED, "") for name, module in model.named_modules() if isinstance(module, layer_type)]
    starts = tuple(f"{name}.multilora_".removeprefix(".") for name in names)
    biases = {f"{name}.base_layer.bias".removeprefix(".") for name in names if bias.endswith("_only")}
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key.startswith(starts) or key in biases or (bias == "all" and key.endswith("bias"))
    }
