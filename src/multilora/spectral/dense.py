"""Spectra of matrices without factors: all values exactly, the top vectors exactly or by a checked random method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

EXACT_UP_TO = 1024  # the smaller side up to which the whole decomposition costs less than a second or two
_OVERSAMPLING = 8


@dataclass(frozen=True)
class TopSvd:
    """The strongest singular vectors of a matrix.

    Attributes:
        U: (d_out, k) with orthonormal columns.
        S: (k,) descending.
        Vh: (k, d_in) with orthonormal rows.
        method: how they were found.
        residual: max_i ‖M v_i − σ_i u_i‖ / σ_1, as measured; 0 where the whole decomposition was computed.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    method: Literal["exact", "randomised"]
    residual: float


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def top_svd(
    matrix: Tensor,
    k: int,
    *,
    values: Tensor | None = None,
    exact: bool = False,
    tolerance: float = 1e-4,
    exact_up_to: int = EXACT_UP_TO,
) -> TopSvd:
    """The k strongest singular triples of a matrix, in its dtype and on its device.

    Large matrices: a block Krylov method (Musco and Musco 2015) from a random start with a fixed seed. Its basis grows
    block by block, with full orthogonalisation, until max_i ‖M v_i − σ_i u_i‖ ≤ tolerance · σ_1 and, where all values
    are known, |σ_i − values_i| ≤ tolerance · σ_1, so that no stronger direction was missed. Where the basis would fill
    more than a quarter of the space, as with flat spectra, the whole decomposition costs less and is computed instead.

    Args:
        matrix: (d_out, d_in), float32 or float64.
        k: how many; at most min(d_out, d_in) come back.
        values: singular values of the matrix, descending, if they are known.
        exact: compute the whole decomposition whatever the size.
        tolerance: of the check, relative to σ_1.
        exact_up_to: the smaller side up to which the whole decomposition is computed anyway.
    """
    size = min(matrix.shape)
    k = min(k, size)
    if not exact and size > exact_up_to and (found := _krylov(matrix, k, values, tolerance)) is not None:
        return found
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return TopSvd(U[:, :k].clone(), S[:k].clone(), Vh[:k].clone(), "exact", 0.0)


def _krylov(matrix: Tensor, k: int, values: Tensor | None, tolerance: float) -> TopSvd | None:
    """None: it did not converge in a basis of a quarter of the matrix's size."""
    width = k + _OVERSAMPLING
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], width, dtype=matrix.dtype, generator=generator).to(matrix.device)
    block, _ = torch.linalg.qr(matrix @ start)
    basis, rows = block, block.t() @ matrix  # Q and Qᵀ M
    while basis.shape[1] <= min(matrix.shape) // 4:
        found = torch.linalg.svd(rows, full_matrices=False)
        U, S, Vh = basis @ found.U[:, :k], found.S[:k], found.Vh[:k]
        if S[0] == 0:
            return TopSvd(U, S, Vh, "randomised", 0.0)
        residual = float((torch.linalg.vector_norm(matrix @ Vh.t() - U * S, dim=0) / S[0]).max())
        missed = 0.0 if values is None else float((values[:k].to(S) - S).abs().max() / S[0])
        if max(residual, missed) <= tolerance:
            return TopSvd(U, S, Vh, "randomised", residual)
        block = matrix @ rows[-width:].t()  # M Mᵀ times the last block
        for _ in range(2):  # once leaves what rounding lost
            block = block - basis @ (basis.t() @ block)
            block, _ = torch.linalg.qr(block)
        basis = torch.cat([basis, block], dim=1)
        rows = torch.cat([rows, block.t() @ matrix])
    return None
