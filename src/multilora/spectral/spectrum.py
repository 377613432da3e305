"""Functions of one spectrum: the singular values of ΔW, the exact zeros included.

σ_1 ≥ … ≥ σ_k are all k = min(d_out, d_in) singular values of ΔW. A pair of rank n·r has at least k − n·r exact zeros;
functions take the values that may differ from zero, S, and where zeros matter the number k as `size`. All but the norms
are scale-free, and all are defined for ΔW = 0, where they are 0 (never NaN).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from multilora.tuner.svd import truncation_error


def numerical_rank(S: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values differ from zero: those above σ_1 · max(d_out, d_in) · ε of their dtype.

    Args:
        S: (k,) descending, as computed in float32 or float64.
        shape: (d_out, d_in) of the matrix.
    """
    if S.numel() == 0 or S[0] == 0:
        return 0
    threshold = S[0] * max(shape) * torch.finfo(S.dtype).eps
    return int((threshold < S).sum())


def frobenius_norm(S: Tensor) -> float:
    """‖ΔW‖_F = √Σ σ_i²."""
    return spectral_norm(S) * math.sqrt(stable_rank(S))


def spectral_norm(S: Tensor) -> float:
    """σ_1."""
    return float(S[0]) if S.numel() else 0.0


def energy_share(S: Tensor, top: int) -> float:
    """Σ_{i ≤ top} σ_i² / Σ σ_i² = 1 − ‖ΔW − ΔW_top‖² / ‖ΔW‖², in [0, 1]; 0 for ΔW = 0."""
    if S.numel() == 0 or S[0] == 0:
        return 0.0
    return 1.0 - truncation_error(S, top) ** 2


def stable_rank(S: Tensor) -> float:
    """‖ΔW‖²_F / σ_1² = Σ σ_i² / σ_1², from 1 (one direction) to k (all alike)."""
    return float(_scaled(S).square().sum())


def effective_rank(S: Tensor) -> float:
    """exp(H(p)) with p_i = σ_i / Σ σ and H(p) = −Σ p_i ln p_i (Roy and Vetterli 2007), from 1 to k."""
    scaled = _scaled(S)
    if scaled.sum() == 0:
        return 0.0
    return math.exp(float(torch.special.entr(scaled / scaled.sum()).sum()))


def gini(S: Tensor, size: int | None = None) -> float:
    """The Gini coefficient of the k singular values, Σ_i (k + 1 − 2i) σ_i / (k Σ σ) with σ_1 the largest.

    0: all alike; near 1: few hold everything. At least 1 − rank/k, since zeros count.

    Args:
        S: (m,) descending.
        size: k, the number of values with zeros; None: m.
    """
    k = S.numel() if size is None else size
    scaled = _scaled(S)
    if scaled.sum() == 0:
        return 0.0
    order = torch.arange(1, S.numel() + 1, dtype=torch.float64)
    return float(((k + 1 - 2 * order) * scaled).sum() / (k * scaled.sum()))


def curve_indices(count: int, points: int = 256) -> list[int]:
    """At most `points` (2 or more) indices out of 0 … count − 1 for drawing a curve, the first and the last among them.

    Half of them lie evenly on a logarithmic scale, which keeps the head, and half on a linear one, which keeps the
    tail; all of them where `count` is small enough.
    """
    if count <= points:
        return list(range(count))
    half = min(points // 2, points - 2)
    linear = torch.linspace(0, count - 1, points - half, dtype=torch.float64)
    log = torch.logspace(0, math.log10(count), half, dtype=torch.float64) - 1
    return sorted({int(index) for index in torch.cat([linear, log]).round().clamp(0, count - 1)})


def decade_histogram(S: Tensor) -> tuple[int, list[int]]:
    """Counts of singular values in tenths of decades: bin b holds the values in [10^(b/10), 10^((b+1)/10)).

    The bins lie alike for all matrices, so that histograms can be added.

    Args:
        S: (m,) values above zero.

    Returns:
        The first bin b and the counts from there on; (0, []) where there is no value.
    """
    if S.numel() == 0:
        return 0, []
    bins = (10 * S.double().cpu().log10()).floor().long()
    first = int(bins.min())
    return first, torch.bincount(bins - first).tolist()


def _scaled(S: Tensor) -> Tensor:
    """S / σ_1 in fp64: squares of tiny or huge values would leave the numbers' range."""
    values = S.double().cpu()
    return values / values[0] if values.numel() and values[0] > 0 else torch.zeros_like(values)
