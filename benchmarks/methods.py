"""The methods that are compared, all with the same adapter values, so that all compute the same function.

The values are those of a MultiLoRA whose scales are one number c_i per module; then every other method can hold them:

    ours, vector    A, B, s_i = c_i · (1, …, 1)          PEFT LoRA of rank n·r    A, [c_1 B_1 … c_n B_n]
    ours, scalar    A, B, s_i = c_i                      PEFT, n adapters         A_i, c_i B_i
    n-loop          A_i, B_i, s_i as ours, vector
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from multilora import MultiLoraConfig
from multilora.tuner.linear import MultiLoraLinear

BASE, LORA, LORAS, LOOP, VECTOR, SCALAR = "base", "lora", "n_loras", "n_loop", "ours_vector", "ours_scalar"
ADAPTED = (LORA, LORAS, LOOP, VECTOR, SCALAR)


def labels(num_loras: int, r: int) -> dict[str, str]:
    """What tables call the methods."""
    return {
        BASE: "frozen base",
        LORA: f"PEFT LoRA, rank {num_loras * r}",
        LORAS: f"PEFT, {num_loras} active LoRA{'s' * (num_loras > 1)} of rank {r}",
        LOOP: f"n-loop MultiLoRA {num_loras} x {r}",
        VECTOR: f"ours {num_loras} x {r}, vector",
        SCALAR: f"ours {num_loras} x {r}, scalar",
    }


@dataclass(frozen=True)
class Values:
    """One layer's adapter: A (n·r, d_in), B (d_out, n·r), c (n,), in fp32."""

    A: Tensor
    B: Tensor
    c: Tensor

    def per_module(self) -> list[tuple[Tensor, Tensor, float]]:
        n = len(self.c)
        return list(zip(self.A.chunk(n), self.B.chunk(n, dim=1), self.c.tolist(), strict=True))

    def scaled_B(self) -> Tensor:
        return torch.cat([c * B for _, B, c in self.per_module()], dim=1)


def adapted_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that every method adapts, by name: all but the output layer."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def draw_values(model: nn.Module, num_loras: int, r: int) -> dict[str, Values]:
    """Adapter values for every adapted layer: the variances of MultiLoRA's init, scales in [0.25, 0.75), seed 0."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: Values(
            torch.randn(num_loras * r, layer.in_features, generator=generator) / math.sqrt(3 * layer.in_features),
            torch.randn(layer.out_features, num_loras * r, generator=generator) / math.sqrt(3 * r),
            torch.rand(num_loras, generator=generator) / 2 + 0.25,
        )
        for name, layer in adapted_layers(model).items()
    }


def build(method: str, base: nn.Module, values: dict[str, Values]) -> nn.Module:
    """A copy of `base` adapted by `method`, in training mode. Base weights are shared with `base`, not copied."""
    model = copy.deepcopy(base, memo={id(p): p for p in base.parameters()}).requires_grad_(False)
    return _BUILDERS[method](model, values).train()


@torch.no_grad()
def _peft_lora(model: nn.Module, values: dict[str, Values]) -> nn.Module:
    rank = len(next(iter(values.values())).A)
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=list(values)))
    for name, v in values.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, LoraLayer)
        layer.lora_A["default"].weight.copy_(v.A)
        layer.lora_B["default"].weight.copy_(v.scaled_B())
    return adapted


@torch.no_grad()
def _peft_n_loras(model: nn.Module, values: dict[str, Values]) -> nn.Module:
    first = next(iter(values.values()))
    n, rank = len(first.c), len(first.A)
    names = [f"module_{i}" for i in range(n)]
    config = LoraConfig(r=rank // n, lora_alpha=rank // n, target_modules=list(values))
    adapted = get_peft_model(model, config, adapter_name=names[0])
    for other in names[1:]:
        adapted.add_adapter(other, config)
    adapted.base_model.set_adapter(names)
    for name, v in values.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, LoraLayer)
        for adapter, (A, B, c) in zip(names, v.per_module(), strict=True):
            layer.lora_A[adapter].weight.copy_(A)
            layer.lora_B[adapter].weight.copy_(c * B)
    return adapted


@torch.no_grad()
def _ours(model: nn.Module, values: dict[str, Values], scaling: str) -> nn.Module:
    first = next(iter(values.values()))
    n, rank = len(first.c), len(first.A)
    config = MultiLoraConfig(num_loras=n, r=rank // n, scaling=scaling, target_modules=list(values))  # type: ignore[arg-type]
    adapted = get_peft_model(model, config)
    for name, v in values.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, MultiLoraLinear)
        layer.multilora_A["default"].weight.copy_(v.A)
        layer.multilora_B["default"].weight.copy_(v.B)
        learned = torch.atanh(v.c) / layer.scaling_constant["default"]  # the default start's scale is tanh(c·s)
        layer.multilora_scaling["default"].weight.copy_(learned if scaling == "scalar" else learned.unsqueeze(1))
    return adapted


def _n_loop(model: nn.Module, values: dict[str, Values]) -> nn.Module:
    for name, v in values.items():
        parent, _, child = name.rpartition(".")
        base_layer = model.get_submodule(name)
        assert isinstance(base_layer, nn.Linear)
        setattr(model.get_submodule(parent), child, LoopLinear(base_layer, v))
    return model


class LoopLinear(nn.Module):
    """MultiLoRA written straight from the formula, W x + Σ_i s_i ⊙ (B_i A_i x), as the public re-implementations do.

    Parameters are fp32, and a half-precision x is cast to them, as PEFT's LoRA layer does.
    """

    def __init__(self, base_layer: nn.Linear, values: Values) -> None:
        super().__init__()
        self.base_layer = base_layer
        modules = values.per_module()
        self.loop_A = nn.ParameterList([A.clone() for A, _, _ in modules])  # (r, d_in) each
        self.loop_B = nn.ParameterList([B.clone() for _, B, _ in modules])  # (d_out, r) each
        self.loop_scaling = nn.ParameterList([torch.full((len(B),), c) for _, B, c in modules])  # (d_out,) each

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        dtype = result.dtype
        x = x.to(self.loop_A[0].dtype)
        for A, B, s in zip(self.loop_A, self.loop_B, self.loop_scaling, strict=True):
            result = result + s * nn.functional.linear(nn.functional.linear(x, A), B)
        return result.to(dtype)


_BUILDERS: dict[str, Callable[[nn.Module, dict[str, Values]], nn.Module]] = {
    BASE: lambda model, values: model,
    LORA: _peft_lora,
    LORAS: _peft_n_loras,
    LOOP: _n_loop,
    VECTOR: lambda model, values: _ours(model, values, "vector"),
    SCALAR: lambda model, values: _ours(model, values, "scalar"),
}
