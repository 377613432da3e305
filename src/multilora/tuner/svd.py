"""The singular value decomposition of ΔW = B' A in factor space: O(d·(n·r)²), never one of a d_out × d_in matrix."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from multilora.tuner.factors import Factors


@contextmanager
def one_thread() -> Generator[None]:
    """One thread for the CPU operations inside.

    QR and SVD of factors are long chains of small steps with a barrier behind each: a second thread gains little, and
    where another process wants its core, everything waits for it (measured: 60 times slower).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def factors_svd(factors: Factors, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD of ΔW, exact up to rounding, rank-deficient and zero factors included.

    With the QR decompositions B' = Q_B R_B and Aᵀ = Q_A R_A the singular values of B' A are those of the core
    R_B R_Aᵀ, and its singular vectors, rotated by Q_B and Q_A, are those of B' A.

    Args:
        factors: the adapter.
        dtype: float64 or float32, in which all is computed and returned.

    Returns:
        U (d_out, k) with orthonormal columns, S (k,) descending, Vh (k, d_in) with orthonormal rows, where
        k = min(n·r, d_out, d_in).
    """
    folded = factors.folded()
    with one_thread():
        Q_B, R_B = torch.linalg.qr(folded.lora_B.to(dtype))  # (d_out, min(d_out, n·r)), (min(d_out, n·r), n·r)
        Q_A, R_A = torch.linalg.qr(folded.lora_A.to(dtype).t())  # (d_in, min(d_in, n·r)), (min(d_in, n·r), n·r)
        U, S, Vh = torch.linalg.svd(R_B @ R_A.t(), full_matrices=False)
        return Q_B @ U, S, Vh @ Q_A.t()


def truncation_error(S: Tensor, rank: int) -> float:
    """‖ΔW − ΔW_rank‖ / ‖ΔW‖ (Frobenius) of the best approximation of this rank, by Eckart and Young.

    Args:
        S: (k,) the singular values of ΔW, descending.
        rank: how many of them are kept, at least 1.

    Returns:
        A number in [0, 1]; 0 where ΔW is zero.
    """
    if S.numel() == 0 or S[0] == 0:
        return 0.0
    energy = (S / S[0]).square()  # scaled first: squares of tiny values would vanish
    return float((energy[rank:].sum() / energy.sum()).sqrt())


def truncated(factors: Factors, rank: int) -> tuple[Factors, float, float]:
    """The best approximation of ΔW of this rank as one pair, each singular value's root on both sides.

    Args:
        factors: the adapter.
        rank: at least 1. An adapter whose total rank is not larger is folded, and nothing else.

    Returns:
        Folded factors of at most this total rank, in fp64 where something was cut off; the relative error
        ‖ΔW − ΔW_rank‖ / ‖ΔW‖ and ‖ΔW‖ (Frobenius).
    """
    folded = factors.folded()
    U, S, Vh = factors_svd(folded)
    norm = float(torch.linalg.vector_norm(S))
    if folded.total_rank <= rank:
        return folded, 0.0, norm
    root = S[:rank].sqrt()
    return Factors(root.unsqueeze(1) * Vh[:rank], U[:, :rank] * root), truncation_error(S, rank), norm
