"""DeepSpeed's ZeRO-3, where it is at work: having an adapter's parameters gathered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn


def is_partitioned(parameter: Tensor) -> bool:
    """Whether ZeRO-3 has divided the parameter, so that its storage may be empty."""
    return hasattr(parameter, "ds_id")


def gather_external(layer: nn.Module, parameters: Iterable[Tensor | None]) -> None:
    """Have parameters at hand in a layer's forward pass, and in its backward pass.

    ZeRO-3 gathers those of the module that is called. An adapter's are in a container, which is never called, and are
    external to the layer. Within the engine's own forward pass DeepSpeed notices by itself, but not in `generate` and
    other calls of the model inside.

    Args:
        layer: whose forward pass this is.
        parameters: what it uses beside its own; None is skipped.
    """
    from deepspeed import zero  # pyright: ignore[reportMissingImports] - where it divided parameters it is installed

    for parameter in parameters:
        if parameter is not None and is_partitioned(parameter):
            zero.register_external_parameter(layer, parameter)
            divided = cast(Any, parameter)
            if divided.ds_status.name == "NOT_AVAILABLE":
                divided.all_gather()
