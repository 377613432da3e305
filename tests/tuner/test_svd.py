"""The SVD in factor space is the SVD of the product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effort import examples
from multilora.tuner.factors import Factors
from multilora.tuner.svd import factors_svd, one_thread, truncated, truncation_error

sizes = st.integers(1, 13)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """lora_A and scaled_B of odd shapes, of deficient rank, with zero rows, of very different sizes."""
    d_in, d_out, rank = draw(sizes), draw(sizes), draw(sizes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    A = torch.randn(rank, d_in, dtype=torch.float64, generator=generator)
    B = torch.randn(d_out, rank, dtype=torch.float64, generator=generator)
    kind = draw(st.sampled_from(["full", "equal rows", "zero columns", "zero A", "zero B"]))
    if kind == "equal rows":
        A[:] = A[0].clone()
    elif kind == "zero columns":
        B[:, draw(st.integers(0, rank - 1)) :] = 0
    elif kind == "zero A":
        A.zero_()
    elif kind == "zero B":
        B.zero_()
    return A, B * 10.0 ** draw(st.integers(-12, 12))


@settings(max_examples=examples(200), deadline=None)
@given(pairs())
def test_it_is_the_svd_of_the_product(pair: tuple[Tensor, Tensor]) -> None:
    A, B = pair
    dense = B @ A
    U, S, Vh = factors_svd(Factors(A, B))
    k = min(len(A), *dense.shape)
    assert (U.shape, S.shape, Vh.shape) == ((len(dense), k), (k,), (k, dense.shape[1]))
    tiny = 1e-13 * torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(B)
    assert (S - torch.linalg.svdvals(dense)[:k]).abs().max() <= tiny
    assert ((U * S) @ Vh - dense).abs().max() <= tiny
    assert (S[:-1] >= S[1:]).all()
    identity = torch.eye(k, dtype=torch.float64)
    torch.testing.assert_close(U.t() @ U, identity)
    torch.testing.assert_close(Vh @ Vh.t(), identity)


@settings(max_examples=examples(200), deadline=None)
@given(pairs(), sizes)
def test_truncation_is_the_best_and_its_error_is_the_measured_one(pair: tuple[Tensor, Tensor], rank: int) -> None:
    A, B = pair
    dense = B @ A
    cut, error, norm = truncated(Factors(A, B), rank)
    assert cut.total_rank <= rank
    size = torch.linalg.matrix_norm(dense)
    assert norm == pytest.approx(float(size), rel=1e-9, abs=1e-25)
    if size == 0:
        assert error == 0
        return
    singular = torch.linalg.svdvals(dense)
    assert error == pytest.approx(float(torch.linalg.vector_norm(singular[rank:]) / size), abs=1e-7)
    assert error == pytest.approx(float(torch.linalg.matrix_norm(dense - cut.delta()) / size), abs=1e-7)


def test_both_sides_get_the_root_of_the_singular_values() -> None:
    torch.manual_seed(0)
    cut, _, _ = truncated(Factors(torch.randn(6, 11), 1e-3 * torch.randn(9, 6)), 4)
    torch.testing.assert_close(torch.linalg.vector_norm(cut.lora_A, dim=1), torch.linalg.vector_norm(cut.lora_B, dim=0))


def test_a_pair_that_is_small_enough_comes_back_as_it_is() -> None:
    A, B = torch.randn(3, 5), torch.randn(4, 3)
    cut, error, _ = truncated(Factors(A, B), 3)
    assert cut.lora_A is A
    assert cut.lora_B is B
    assert error == 0


def test_errors_of_tiny_and_of_zero_adapters_are_numbers() -> None:
    S = torch.tensor([3e-200, 4e-200], dtype=torch.float64).flip(0)
    assert truncation_error(S, 1) == pytest.approx(0.6)
    assert truncation_error(torch.zeros(3), 1) == 0.0
    assert truncation_error(torch.zeros(0), 1) == 0.0


def test_single_precision_on_request() -> None:
    torch.manual_seed(0)
    A, B = torch.randn(6, 40), torch.randn(30, 6)
    U, S, Vh = factors_svd(Factors(A, B), dtype=torch.float32)
    assert U.dtype == S.dtype == Vh.dtype == torch.float32
    torch.testing.assert_close((U * S) @ Vh, B @ A, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaling", [torch.tensor([0.5, 2.0, -1.0]), None])
def test_scale_and_constant_are_part_of_it(scaling: Tensor | None) -> None:
    torch.manual_seed(0)
    factors = Factors(torch.randn(6, 40), torch.randn(30, 6), scaling, 0.3)
    U, S, Vh = factors_svd(factors)
    torch.testing.assert_close(((U * S) @ Vh).float(), factors.delta())


def test_one_thread_and_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
