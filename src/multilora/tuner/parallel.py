"""Tensor parallelism, which adapters have no part in: refused. FSDP2's divided weights are whole in a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from multilora.errors import InputError

if torch.distributed.is_available():
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
else:
    DTensor = FSDPModule = ()  # of which nothing is an instance


def is_tensor_parallel(layer: nn.Module) -> bool:
    """Whether transformers (`tp_plan`) or torch's `parallelize_module` on a mesh "tp" divided a layer's computation."""
    weight: Any = getattr(layer, "weight", None)
    mesh = getattr(weight, "device_mesh", None)
    return bool(getattr(layer, "_is_hooked", False) or "tp" in (getattr(mesh, "mesh_dim_names", None) or ()))


def refuse_tensor_parallel(layer: nn.Module, name: str | None = None) -> None:
    """Called when a layer is adapted.

    Each process has a part of x or of y there, and the adapter would be computed without the others' parts: outputs
    and gradients would be wrong, and a saved file would hold one process's share.

    Args:
        layer: the base layer.
        name: in the model.

    Raises:
        InputError: the layer is divided so.
    """
    if is_tensor_parallel(layer):
        what = "a layer" if name is None else f"layer {name!r}"
        raise InputError(
            f"{what} is divided among processes by tensor parallelism (tp_plan), which MultiLoRA does not support: "
            "outputs, gradients and saved files would be wrong. Load the model without tp_plan and divide it by FSDP2, "
            "FSDP1 or ZeRO-3 (docs/distributed.md), or merge the adapter (`multilora merge`) and serve the result"
        )


def refuse_divided(layer: nn.Module) -> None:
    """Called in a forward pass, where a weight is divided still only by tensor parallelism that came after the adapter.

    Raises:
        InputError: the weight of the base layer is a DTensor that no FSDP2 gathers.
    """
    if isinstance(getattr(layer, "weight", None), DTensor) and not isinstance(layer, FSDPModule):
        raise InputError(
            "the weight of an adapted layer is a DTensor in the forward pass: it is divided by tensor parallelism, or "
            "by fully_shard on a module whose forward was not called. MultiLoRA does not support the former. For the "
            "latter, call the module that was given to fully_shard (docs/distributed.md)"
        )
