"""How ΔW relates to W, by hand and by laws; intruders; errors of merging."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from multilora.spectral.mechanism import (
    amplification,
    intruder_dimensions,
    mechanism,
    mechanism_ranks,
    own_norms,
    projected_norms,
    random_norms,
    tuned_directions,
)
from multilora.storage.rounding import merge_error


def orthonormal(d: int, k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=generator))[0]


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_by_hand() -> None:
    W = diagonal(3.0, 2.0, 1.0, 0.5, 0.0)
    e = torch.eye(5, dtype=torch.float64)
    assert projected_norms(W, e[:, [2, 3]], e[[2, 3]], [1, 2]) == pytest.approx([1.0, math.hypot(1, 0.5)])
    assert own_norms(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0]), [1, 2]) == pytest.approx([3.0, math.hypot(3, 2)])
    # ΔW = 6 e_3 e_3ᵀ: W has 0.5 there, so it is amplified 12 times
    found = mechanism(W, torch.linalg.svdvals(W), e[:, [3]], torch.tensor([6.0]), e[[3]], 1, 6.0)
    assert (found["ranks"], found["delta"], found["base"]) == ([1], [0.5], [3.0])
    assert found["amplification"] == [12.0]
    assert found["relative_norm"] == pytest.approx(6 / float(torch.linalg.matrix_norm(W)))
    assert amplification(6.0, 0.0) == math.inf


def test_own_directions_hold_the_most() -> None:
    torch.manual_seed(0)
    W = torch.randn(30, 20, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    ranks = [1, 4, 16]
    torch.testing.assert_close(projected_norms(W, U, Vh, ranks), own_norms(S, ranks))
    for seed in range(20):
        others = projected_norms(W, orthonormal(30, 16, seed), orthonormal(20, 16, seed + 100).t(), ranks)
        assert all(other <= own for other, own in zip(others, own_norms(S, ranks), strict=True))


def test_the_formula_for_random_directions_is_their_root_mean_square() -> None:
    torch.manual_seed(0)
    W = torch.randn(30, 20, dtype=torch.float64) * torch.linspace(0, 3, 20)
    drawn = [
        projected_norms(W, orthonormal(30, 4, seed), orthonormal(20, 4, seed + 5000).t(), [2, 4]) for seed in range(300)
    ]
    mean_squares = (torch.tensor(drawn) ** 2).mean(0).sqrt().tolist()
    assert random_norms(float(torch.linalg.matrix_norm(W)), (30, 20), [2, 4]) == pytest.approx(mean_squares, rel=0.08)


def test_ranks_and_a_zero_delta() -> None:
    assert mechanism_ranks(100) == [4, 16, 64]
    assert mechanism_ranks(20) == [4, 16]
    assert mechanism_ranks(3) == [3]
    assert mechanism_ranks(0) == []
    W = torch.ones(3, 3)
    found = mechanism(W, torch.linalg.svdvals(W), torch.zeros(3, 0), torch.zeros(0), torch.zeros(0, 3), 0, 0.0)
    assert (found["ranks"], found["relative_norm"], amplification(0.0, 0.0)) == ([], 0.0, 0.0)


def test_a_new_strong_direction_is_an_intruder_and_an_amplified_own_one_is_none() -> None:
    torch.manual_seed(0)
    W = torch.randn(40, 40, dtype=torch.float64) / 40
    U, _, Vh = torch.linalg.svd(W)
    own = 50 * torch.outer(U[:, 1], Vh[1])
    spread = torch.ones(40, dtype=torch.float64) / 40**0.5
    new = 50 * torch.outer(U @ spread, spread @ Vh)  # the same share of every direction of W
    assert intruder_dimensions(U, tuned_directions(W, own, top=1))["count"] == 0
    found = intruder_dimensions(U, tuned_directions(W, new, top=1))
    assert (found["count"], found["of"]) == (1, 1)
    assert found["best"][0] == pytest.approx(1 / 40**0.5, abs=0.02)
    assert intruder_dimensions(U, tuned_directions(W, 0 * own))["count"] == 0


# Merge numerics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_error_is_that_of_the_rounded_sum(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    W, delta = torch.randn(3000, 7), 1e-3 * torch.randn(3000, 7)  # more rows than are taken at a time
    found = merge_error(W, lambda begin, end: delta[begin:end], dtype)
    stored = W.to(dtype)
    exact = stored.float() + delta
    merged = exact.to(dtype)
    assert found["error"] == pytest.approx(float((merged.float() - exact).norm() / delta.norm()), rel=1e-5)
    assert found["lost"] == pytest.approx(float((merged == stored).float().mean()))


def test_what_merging_loses_by_hand() -> None:
    W = torch.ones(2, 2)
    step = 2.0**-7  # of bf16 above one
    delta = torch.tensor([[step, step / 8], [0.0, 0.0]])
    found = merge_error(W, lambda begin, end: delta[begin:end], torch.bfloat16)
    assert found["lost"] == 0.5
    assert found["error"] == pytest.approx((step / 8) / math.hypot(step, step / 8))
    assert merge_error(W, lambda begin, end: 0 * delta[begin:end], torch.float16) == {"error": 0.0, "lost": 0.0}
    assert merge_error(1e6 * W, lambda begin, end: delta[begin:end], torch.float16)["error"] is None
