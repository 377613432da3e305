"""Subspace similarity: how much of one matrix's top singular directions lies in another's (Hu et al. 2021, 7.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from multilora.tuner.svd import one_thread


def subspace_similarity(U1: Tensor, U2: Tensor, i: int, j: int) -> float:
    """φ(i, j) = ‖U1[:, :i]ᵀ U2[:, :j]‖²_F / min(i, j), in [0, 1]: 1 if one subspace holds the other, 0 if orthogonal.

    Two random subspaces of R^d have φ(i, j) = max(i, j) / d on average. 0 where i or j is 0 (ΔW = 0 has no
    directions).

    Args:
        U1: (d, ≥ i) with orthonormal columns, the strongest direction first; left or right singular vectors.
        U2: (d, ≥ j) likewise.
        i, j: how many columns of each.

    Raises:
        ValueError: U1 and U2 are of different spaces, or have fewer columns than i and j.
    """
    return similarity_grid(U1, U2, [i], [j])[0][0]


def similarity_grid(U1: Tensor, U2: Tensor, ranks1: Sequence[int], ranks2: Sequence[int]) -> list[list[float]]:
    """φ(i, j) for every i of `ranks1` (rows) and j of `ranks2` (columns), from one product U1ᵀ U2.

    Arguments and errors as for `subspace_similarity`.
    """
    i_max, j_max = max(ranks1, default=0), max(ranks2, default=0)
    if U1.dim() != 2 or U2.dim() != 2 or len(U1) != len(U2) or U1.shape[1] < i_max or U2.shape[1] < j_max:
        raise ValueError(
            f"U1 must be (d, at least {i_max}) and U2 (d, at least {j_max}); got {tuple(U1.shape)}, {tuple(U2.shape)}"
        )
    dtype = torch.promote_types(U1.dtype, U2.dtype)
    with one_thread():
        product = U1[:, :i_max].to(dtype).t() @ U2[:, :j_max].to(dtype)  # (i_max, j_max)
    sums = torch.zeros(i_max + 1, j_max + 1, dtype=torch.float64)
    sums[1:, 1:] = product.double().square().cpu().cumsum(0).cumsum(1)
    return [[float(sums[i, j]) / min(i, j) if min(i, j) else 0.0 for j in ranks2] for i in ranks1]


def grid_ranks(count: int) -> list[int]:
    """1, 2, 4, 8, … below `count`, and `count` itself; empty for 0."""
    return [2**power for power in range(count.bit_length()) if 2**power < count] + ([count] if count else [])
