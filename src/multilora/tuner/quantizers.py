"""Quantisers whose packed weights are kept, counted, packed anew and put back: one table of backends.

A backend is a module with the functions of `Quantizer`. Layers of quantisers that are not in the table are adapted and
merged as PEFT does it alone (`peft.utils.resolve_quantization_backend`).
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from multilora.tuner import bnb


class Quantizer(Protocol):
    """What a backend offers. All functions but the last take base layers."""

    def packed_bits(self, layer: nn.Module) -> int | None:
        """Bits of a number in the layer's weight; None for a layer that is not this backend's."""
        ...

    def prepare(self, model: nn.Module) -> None:
        """Keep the layers of a model from changing their packed weights by themselves. No effect on other layers."""
        ...

    def keep_weight(self, layer: nn.Module) -> Any:
        """The packed weight as it is, for `put_back`."""
        ...

    def put_back(self, layer: nn.Module, kept: Any) -> None:
        """Give a layer the packed weight that it had, on the device where the layer is now."""
        ...

    def repacked(self, layer: nn.Module, weight: Tensor) -> Tensor:
        """A weight (d_out, d_in) quantised as the layer's own is, and dequantised again."""
        ...

    def packed_count(self, parameter: Tensor) -> int | None:
        """Numbers in a packed parameter; None for one that is not packed by this backend."""
        ...


QUANTIZERS: tuple[Quantizer, ...] = (bnb,)


def quantizer_of(layer: nn.Module) -> Quantizer | None:
    """The backend that packed a layer's weight; None if the weight is not packed, or not by one of the table."""
    return next((backend for backend in QUANTIZERS if backend.packed_bits(layer) is not None), None)


def packed_bits(layer: nn.Module) -> int | None:
    """Bits of a number in a layer's weight; None if it is not packed."""
    backend = quantizer_of(layer)
    return None if backend is None else backend.packed_bits(layer)


def prepare(model: nn.Module) -> None:
    """Keep the layers of a model from changing their packed weights by themselves, whatever packed them."""
    for backend in QUANTIZERS:
        backend.prepare(model)


def parameter_count(parameter: Tensor) -> int:
    """Numbers in a parameter, of which a packed one may have several in each element that it stores."""
    counts = (backend.packed_count(parameter) for backend in QUANTIZERS)
    return next((count for count in counts if count is not None), parameter.numel())
