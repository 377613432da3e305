"""How ΔW relates to the base weight W: what it amplifies (Hu et al. 2021, 7.3), and intruder dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multilora.spectral.dense import top_svd
from multilora.spectral.subspace import grid_ranks

RANKS = (4, 16, 64)
INTRUDER_TOP, INTRUDER_COSINE = 10, 0.6


def mechanism_ranks(rank: int) -> list[int]:
    """The ranks r at which W is projected: 4, 16 and 64 as far as ΔW has them; ΔW's own rank where it is below 4."""
    return [r for r in RANKS if r <= rank] or grid_ranks(rank)[-1:]


def projected_norms(W: Tensor, U: Tensor, Vh: Tensor, ranks: Sequence[int]) -> list[float]:
    """‖UᵀWVᵀ‖_F for the first r columns of U and rows of V, for every r: how much of W lies in these directions.

    Args:
        W: (d_out, d_in).
        U: (d_out, k) with orthonormal columns.
        Vh: (k, d_in) with orthonormal rows.
        ranks: each at most k.
    """
    k = max(ranks, default=0)
    squares = (U[:, :k].t().to(W) @ (W @ Vh[:k].t().to(W))).double().square()  # (k, k)
    return [math.sqrt(float(squares[:r, :r].sum())) for r in ranks]


def own_norms(S: Tensor, ranks: Sequence[int]) -> list[float]:
    """The same with W's own top singular vectors, the most that any directions hold: √(Σ_{i ≤ r} σ_i(W)²)."""
    return [float(torch.linalg.vector_norm(S[:r].double())) for r in ranks]


def random_norms(norm: float, shape: tuple[int, int], ranks: Sequence[int]) -> list[float]:
    """The same with random orthonormal directions: r ‖W‖_F / √(d_out · d_in), the root of the mean square.

    E ‖UᵀWVᵀ‖²_F = r/d_out · r/d_in · ‖W‖²_F, since E UUᵀ = r/d_out · I for a uniformly random U, and likewise for V.
    """
    return [r * norm / math.sqrt(shape[0] * shape[1]) for r in ranks]


def amplification(delta_norm: float, projected: float) -> float:
    """‖ΔW‖_F / ‖UᵀWVᵀ‖_F: how many times more ΔW adds in its top directions than W has there.

    0 for ΔW = 0; infinity where W has nothing there.
    """
    if delta_norm == 0:
        return 0.0
    return delta_norm / projected if projected else math.inf


def mechanism(W: Tensor, own: Tensor, U: Tensor, S: Tensor, Vh: Tensor, rank: int, norm: float) -> dict[str, Any]:
    """All of the above for one matrix.

    Args:
        W: (d_out, d_in), the base weight.
        own: W's singular values, descending, at least the first 64 if it has them.
        U, S, Vh: ΔW's top singular vectors and values.
        rank: how many of them differ from zero.
        norm: ‖ΔW‖_F.

    Returns:
        ranks; for each of them delta, base and random: ‖UᵀWVᵀ‖_F with the directions of ΔW, of W and random ones;
        delta_norm: ‖U ᵀΔW Vᵀ‖_F; amplification; and base_norm ‖W‖_F, relative_norm ‖ΔW‖_F / ‖W‖_F.
    """
    ranks = mechanism_ranks(rank)
    base_norm = float(torch.linalg.matrix_norm(W.double() if W.numel() < 1 << 22 else W))
    projected = projected_norms(W, U, Vh, ranks)
    shape = (W.shape[0], W.shape[1])
    return {
        "ranks": ranks,
        "delta": projected,
        "base": own_norms(own, ranks),
        "random": random_norms(base_norm, shape, ranks),
        "delta_norm": own_norms(S, ranks),
        "amplification": [amplification(norm, value) for value in projected],
        "base_norm": base_norm,
        "relative_norm": norm / base_norm if base_norm else 0.0 if norm == 0 else math.inf,
    }


def intruder_dimensions(base_U: Tensor, tuned_U: Tensor, cosine: float = INTRUDER_COSINE) -> dict[str, Any]:
    """Top singular vectors of W + ΔW that are unlike all of W's (Shuttleworth et al. 2024, arXiv 2410.21228).

    Vector j is an intruder if max_i |cos(u_i(W), u_j(W + ΔW))| < `cosine`.

    Args:
        base_U: (d, k) all left singular vectors of W.
        tuned_U: (d, m) the top left singular vectors of W + ΔW.
        cosine: the threshold.

    Returns:
        count, of (m), cosine (the threshold) and best: for each j its largest |cos|.
    """
    best = (base_U.t() @ tuned_U).abs().amax(0).double().cpu()  # (m,)
    return {"count": int((best < cosine).sum()), "of": len(best), "cosine": cosine, "best": best.tolist()}


def tuned_directions(W: Tensor, delta: Tensor, top: int = INTRUDER_TOP) -> Tensor:
    """The top left singular vectors of W + ΔW, (d_out, at most `top`)."""
    return top_svd(W + delta.to(W), top).U
