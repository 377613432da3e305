"""The equation of MultiLoRA, forward and backward. Start here.

For a frozen linear layer W (d_out × d_in) and n parallel LoRA modules of rank r on the same input
(Wang et al. 2023, arXiv 2311.11501):

    y = x Wᵀ + b + alpha/r · Σ_{i=1..n} t_i ⊙ (x A_iᵀ B_iᵀ)       A_i: (r, d_in)    B_i: (d_out, r)

where t_i = f(c·s_i) is the learned scale s_i through a function: t_i = s_i in the paper, tanh(c·s_i) by default here.
With `A = [A_1; …; A_n]` (n·r, d_in) and `B' = alpha/r · [t_1 ⊙ B_1 … t_n ⊙ B_n]` (d_out, n·r) the sum is one pair:

    h = x Aᵀ        y = x Wᵀ + b + h B'ᵀ        ΔW = B' A

so n never appears as a loop over matrix products, and for backward x and h are enough. With g = ∂L/∂y:

    ∂x = g W + (g B') A      ∂A = (g B')ᵀ x      ∂B' = gᵀ h      ∂b = Σ g
    ∂B_i = alpha/r · t_i ⊙ ∂B'_i                 ∂s_i = c · f'(c·s_i) · alpha/r · Σ_r B_i ⊙ ∂B'_i

The pair is a type: `Factors` in `factors.py` computes B' and ΔW for everything else (merge, export, spectra).
Letters in shapes: L tokens, n modules, r rank of one module, d_in and d_out the layer's features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from multilora.tuner.factors import Factors, ScalingFunction, effective_scaling, scaled_lora_B


def multilora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
    """The adapted linear layer: x Wᵀ + b + (x Aᵀ) B'ᵀ, with a hand-written backward.

    Computes in the dtype of x (under autocast: in the autocast dtype) while parameters keep theirs; gradients come in
    the parameters' dtypes. Between forward and backward it keeps x, `x Aᵀ` (L, n·r) and parameters, and of these
    only what the gradients asked for need. Not twice differentiable: torch raises an error, but where the
    incoming gradient needs none itself (a loss linear in y) what it gives is a constant. No `torch.func` transforms.

    Args:
        x: (…, d_in), floating point, any strides, any number of tokens (zero too).
        weight: (d_out, d_in), the base weight W. Frozen in every use here; gets its gradient if it requires one.
        bias: (d_out,) or None.
        factors: the adapter.

    Returns:
        (…, d_out) in the dtype of the computation.

    Raises:
        ValueError: shapes that do not fit; the message prints them all.
    """
    d_out, d_in = factors.lora_B.shape[0], factors.lora_A.shape[1]
    if weight.shape != (d_out, d_in) or (bias is not None and bias.shape != (d_out,)):
        raise ValueError(
            f"weight must be (d_out, d_in) = {(d_out, d_in)} and bias (d_out,) to fit lora_A "
            f"{tuple(factors.lora_A.shape)} and lora_B {tuple(factors.lora_B.shape)}; got weight "
            f"{tuple(weight.shape)}, bias {None if bias is None else tuple(bias.shape)}"
        )
    return _apply(x, weight, bias, factors)


def multilora_low_rank(x: Tensor, factors: Factors) -> Tensor:
    """The low-rank part alone, (x Aᵀ) B'ᵀ: for a base layer that has to be called (quantised, hooked, dropout).

    Arguments, dtypes, what is kept for backward, and errors as for `multilora_linear`.
    """
    return _apply(x, None, None, factors)


def _apply(x: Tensor, weight: Tensor | None, bias: Tensor | None, factors: Factors) -> Tensor:
    lora_A = factors.lora_A
    d_in = lora_A.shape[1]
    if x.dim() == 0 or x.shape[-1] != d_in:
        raise ValueError(
            f"x must be (…, d_in) with d_in = {d_in} from lora_A {tuple(lora_A.shape)}; got {tuple(x.shape)}"
        )
    dtype = x.dtype
    device = x.device.type  # not every device has autocast: meta has none
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and dtype != torch.float64:  # autocast leaves fp64 alone; so do we
        dtype = torch.get_autocast_dtype(device)
    return _MultiLoraLinear.apply(  # type: ignore[no-any-return]
        x,
        weight,
        bias,
        lora_A,
        factors.lora_B,
        factors.scaling,
        factors.alpha_over_r,
        factors.scaling_function,
        factors.scaling_constant,
        dtype,
    )


class _MultiLoraLinear(torch.autograd.Function):
    """The one pair as an autograd function; without `weight` it is the low-rank part alone.

    x is saved as it came, not in the dtype of the computation: layers that share their input then share what is kept,
    and backward casts again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        lora_A: Tensor,
        lora_B: Tensor,
        scaling: Tensor | None,
        alpha_over_r: float,
        function: ScalingFunction,
        constant: float,
        dtype: torch.dtype,
    ) -> Tensor:
        rows = _as(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]), dtype)  # (L, d_in)
        h = F.linear(rows, _as(lora_A, dtype))  # (L, n·r)
        effective = effective_scaling(scaling, function, constant)  # (n,) or (n, d_out)
        scaled_B = _as(scaled_lora_B(lora_B, effective, alpha_over_r), dtype)  # (d_out, n·r)
        # (L, d_out); autocast casts W and b here
        y = F.linear(h, scaled_B) if weight is None else F.linear(rows, weight, bias).addmm_(h, scaled_B.t())

        # Only what the gradients asked for need. B' is not among it: backward computes it again from parameters.
        need_x, need_weight, _, need_A, need_B, need_scaling, *_ = ctx.needs_input_grad
        ctx.save_for_backward(
            x if need_A or need_weight else None,
            h if need_B or need_scaling else None,
            weight if need_x else None,
            lora_A if need_x else None,
            lora_B if need_x or need_A or need_scaling else None,
            scaling,
        )
        ctx.alpha_over_r, ctx.function, ctx.constant = alpha_over_r, function, constant
        ctx.dtype, ctx.x_shape = dtype, x.shape
        ctx.parameter_dtypes = (
            weight.dtype if weight is not None else None,
            bias.dtype if bias is not None else None,
            lora_A.dtype,
            lora_B.dtype,
            # B's and s's gradients are formed together: with a scale in fp32 they are summed in fp32.
            lora_B.dtype if scaling is None else torch.promote_types(lora_B.dtype, scaling.dtype),
        )
        # Not `view`: what a custom function returns as a view may not be changed in place, and models do that.
        return y if x.dim() == 2 else torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - torch's `ctx`
        saved: tuple[Any, ...] = ctx.saved_tensors  # None where nothing was kept
        x, h, weight, lora_A, lora_B, scaling = saved
        need_x, need_weight, need_bias, need_A, need_B, need_scaling, *_ = ctx.needs_input_grad
        weight_dtype, bias_dtype, A_dtype, B_dtype, scaled_B_dtype = ctx.parameter_dtypes
        dtype: torch.dtype = ctx.dtype
        alpha_over_r: float = ctx.alpha_over_r
        function: ScalingFunction = ctx.function
        constant: float = ctx.constant
        effective: Any = effective_scaling(scaling, function, constant)
        g = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])  # (L, d_out)
        grad_x = grad_weight = grad_bias = grad_A = grad_B = grad_scaling = None

        rows: Any = None if x is None else _as(x.reshape(-1, x.shape[-1]), dtype)  # (L, d_in)
        if need_x or need_A:
            grad_h = g @ _as(scaled_lora_B(lora_B, effective, alpha_over_r), dtype)  # (L, n·r)
            if need_x:
                A = _as(lora_A, dtype)
                grad_rows = grad_h @ A if weight is None else (g @ _as(weight, dtype)).addmm_(grad_h, A)  # (L, d_in)
                grad_x = grad_rows.view(ctx.x_shape)
            if need_A:
                grad_A = _as(grad_h.t() @ rows, A_dtype)  # (n·r, d_in)
        if need_weight:
            grad_weight = _as(g.t() @ rows, weight_dtype)  # (d_out, d_in)
        if need_bias:
            grad_bias = _as(g.sum(0), bias_dtype)  # (d_out,)
        if need_B or need_scaling:
            grad_scaled_B = g.t() @ h  # (d_out, n·r)
            if not (need_scaling and lora_B.dtype == scaling.dtype):  # else the products below promote it anyway
                grad_scaled_B = _as(grad_scaled_B, scaled_B_dtype)
            if need_B:
                grad_B = _as(scaled_lora_B(grad_scaled_B, effective, alpha_over_r), B_dtype)
            if need_scaling:
                n, d_out = scaling.shape[0], grad_scaled_B.shape[0]
                per_row = (grad_scaled_B * lora_B).view(d_out, n, -1).sum(-1)  # (d_out, n)
                grad_scaling = per_row.sum(0) if scaling.dim() == 1 else per_row.t()  # (n,) or (n, d_out)
                if (factor := alpha_over_r * constant) != 1.0:
                    grad_scaling = grad_scaling * factor
                if function == "tanh":
                    grad_scaling = grad_scaling * (1.0 - effective.square())
                grad_scaling = _as(grad_scaling, scaling.dtype)
        return grad_x, grad_weight, grad_bias, grad_A, grad_B, grad_scaling, None, None, None, None


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in that dtype. Asking first costs a third of what `to` costs where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
