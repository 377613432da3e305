"""The measures against cases computed by hand and against NumPy on the whole, dense spectrum."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effort import examples
from multilora.spectral.findings import Findings
from multilora.spectral.measures import (
    OF_MODULES,
    OF_SPECTRUM,
    OVERVIEW,
    SIDES,
    measures_of,
    similarity,
    similarity_ranks,
)
from multilora.spectral.record import MatrixRecord
from multilora.spectral.spectrum import (
    curve_indices,
    decade_histogram,
    effective_rank,
    energy_share,
    gini,
    numerical_rank,
    stable_rank,
)
from multilora.tuner.factors import Factors
from multilora.tuner.svd import factors_svd

sizes = st.integers(1, 12)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Factors of odd shapes; of full or deficient rank, with repeated singular values, or zero; of any size."""
    d_in, d_out, rank = draw(sizes), draw(sizes), draw(sizes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    A = torch.randn(rank, d_in, dtype=torch.float64, generator=generator)
    B = torch.randn(d_out, rank, dtype=torch.float64, generator=generator)
    kind = draw(st.sampled_from(["full", "deficient", "repeated", "zero"]))
    if kind == "deficient":
        A[rank // 2 :] = A[0].clone()
    elif kind == "repeated":
        k = min(d_in, d_out, rank)
        A, B = torch.zeros_like(A), torch.zeros_like(B)
        A[range(k), range(k)] = 1
        B[range(k), range(k)] = 2
    elif kind == "zero":
        B.zero_()
    return A, B * 10.0 ** draw(st.integers(-9, 9))


@settings(max_examples=examples(150), deadline=None)
@given(pairs())
def test_measures_are_those_of_the_dense_spectrum(pair: tuple[Tensor, Tensor]) -> None:
    A, B = pair
    dense = (B @ A).numpy()
    shape = (dense.shape[0], dense.shape[1])
    ours = measures_of(Findings(factors_svd(Factors(A, B))[1], shape))
    sigma = np.linalg.svd(dense, compute_uv=False)
    k, largest = len(sigma), sigma[0]
    assert all(math.isfinite(value) for value in ours.values())
    assert ours["rank"] == np.linalg.matrix_rank(dense, rtol=1e-9)
    assert ours["rank"] + ours["zeros"] == k
    assert ours["frobenius_norm"] == pytest.approx(np.linalg.norm(dense), rel=1e-9)
    assert ours["spectral_norm"] == pytest.approx(largest, rel=1e-9)
    if largest == 0:
        assert all(value == 0 for name, value in ours.items() if name != "zeros")
        return
    share = sigma / sigma.sum()
    entropy = -(share[share > 1e-14] * np.log(share[share > 1e-14])).sum()
    absolute = np.abs(sigma[:, None] - sigma[None, :]).sum() / (2 * k * sigma.sum())  # Gini by its first definition
    assert ours["stable_rank"] == pytest.approx((sigma**2).sum() / largest**2, rel=1e-9)
    assert ours["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-9)
    assert ours["gini"] == pytest.approx(absolute, abs=1e-9)
    for top in (1, 8, 32):
        expected = (sigma[:top] ** 2).sum() / (sigma**2).sum()
        assert ours[f"energy_share_{top}"] == pytest.approx(expected, abs=1e-9)
    assert 1 <= ours["stable_rank"] <= ours["effective_rank"] ** 2 + 1e-9
    assert ours["effective_rank"] <= ours["rank"] + 1e-9


def test_by_hand() -> None:
    S = f64(4.0, 2.0, 2.0)
    assert energy_share(S, 1) == pytest.approx(16 / 24)
    assert energy_share(S, 2) == pytest.approx(20 / 24)
    assert energy_share(S, 9) == 1.0
    assert stable_rank(S) == 24 / 16
    assert effective_rank(S) == pytest.approx(2**1.5)  # H(1/2, 1/4, 1/4) = 1.5 ln 2
    assert gini(S) == pytest.approx((2 + 2) / (3 * 8))
    assert gini(S, 6) == pytest.approx((2 * 2 + 3 * 4 + 6 * 2) / (6 * 8))  # pairs of 4, 2, 2, 0, 0, 0
    assert gini(f64(1.0), 100) == pytest.approx(0.99)  # one of a hundred holds all


def test_a_flat_spectrum_and_a_single_direction_are_the_ends() -> None:
    flat, single = torch.ones(7, dtype=torch.float64), f64(3.0, 0, 0, 0, 0, 0, 0)
    assert (stable_rank(flat), gini(flat)) == (7.0, 0.0)
    assert effective_rank(flat) == pytest.approx(7)
    assert (stable_rank(single), effective_rank(single), energy_share(single, 1)) == (1.0, 1.0, 1.0)
    assert gini(single) == pytest.approx(6 / 7)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_no_measure_but_the_norms_depends_on_the_scale(scale: float) -> None:
    S = f64(5.0, 3.0, 1.0)
    one, other = measures_of(Findings(S, (3, 8))), measures_of(Findings(S * scale, (3, 8)))
    for name in ("frobenius_norm", "spectral_norm"):
        assert other.pop(name) == pytest.approx(one.pop(name) * scale)
    assert other == pytest.approx(one)


def test_rank_is_judged_by_the_dtype_that_it_was_computed_in() -> None:
    noisy = torch.tensor([1.0, 1e-9])
    assert numerical_rank(noisy, (64, 64)) == 1
    assert numerical_rank(noisy.double(), (64, 64)) == 2
    assert measures_of(Findings(noisy, (64, 64)))["rank"] == 1
    assert numerical_rank(torch.zeros(0), (4, 4)) == 0


@given(st.integers(0, 20000), st.integers(2, 300))
def test_a_curve_keeps_its_ends_and_its_head(count: int, points: int) -> None:
    index = curve_indices(count, points)
    assert len(index) <= points
    assert index == sorted(set(index))
    if count:
        assert (index[0], index[-1]) == (0, count - 1)
    if count <= points:
        assert index == list(range(count))
    elif points >= 128:
        assert index[:4] == [0, 1, 2, 3]
        gaps = [b - a for a, b in pairwise(index)]
        assert max(gaps) <= count / (points - points // 2 - 1) + 1


def test_histogram_bins_are_tenths_of_decades() -> None:
    first, counts = decade_histogram(f64(150.0, 101.0, 1.05, 0.5))
    assert first == -4  # 0.5 lies in [10^-0.4, 10^-0.3)
    assert {first + n: count for n, count in enumerate(counts) if count} == {-4: 1, 0: 1, 20: 1, 21: 1}
    assert decade_histogram(f64()) == (0, [])


def test_measures_are_told_apart_by_key_and_heading_and_have_a_formula() -> None:
    table = {*OF_SPECTRUM, *OF_MODULES, *OVERVIEW}
    assert len({measure.key for measure in table}) == len({measure.heading for measure in table}) == len(table)
    assert all(measure.formula for measure in table)
    assert {measure.unit for measure in table if measure.format == "share"} == {"%"}


def test_the_similarity_at_equal_ranks_is_on_the_grids_diagonal_and_0_without_directions() -> None:
    grid = {"ranks": [1, 2, 3], "reference_ranks": [1, 2, 4], "left": [[0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.3]]}
    found = measures_of(Findings(f64(2.0, 1.0), (9, 9), 8, {**grid, "right": grid["left"]}))
    for side in SIDES:
        assert similarity_ranks(MatrixRecord.model_construct(measures=found), side) == [1, 2]
        assert [found[similarity(side, k).key] for k in (1, 2)] == [0.1, 0.2]
    none = measures_of(Findings(f64(0.0), (9, 9), 4, {**grid, "ranks": [], "left": [], "right": []}))
    assert [none[f"similarity_left_{k}"] for k in (1, 2, 4)] == [0, 0, 0]
