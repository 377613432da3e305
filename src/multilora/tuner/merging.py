"""Merging: ΔW is added to a layer's base weight and taken out again; what is no place for it is refused."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multilora.errors import InputError
from multilora.tuner.quantizers import quantizer_of

ExactUnmerge = bool | Literal["cpu"]

# Of half-precision layers rounding gives less than 0.01; BitNet's, which rounds x and W, was seen at 0.3.
_TOLERANCE = 0.02


class MergeableLayer(nn.Module, BaseTunerLayer):
    """What a layer with adapters by name needs to merge them: ΔW of each, and whether it has one of a name."""

    merged_adapters: list[str]
    exact_unmerge: dict[str, ExactUnmerge]
    _kept_weight: Any  # the base weight as it was before a merge: packed, or kept on request

    def has_adapter(self, adapter: str) -> bool:
        raise NotImplementedError

    def get_delta_weight(self, adapter: str) -> Tensor:
        raise NotImplementedError

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' ΔW to the base weight, in place.

        The sum is formed in fp32 and rounded once to the weight's dtype. A quantised weight is dequantised, and the sum
        quantised anew, which may lose most of ΔW: `multilora.base.quantization.requantization_errors` says how much.

        Args:
            safe_merge: check the new weight before it replaces the old one, and that the layer then computes with it.
            adapter_names: the adapters to merge; None: the active ones.

        Raises:
            InputError: the base layer does not compute with `base_layer.weight` alone; nothing was changed.
            ValueError: safe_merge, and the merged weight is not finite. The base weight is left as it was.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if self.has_adapter(name)]
        if not names:
            return
        base = self.get_base_layer()
        if fault := merge_fault(self, always=safe_merge):  # first: reading a computed weight may change its state
            raise InputError(f"cannot merge {', '.join(map(repr, names))}: {fault}")
        merged = weight = self.get_base_weight()
        for name in names:
            merged = self._plus_delta(merged, name, sign=1)
            if safe_merge and not torch.isfinite(merged.to(weight.dtype)).all():
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken: merging it would "
                    "put non-finite numbers into the base weight, which is left as it was"
                )
        quantizer = quantizer_of(base)
        if quantizer is not None:
            bits = quantizer.packed_bits(base)
            warnings.warn(
                f"merging into {bits}-bit weights quantises W + ΔW anew, and may lose most of ΔW; "
                "multilora.base.quantization.requantization_errors(model), called before, says how much. Put the "
                "adapter on base.dequantize() and merge there, and nothing is lost",
                stacklevel=2,
            )
        if not self.merged_adapters:
            exact = [kind for kind in self.exact_unmerge.values() if kind]
            if quantizer is not None:
                self._kept_weight = quantizer.keep_weight(base)
            elif exact and self.quantization_backend is None:
                # The weight that is replaced, so that keeping it on its device copies nothing.
                self._kept_weight = weight.cpu() if all(kind == "cpu" for kind in exact) else weight
        self.set_base_weight(merged.to(weight.dtype))
        if safe_merge and (fault := merge_fault(self, always=True)):
            self.set_base_weight(weight)
            if not self.merged_adapters:
                self._kept_weight = None
            raise InputError(f"cannot merge {', '.join(map(repr, names))}: with the merged weight {fault}")
        self.merged_adapters += names

    def unmerge(self) -> None:
        """Take every merged ΔW out again.

        A packed weight comes back to the bit, and so does any other under `exact_unmerge`, whatever has become of the
        adapters. From any other weight ΔW is subtracted: in half precision it comes back only up to rounding.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        base = self.get_base_layer()
        if self._kept_weight is not None:
            if (quantizer := quantizer_of(base)) is not None:
                quantizer.put_back(base, self._kept_weight)
            else:
                weight = self.get_base_weight()
                self.set_base_weight(self._kept_weight.to(weight.device, weight.dtype))
            self._kept_weight = None
            self.merged_adapters.clear()
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if self.has_adapter(name):
                weight = self.get_base_weight()
                self.set_base_weight(self._plus_delta(weight, name, sign=-1).to(weight.dtype))

    @torch.no_grad()
    def _plus_delta(self, weight: Tensor, adapter_name: str, sign: int) -> Tensor:
        """W ± ΔW in the dtype that both promote to, at least fp32."""
        delta = self.get_delta_weight(adapter_name)
        delta = delta.to(weight.device, torch.promote_types(delta.dtype, weight.dtype))
        return delta.mul_(sign).add_(weight)


def merge_fault(layer: MergeableLayer, *, always: bool = False) -> str:
    """Why W + ΔW in `base_layer.weight` would not be the adapted layer; "" if it would, as far as can be seen.

    Plain linear layers compute with their weight. Any other is tried with two random rows, in evaluation mode.

    Args:
        layer: not merged in a way that failed.
        always: try a plain linear layer as well.
    """
    if layer.quantization_backend is not None:  # PEFT reads and writes its weight
        return ""
    base = layer.get_base_layer()
    kind = f"the base layer is a {type(base).__module__}.{type(base).__qualname__}"
    remedy = "Keep the adapter unmerged, or leave such layers out when training (exclude_modules)"
    weight = base._parameters.get("weight")
    if weight is None:
        return (
            f"{kind} that computes its weight (weight_norm, another parametrization), so nothing can be added. {remedy}"
        )
    if weight.is_meta:
        return (
            "the base weight is on the meta device (offloaded to disk, or never loaded), so there is nothing to add "
            "to. Load the model without device_map, or merge from its files: `multilora merge`"
        )
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        return (
            f"{kind} with a weight of dtype {str(weight.dtype).removeprefix('torch.')}, which has scales beside it and "
            "cannot hold W + ΔW. Put the adapter on the dequantised model and merge there"
        )
    error = _error(base, weight) if always or not _is_plain(base) else 0.0
    if error > _TOLERANCE:
        return f"{kind} and does not compute x Wᵀ + b with its weight (it is {error:.0%} off). {remedy}"
    return ""


def shared_weights(model: nn.Module) -> list[tuple[str, str]]:
    """(adapted layer, other module) of one base weight: what is merged for the one would change the other."""
    owners: dict[int, list[str]] = {}
    adapted: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, MergeableLayer):
            weight = module.get_base_layer()._parameters.get("weight")
            if weight is not None:
                adapted[id(weight)] = name
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    return [
        (name, other)
        for key, name in adapted.items()
        for other in owners.get(key, ())
        if other != name and not other.startswith(f"{name}.")
    ]


def _is_plain(base: nn.Module) -> bool:
    """A linear layer as torch or transformers made it. (Of accelerate's hooks `forward` is a wrapper.)"""
    return type(base) in (nn.Linear, Conv1D) and ("forward" not in base.__dict__ or "_hf_hook" in base.__dict__)


@torch.no_grad()
def _error(base: nn.Module, weight: Tensor) -> float:
    """‖base(x) − (x Wᵀ + b)‖ / ‖x Wᵀ + b‖ of two random rows; infinite where base gives something else."""
    matrix = (weight.t() if isinstance(base, Conv1D) else weight).float()  # (d_out, d_in)
    x = torch.randn(2, matrix.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    expected = x.float() @ matrix.t()
    if isinstance(bias := getattr(base, "bias", None), Tensor):
        expected = expected + bias.float()
    modes = [(module, module.training) for module in base.modules()]
    base.eval()
    try:
        # accelerate's wrapper would offload the weight that was loaded for merging
        forward = base._old_forward if "_hf_hook" in base.__dict__ else base
        output: Any = forward(x)  # pyright: ignore[reportCallIssue]
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return float("inf")
    return float((output.float() - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float32).tiny))
