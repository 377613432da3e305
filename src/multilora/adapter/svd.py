"""The singular value decomposition of ΔW = B' A in factor space: O(d·(n·r)²), never one of a d_out × d_in matrix."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor


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


def pair_svd(lora_A: Tensor, scaled_B: Tensor, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD of `scaled_B @ lora_A`, exact up to rounding, rank-deficient and zero factors included.

    With the QR decompositions B' = Q_B R_B and Aᵀ = Q_A R_A the singular values of B' A are those of the core
    R_B R_Aᵀ, and its singular vectors, rotated by Q_B and Q_A, are those of B' A.

    Args:
        lora_A: (n·r, d_in).
        scaled_B: (d_out, n·r), B' as `multilora.tuner.functional.scaled_lora_B` gives it.
        dtype: float64 or float32, in which all is computed and returned.

    Returns:
        U (d_out, k) with orthonormal columns, S (k,) descending, Vh (k, d_in) with orthonormal rows, where
        k = min(n·r, d_out, d_in).

    Raises:
        ValueError: shapes that do not fit; the message prints them.
    """
    if lora_A.dim() != 2 or scaled_B.dim() != 2 or lora_A.shape[0] != scaled_B.shape[1]:
        raise ValueError(
            f"lora_A must be (n·r, d_in) and scaled_B (d_out, n·r); got {tuple(lora_A.shape)}, {tuple(scaled_B.shape)}"
        )
    with one_thread():
        Q_B, R_B = torch.linalg.qr(scaled_B.to(dtype))  # (d_out, min(d_out, n·r)), (min(d_out, n·r), n·r)
        Q_A, R_A = torch.linalg.qr(lora_A.to(dtype).t())  # (d_in, min(d_in, n·r)), (min(d_in, n·r), n·r)
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


def truncated_pair(lora_A: Tensor, scaled_B: Tensor, rank: int) -> tuple[tuple[Tensor, Tensor], float, float]:
    """The pair of ΔW's best approximation of this rank, each singular value's root on both sides.

    Args:
        lora_A, scaled_B: as for `pair_svd`.
        rank: at least 1. A pair that is not larger comes back as it is.

    Returns:
        (lora_A, scaled_B) of at most `rank` rows and columns, the relative error ‖ΔW − ΔW_rank‖ / ‖ΔW‖ and ‖ΔW‖
        (Frobenius).
    """
    U, S, Vh = pair_svd(lora_A, scaled_B)
    norm = float(torch.linalg.vector_norm(S))
    if len(lora_A) <= rank:
        return (lora_A, scaled_B), 0.0, norm
    root = S[:rank].sqrt()
    return (root.unsqueeze(1) * Vh[:rank], U[:, :rank] * root), truncation_error(S, rank), norm
