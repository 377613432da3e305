"""The adapted linear layer: fused forward where the base is a plain linear layer, added low-rank part elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from multilora.tuner.functional import multilora_linear, multilora_low_rank
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.parallel import refuse_divided


class MultiLoraLinear(MultiLoraLayer):
    """A linear layer with MultiLoRA adapters, by name. Base layers: those that `can_adapt` accepts."""

    def _adapted(self, x: Tensor, active: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """(…, d_in) → (…, d_out)."""
        if args or kwargs or not self._base_is_plain_linear() or self._dropout_is_active(active[0]):
            return super()._adapted(x, active, *args, **kwargs)
        base: Any = self.base_layer
        result = multilora_linear(x, base.weight, base.bias, self._factors_at_hand(active[0]))
        for name in active[1:]:
            result = result + self._added(x, name).to(result.dtype)
        return result

    def _added(self, x: Tensor, adapter_name: str) -> Tensor:
        refuse_divided(self.get_base_layer())
        return multilora_low_rank(self.multilora_dropout[adapter_name](x), self._factors_at_hand(adapter_name))

    def get_delta_weight(self, adapter: str) -> Tensor:
        delta = super().get_delta_weight(adapter)
        return delta.t().contiguous() if isinstance(self.get_base_layer(), Conv1D) else delta

    def _dropout_is_active(self, adapter_name: str) -> bool:
        dropout = self.multilora_dropout[adapter_name]
        return dropout.training and isinstance(dropout, nn.Dropout)

    def _base_is_plain_linear(self) -> bool:
        """Whether the base layer's forward is `x Wᵀ + b` and nothing else, so that it may be skipped.

        Not so with hooks: torch's own, global ones, accelerate's (an instance's `forward`, and `_hf_hook`).
        """
        base = self.base_layer
        return (
            type(base) is nn.Linear
            and type(base.weight) in (nn.Parameter, Tensor)
            and "forward" not in base.__dict__
            and "_hf_hook" not in base.__dict__
            and not (base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks)
            and not (
                torch_module._global_forward_hooks
                or torch_module._global_forward_pre_hooks
                or torch_module._global_backward_hooks
                or torch_module._global_backward_pre_hooks
            )
        )


def can_adapt(base_layer: nn.Module) -> bool:
    """Whether a base layer is `nn.Linear`, transformers' `Conv1D` or a quantised linear layer that PEFT knows.

    `nn.MultiheadAttention` reads its output projection's weight and never calls that layer, so an adapter on it would
    be ignored in silence: no. Nor is a subclass of `nn.Linear` that computes something else, such as a router.
    """
    if isinstance(base_layer, NonDynamicallyQuantizableLinear):
        return False
    if isinstance(base_layer, (nn.Linear, Conv1D)) and type(base_layer).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    backend = resolve_quantization_backend(base_layer)
    if backend is not None:
        return backend.layer_type == "linear"
    return isinstance(base_layer, (nn.Linear, Conv1D)) and _maps_rows(base_layer)


@torch.no_grad()
def _maps_rows(layer: nn.Module) -> bool:
    """Whether the layer's own forward makes (2, d_out) of (2, d_in); True where it cannot be tried here."""
    weight = layer.weight
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.numel() or "_hf_hook" in layer.__dict__:
        return True  # divided, packed or offloaded
    if not weight.is_floating_point() or weight.itemsize < 2:
        return True  # with kernels of its own, which this machine may lack
    d_out, d_in = reversed(weight.shape) if isinstance(layer, Conv1D) else weight.shape
    devices = [weight.device] if weight.device.type == "cuda" else []
    forward: Any = type(layer).forward
    try:
        with torch.random.fork_rng(devices):  # a router may draw noise
            output = forward(layer, torch.zeros(2, d_in, dtype=weight.dtype, device=weight.device))
    except Exception:  # what a forward for other shapes does is its own affair
        return False
    return isinstance(output, Tensor) and output.shape == (2, d_out)
