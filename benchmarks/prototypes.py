"""What `benchmarks.lower_cost` tries: prototypes that are not in the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multilora.tuner.functional import multilora_linear, scaled_lora_B


@dataclass(frozen=True)
class Layer:
    """A frozen weight (d_out, d_in) with one adapter: A (n·r, d_in), B (d_out, n·r), scaling (n, d_out), in fp32."""

    weight: Tensor
    A: Tensor
    B: Tensor
    scaling: Tensor

    @classmethod
    def random(cls, d_in: int, d_out: int, n: int, r: int, dtype: torch.dtype) -> Layer:
        return cls(
            (torch.randn(d_out, d_in) / math.sqrt(d_in)).to(dtype),
            nn.Parameter(torch.randn(n * r, d_in) / math.sqrt(d_in)),
            nn.Parameter(torch.randn(d_out, n * r) / math.sqrt(r)),
            nn.Parameter(torch.rand(n, d_out) + 0.5),
        )

    def separate(self, x: Tensor) -> Tensor:
        """As the package computes it."""
        return multilora_linear(x, self.weight, None, self.A, self.B, self.scaling, 1.0)


def stacked(x: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, ...]:
    """Layers that share their input: one product for all A, and one sum for all ∂x. x (L, d_in)."""
    tensors = [t for layer in layers for t in (layer.weight, layer.A, layer.B, layer.scaling)]
    return _Stacked.apply(x, *tensors)  # type: ignore[no-any-return]


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        weights, As, Bs, scalings = (tensors[i::4] for i in range(4))
        A = torch.cat([A.to(x.dtype) for A in As])
        h = x @ A.t()
        hs = h.split([len(A) for A in As], dim=1)
        ys = [
            F.linear(x, W).addmm_(part, scaled_lora_B(B, s, 1.0).to(x.dtype).t())
            for W, B, s, part in zip(weights, Bs, scalings, hs, strict=True)
        ]
        ctx.save_for_backward(x, h, *tensors)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch's `ctx`
        x, h, *tensors = ctx.saved_tensors
        weights, As, Bs, scalings = (tensors[i::4] for i in range(4))
        sizes = [len(A) for A in As]
        grad_h = torch.cat(
            [g @ scaled_lora_B(B, s, 1.0).to(x.dtype) for g, B, s in zip(gs, Bs, scalings, strict=True)], dim=1
        )
        grad_x = grad_h @ torch.cat([A.to(x.dtype) for A in As])
        for g, W in zip(gs, weights, strict=True):
            grad_x.addmm_(g, W)
        grad_As = (grad_h.t() @ x).split(sizes)
        gradients: list[Tensor | None] = [grad_x]
        for g, grad_A, A, B, s, part in zip(gs, grad_As, As, Bs, scalings, h.split(sizes, dim=1), strict=True):
            scaled, per_row = _gradients_of_B(g, part, B, s)
            gradients += [None, grad_A.to(A.dtype), scaled, per_row]
        return tuple(gradients)


def formed(x: Tensor, layer: Layer) -> Tensor:
    """x (W + B'A)ᵀ: the sum is formed, and neither (x Aᵀ) B'ᵀ nor (g B') A is computed. x (L, d_in)."""
    return _Formed.apply(x, layer.weight, layer.A, layer.B, layer.scaling)  # type: ignore[no-any-return]


class _Formed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, A: Tensor, B: Tensor, scaling: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, A, B, scaling)
        return F.linear(x, torch.addmm(weight, scaled_lora_B(B, scaling, 1.0), A))

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch's `ctx`
        x, weight, A, B, scaling = ctx.saved_tensors
        (g,) = gs
        scaled_B = scaled_lora_B(B, scaling, 1.0)
        grad_x = g @ torch.addmm(weight, scaled_B, A)
        grad_A = (g @ scaled_B).t() @ x
        return grad_x, None, grad_A, *_gradients_of_B(g, x @ A.t(), B, scaling)


def _gradients_of_B(g: Tensor, h: Tensor, B: Tensor, scaling: Tensor) -> tuple[Tensor, Tensor]:
    grad = (g.t() @ h).to(B.dtype)
    per_row = (grad * B).view(len(B), len(scaling), -1).sum(-1).t()
    return scaled_lora_B(grad, scaling, 1.0), per_row
