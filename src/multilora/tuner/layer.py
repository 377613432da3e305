"""The adapted linear layer: a base layer with adapters by name; forward, merge, unmerge, delta weight."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from multilora.errors import InputError
from multilora.tuner.bnb import KeptWeight, keep_unsorted, keep_weight, packed_bits, put_back
from multilora.tuner.factors import Factors
from multilora.tuner.functional import multilora_linear, multilora_low_rank
from multilora.tuner.initialization import InitWeights, initialize
from multilora.tuner.zero3 import gather_external, is_partitioned


class MultiLoraLinear(nn.Module, BaseTunerLayer):
    """A linear layer with MultiLoRA adapters, by name.

    Per adapter: `multilora_A` (n·r, d_in), `multilora_B` (d_out, n·r) and, unless its config says scaling='none',
    `multilora_scaling` (n,) or (n, d_out). Base layers: those that `can_adapt` accepts.
    """

    adapter_layer_names = ("multilora_A", "multilora_B", "multilora_scaling")
    other_param_names = ("multilora_dropout", "r", "num_loras", "lora_alpha", "alpha_over_r")

    def __init__(self, base_layer: nn.Module, adapter_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        base = self.get_base_layer()
        self.quantization_backend = resolve_quantization_backend(
            base, get_apply_tensor_subclass=kwargs.pop("get_apply_tensor_subclass", None)
        )
        keep_unsorted(base)
        # Of a sharded or packed weight too, where the weight's own shape would mislead.
        self.in_features, self.out_features = cast(tuple[int, int], _get_in_out_features(base))
        self.r: dict[str, int] = {}
        self.num_loras: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.alpha_over_r: dict[str, float] = {}
        self.multilora_dropout = nn.ModuleDict()
        self.multilora_A = nn.ParameterDict()
        self.multilora_B = nn.ParameterDict()
        self.multilora_scaling = nn.ParameterDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._kept_weight: KeptWeight | None = None  # the packed base weight while adapters are merged into it
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, **kwargs)

    def update_layer(
        self,
        adapter_name: str,
        *,
        r: int,
        num_loras: int,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        scaling: str = "vector",
        init_weights: bool | InitWeights = True,
        inference_mode: bool = False,
    ) -> None:
        """Add the adapter `adapter_name`, or replace it. Arguments as in `MultiLoraConfig`."""
        self.r[adapter_name] = r
        self.num_loras[adapter_name] = num_loras
        self.lora_alpha[adapter_name] = r if lora_alpha is None else lora_alpha
        self.alpha_over_r[adapter_name] = self.lora_alpha[adapter_name] / r
        self.multilora_dropout[adapter_name] = nn.Dropout(lora_dropout) if lora_dropout else nn.Identity()
        # fp32 whatever torch's default dtype is; PEFT then moves them to the base layer's dtype or keeps fp32.
        self.multilora_A[adapter_name] = _empty(num_loras * r, self.in_features)
        self.multilora_B[adapter_name] = _empty(self.out_features, num_loras * r)
        if scaling == "vector":
            self.multilora_scaling[adapter_name] = _empty(num_loras, self.out_features)
        elif scaling == "scalar":
            self.multilora_scaling[adapter_name] = _empty(num_loras)
        elif adapter_name in self.multilora_scaling:
            del self.multilora_scaling[adapter_name]
        initialize(self.factors(adapter_name), r, init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def factors(self, adapter_name: str) -> Factors:
        """The adapter of that name."""
        return Factors(
            self.multilora_A[adapter_name],
            self.multilora_B[adapter_name],
            self.multilora_scaling.get(adapter_name),
            self.alpha_over_r[adapter_name],
        )

    # Forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, d_in) → (…, d_out), with every active adapter. `adapter_names`: one adapter name per row of x."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed_batch(x, adapter_names, *args, **kwargs)
        active = [] if self.merged else [name for name in self.active_adapters if name in self.multilora_A]
        if not active:
            return self.base_layer(x, *args, **kwargs)
        if not args and not kwargs and self._base_is_plain_linear() and not self._dropout_is_active(active[0]):
            base: Any = self.base_layer
            result = multilora_linear(x, base.weight, base.bias, self.factors(active[0]))
            active = active[1:]
        else:
            result = self.base_layer(x, *args, **kwargs)
        for name in active:
            result = result + self._low_rank(x, name).to(result.dtype)
        return result

    def _low_rank(self, x: Tensor, adapter_name: str) -> Tensor:
        if is_partitioned(self.multilora_A[adapter_name]):  # its shape is that of nothing before it is gathered
            gather_external(self, (getattr(self, kind).get(adapter_name) for kind in self.adapter_layer_names))
        return multilora_low_rank(self.multilora_dropout[adapter_name](x), self.factors(adapter_name))

    def _forward_mixed_batch(self, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        if len(x) != len(adapter_names):
            raise InputError(
                "adapter_names must have one name per row of the batch; got "
                f"{len(adapter_names)} names for {len(x)} rows"
            )
        if self.merged:
            raise InputError(
                f"adapter_names cannot be used while adapters are merged ({self.merged_adapters}); "
                "call unmerge_adapter() first"
            )
        result = self.base_layer(x, *args, **kwargs)
        for name in dict.fromkeys(adapter_names):  # "__base__" and adapters of other layers have no parameters here
            if name in self.multilora_A:
                rows = torch.tensor([i for i, other in enumerate(adapter_names) if other == name], device=x.device)
                result = result.index_add(0, rows, self._low_rank(x[rows], name).to(result.dtype))
        return result

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

    # Merging ----------------------------------------------------------------------------------------------------

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW of one adapter in the base weight's layout, computed in fp32 (fp64 for fp64 parameters).

        (d_out, d_in), or (d_in, d_out) for `Conv1D`.
        """
        delta = self.factors(adapter).delta()
        return delta.t().contiguous() if isinstance(self.get_base_layer(), Conv1D) else delta

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' ΔW to the base weight, in place.

        The sum is formed in fp32 and rounded once to the weight's dtype. A quantised weight is dequantised, and the sum
        quantised anew, which may lose most of ΔW: `multilora.base.quantization.requantization_errors` tells how much.

        Args:
            safe_merge: check the new weight before it replaces the old one.
            adapter_names: the adapters to merge; None: the active ones.

        Raises:
            ValueError: safe_merge, and the merged weight is not finite. The base weight is left as it was.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.multilora_A]
        if not names:
            return
        base = self.get_base_layer()
        merged = weight = self.get_base_weight()
        for name in names:
            merged = self._plus_delta(merged, name, sign=1)
            if safe_merge and not torch.isfinite(merged.to(weight.dtype)).all():
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken: merging it would "
                    "put non-finite numbers into the base weight, which is left as it was"
                )
        if bits := packed_bits(base):
            warnings.warn(
                f"merging into {bits}-bit weights quantises W + ΔW anew, and may lose most of ΔW; "
                "multilora.base.quantization.requantization_errors(model), called before, says how much. Put the "
                "adapter on base.dequantize() and merge there, and nothing is lost",
                stacklevel=2,
            )
        if not self.merged_adapters:
            self._kept_weight = keep_weight(base)
        self.set_base_weight(merged.to(weight.dtype))
        self.merged_adapters += names

    def unmerge(self) -> None:
        """Take every merged ΔW out again.

        A weight that bitsandbytes packed comes back to the bit. From any other weight ΔW is subtracted: in half
        precision it comes back only up to rounding.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        if self._kept_weight is not None:
            put_back(self.get_base_layer(), self._kept_weight)
            self._kept_weight = None
            self.merged_adapters.clear()
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.multilora_A:
                weight = self.get_base_weight()
                self.set_base_weight(self._plus_delta(weight, name, sign=-1).to(weight.dtype))

    @torch.no_grad()
    def _plus_delta(self, weight: Tensor, adapter_name: str, sign: int) -> Tensor:
        """W ± ΔW in the dtype that both promote to, at least fp32."""
        delta = self.get_delta_weight(adapter_name)
        delta = delta.to(weight.device, torch.promote_types(delta.dtype, weight.dtype))
        return delta.mul_(sign).add_(weight)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    # The constant lora_alpha / r, as PEFT's LoRA layer lets it be changed -------------------------------------------

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the adapter's constant to `scale` times `lora_alpha / r`. No effect where the layer lacks the adapter."""
        if adapter in self.alpha_over_r:
            self.alpha_over_r[adapter] = scale * self.lora_alpha[adapter] / self.r[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the constant of every active adapter by `scale`."""
        for name in self.active_adapters:
            if name in self.alpha_over_r:
                self.alpha_over_r[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the constant of every active adapter by `scale`; None: back to `lora_alpha / r`."""
        for name in self.active_adapters:
            if name in self.alpha_over_r:
                if scale is None:
                    self.set_scale(name, 1.0)
                else:
                    self.alpha_over_r[name] /= scale

    def __repr__(self) -> str:
        return "multilora." + super().__repr__()

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)


def can_adapt(base_layer: nn.Module) -> bool:
    """Whether a base layer is `nn.Linear`, transformers' `Conv1D` or a quantised linear layer that PEFT knows.

    `nn.MultiheadAttention` reads its output projection's weight and never calls that layer, so an adapter on it would
    be ignored in silence: no.
    """
    if isinstance(base_layer, NonDynamicallyQuantizableLinear):
        return False
    if isinstance(base_layer, (nn.Linear, Conv1D)):
        return True
    backend = resolve_quantization_backend(base_layer)
    return backend is not None and backend.layer_type == "linear"


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=torch.float32))
