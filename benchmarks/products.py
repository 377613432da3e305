"""The matrix products that every implementation needs: their number of operations, and the products alone.

For a linear layer with one adapter of total rank k, on L tokens, with g = ∂L/∂y:

    base        forward  x Wᵀ                backward  g W
    low rank    forward  h = x Aᵀ, h B'ᵀ     backward  p = g B', p A, pᵀ x, gᵀ h
"""

from __future__ import annotations

import torch
from torch import Tensor


def base_flops(tokens: int, d_in: int, d_out: int) -> int:
    """Floating-point operations of the base layer's two products, forward and ∂x."""
    return 2 * 2 * tokens * d_in * d_out


def low_rank_flops(tokens: int, d_in: int, d_out: int, rank: int) -> int:
    """Operations of the adapter's six products: each of d_in and d_out meets L · k three times."""
    return 3 * 2 * tokens * rank * (d_in + d_out)


class Products:
    """One layer's products on random matrices of its shapes, into buffers made beforehand; nothing else.

    All in one dtype, that of the hidden states. Matrices lie in memory as in the layer: W (d_out, d_in), A (k, d_in),
    B' (d_out, k). Sums (base plus low rank) are left out: they are no products.
    """

    def __init__(self, tokens: int, d_in: int, d_out: int, rank: int, dtype: torch.dtype, with_base: bool) -> None:
        def matrix(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns).to(dtype)

        x, g, A, B = matrix(tokens, d_in), matrix(tokens, d_out), matrix(rank, d_in), matrix(d_out, rank)
        h, p = matrix(tokens, rank), matrix(tokens, rank)
        y, grad_x = matrix(tokens, d_out), matrix(tokens, d_in)
        grad_A, grad_B = matrix(rank, d_in), matrix(d_out, rank)
        self._forward = [(x, A.t(), h), (h, B.t(), y)]
        self._backward = [(g, B, p), (p, A, grad_x), (p.t(), x, grad_A), (g.t(), h, grad_B)]
        if with_base:
            W = matrix(d_out, d_in)
            self._forward.insert(0, (x, W.t(), torch.empty_like(y)))
            self._backward.insert(0, (g, W, torch.empty_like(grad_x)))

    def forward(self) -> None:
        for left, right, out in self._forward:
            torch.mm(left, right, out=out)

    def backward(self) -> None:
        for left, right, out in self._backward:
            torch.mm(left, right, out=out)
