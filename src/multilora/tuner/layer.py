"""Adapted layers in general: a base layer with adapters by name; forward, merge, unmerge, mixed batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import _get_in_out_features
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import Tensor, nn

from multilora.errors import InputError
from multilora.tuner.factors import Factors, ScalingFunction
from multilora.tuner.initialization import InitWeights, initialize
from multilora.tuner.keys import current_key
from multilora.tuner.leaf import AdapterWeight, at_hand
from multilora.tuner.merging import ExactUnmerge, MergeableLayer
from multilora.tuner.quantizers import prepare


class MultiLoraLayer(MergeableLayer):
    """A base layer with MultiLoRA adapters, by name: what every kind of adapted layer has in common.

    Per adapter: `multilora_A` (n·r, d_in), `multilora_B` (d_out, n·r) and, unless its config says scaling='none',
    `multilora_scaling` (n,) or (n, d_out), each the `weight` of a leaf module. A kind of layer is a subclass that says
    in `_added` what an adapter adds to the base layer's output; where its weight is laid out otherwise it overrides
    `parameter_shapes` and `get_delta_weight` as well. `multilora.tuner.model.LAYER_TYPES` lists the kinds.
    """

    adapter_layer_names = ("multilora_A", "multilora_B", "multilora_scaling")
    other_param_names = (
        "multilora_dropout",
        "r",
        "num_loras",
        "lora_alpha",
        "alpha_over_r",
        "scaling_kind",
        "scaling_function",
        "scaling_constant",
        "exact_unmerge",
    )

    def __init__(self, base_layer: nn.Module, adapter_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        base = self.get_base_layer()
        self.quantization_backend = resolve_quantization_backend(
            base, get_apply_tensor_subclass=kwargs.pop("get_apply_tensor_subclass", None)
        )
        prepare(base)
        # Of a sharded or packed weight too, where the weight's own shape would mislead.
        self.in_features, self.out_features = cast(tuple[int, int], _get_in_out_features(base))
        self.r: dict[str, int] = {}
        self.num_loras: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.alpha_over_r: dict[str, float] = {}
        self.scaling_kind: dict[str, str] = {}  # "vector", "scalar" or "none"
        self.scaling_function: dict[str, ScalingFunction] = {}
        self.scaling_constant: dict[str, float] = {}
        self.multilora_dropout = nn.ModuleDict()
        self.multilora_A = nn.ModuleDict()
        self.multilora_B = nn.ModuleDict()
        self.multilora_scaling = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.exact_unmerge: dict[str, ExactUnmerge] = {}
        self._kept_weight = None
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
        scaling_function: ScalingFunction = "linear",
        scaling_constant: float = 1.0,
        init_weights: bool | InitWeights = True,
        exact_unmerge: ExactUnmerge = False,
        inference_mode: bool = False,
    ) -> None:
        """Add the adapter `adapter_name`, or replace it. Arguments as in `MultiLoraConfig`."""
        self.r[adapter_name] = r
        self.num_loras[adapter_name] = num_loras
        self.exact_unmerge[adapter_name] = exact_unmerge
        self.scaling_kind[adapter_name] = scaling
        self.set_constants(adapter_name, lora_alpha, scaling_function, scaling_constant)
        self.multilora_dropout[adapter_name] = nn.Dropout(lora_dropout) if lora_dropout else nn.Identity()
        shapes = self.parameter_shapes(r, num_loras, scaling)
        for kind in self.adapter_layer_names:
            leaves: nn.ModuleDict = getattr(self, kind)
            if kind in shapes:
                leaves[adapter_name] = AdapterWeight(shapes[kind])
            elif adapter_name in leaves:
                del leaves[adapter_name]
        initialize(self.factors(adapter_name), r, init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def parameter_shapes(self, r: int, num_loras: int, scaling: str) -> dict[str, tuple[int, ...]]:
        """Shapes of an adapter's tensors, by the names in `adapter_layer_names`."""
        shapes: dict[str, tuple[int, ...]] = {
            "multilora_A": (num_loras * r, self.in_features),
            "multilora_B": (self.out_features, num_loras * r),
        }
        if scaling != "none":
            shapes["multilora_scaling"] = (num_loras, self.out_features) if scaling == "vector" else (num_loras,)
        return shapes

    def factors(self, adapter_name: str) -> Factors:
        """The adapter of that name: its parameters themselves. Under FSDP1 and ZeRO-3 these may be empty."""
        A, B, scale = self._leaves(adapter_name)
        return self._factors(adapter_name, A.weight, B.weight, None if scale is None else scale.weight)

    def _factors_at_hand(self, adapter_name: str) -> Factors:
        """The adapter of that name in a forward pass: whole, whoever has divided or moved its parameters."""
        A, B, scale = self._leaves(adapter_name)
        return self._factors(adapter_name, at_hand(A), at_hand(B), None if scale is None else at_hand(scale))

    def _factors(self, adapter_name: str, lora_A: Tensor, lora_B: Tensor, scaling: Tensor | None) -> Factors:
        return Factors(
            lora_A,
            lora_B,
            scaling,
            self.alpha_over_r[adapter_name],
            self.scaling_function[adapter_name],
            self.scaling_constant[adapter_name],
        )

    def _leaves(self, adapter_name: str) -> tuple[Any, Any, Any]:
        scale: Any = self.multilora_scaling._modules.get(adapter_name)  # a ModuleDict has no `get`
        return self.multilora_A[adapter_name], self.multilora_B[adapter_name], scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """State dicts of whole models too may be from before there were leaves."""
        for key in [key for key in state_dict if key.startswith(f"{prefix}multilora_")]:
            if (current := current_key(key, key.rpartition(".")[2])) != key:
                state_dict[current] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # Forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output with every active adapter's. `adapter_names`: one adapter name per row of x."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed_batch(x, adapter_names, *args, **kwargs)
        active = [] if self.merged else [name for name in self.active_adapters if name in self.multilora_A]
        return self._adapted(x, active, *args, **kwargs) if active else self.base_layer(x, *args, **kwargs)

    def _adapted(self, x: Tensor, active: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """With one or more adapters that this layer has and that are not merged."""
        result = self.base_layer(x, *args, **kwargs)
        for name in active:
            result = result + self._added(x, name).to(result.dtype)
        return result

    def _added(self, x: Tensor, adapter_name: str) -> Tensor:
        """What one adapter adds to the base layer's output, its dropout included. Each kind of layer has its own."""
        raise NotImplementedError

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
                result = result.index_add(0, rows, self._added(x[rows], name).to(result.dtype))
        return result

    # Merging ----------------------------------------------------------------------------------------------------

    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW of one adapter in the base weight's layout, computed in fp32 (fp64 for fp64 parameters).

        Of a linear layer (d_out, d_in), or (d_in, d_out) for `Conv1D`.
        """
        return self.factors(adapter).delta()

    def has_adapter(self, adapter: str) -> bool:
        """Whether this layer has the adapter of that name."""
        return adapter in self.multilora_A

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    # Constants: lora_alpha / r, as PEFT's LoRA layer lets it be changed, and those of the learned scale ---------------

    def set_constants(
        self, adapter: str, lora_alpha: float | None, scaling_function: ScalingFunction, scaling_constant: float
    ) -> None:
        """All that decides ΔW beside the adapter's tensors, as in `MultiLoraConfig`."""
        self.lora_alpha[adapter] = self.r[adapter] if lora_alpha is None else lora_alpha
        self.alpha_over_r[adapter] = self.lora_alpha[adapter] / self.r[adapter]
        self.scaling_function[adapter] = scaling_function
        self.scaling_constant[adapter] = scaling_constant

    @property
    def scaling(self) -> dict[str, float]:
        """`alpha_over_r`, as LoRA's layers call it; what PEFT sets there (`peft.helpers.rescale_adapter_scale`)."""
        return self.alpha_over_r

    @scaling.setter
    def scaling(self, value: dict[str, float]) -> None:
        self.alpha_over_r = value

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
        """Divide the constant of every active adapter by `scale`; None restores `lora_alpha / r`."""
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
