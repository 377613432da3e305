"""The adapter of a layer as a type: B', ΔW and rows of it, and what it refuses."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effort import examples
from multilora.tuner.factors import Factors

KINDS = ("none", "scalar", "vector")


def make(
    kind: str = "vector", n: int = 3, r: int = 2, d_in: int = 7, d_out: int = 5, dtype: torch.dtype = torch.float64
) -> Factors:
    g = torch.Generator().manual_seed(0)

    def rand(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64).to(dtype)

    shape = {"none": None, "scalar": (n,), "vector": (n, d_out)}[kind]
    return Factors(rand(n * r, d_in), rand(d_out, n * r), None if shape is None else rand(*shape), 0.7, "tanh", 1.3)


def sum_over_modules(factors: Factors, n: int) -> Tensor:
    """ΔW as the formula is written: Σ lora_alpha / r · f(c·s_i) ⊙ B_i A_i."""
    assert (factors.scaling_function, factors.scaling_constant) == ("tanh", 1.3)
    scales = [1.0] * n if factors.scaling is None else [torch.tanh(1.3 * s).reshape(-1, 1) for s in factors.scaling]
    parts = zip(scales, factors.lora_A.chunk(n), factors.lora_B.chunk(n, dim=1), strict=True)
    return sum(factors.alpha_over_r * s * (B @ A) for s, A, B in parts)  # type: ignore[return-value]


@settings(deadline=None, max_examples=examples(40))
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 4),
    r=st.integers(1, 3),
    d_in=st.integers(1, 9),
    d_out=st.integers(1, 9),
    cut=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_delta_rows_and_folding_agree_with_the_sum_over_modules(
    kind: str, n: int, r: int, d_in: int, d_out: int, cut: tuple[int, int]
) -> None:
    factors = make(kind, n, r, d_in, d_out)
    expected = sum_over_modules(factors, n)
    assert (factors.d_out, factors.d_in, factors.total_rank) == (d_out, d_in, n * r)
    assert factors.num_loras == (1 if kind == "none" else n)
    torch.testing.assert_close(factors.delta(), expected)
    torch.testing.assert_close(factors.folded().delta(), expected)
    torch.testing.assert_close(factors.scaled_B() @ factors.lora_A, expected)
    begin, end = sorted(cut)
    torch.testing.assert_close(factors.delta_rows(begin, end), expected[begin:end])
    torch.testing.assert_close(factors.delta_rows(begin, end, transposed=True), expected.t()[begin:end])


def test_delta_rows_fill_the_tensor_that_is_given() -> None:
    factors, out = make(dtype=torch.float32), torch.empty(2, 7)
    assert factors.delta_rows(1, 3, out=out) is out
    assert torch.equal(out, factors.delta_rows(1, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_fp32(kind: str) -> None:
    factors = make(kind, r=16, d_in=32, d_out=24, dtype=torch.bfloat16)
    exact = factors.to(torch.float64).delta()
    for delta in (factors.delta(), factors.folded().delta(), factors.delta_rows(0, 24)):
        assert delta.dtype == torch.float32
        assert (delta - exact).abs().max() < 1e-5 * exact.abs().max()


def test_no_tensor_is_copied_without_need() -> None:
    A, B, s = torch.randn(6, 7), torch.randn(5, 6), torch.randn(3)
    factors = Factors(A, B, s, 2.0)
    same = factors.to(torch.float32)
    assert (same.lora_A is A, same.lora_B is B, same.scaling is s) == (True, True, True)
    plain = Factors(A, B)
    assert plain.scaled_B() is B
    assert plain.folded().lora_A is A
    assert plain.folded().lora_B is B


def test_frozen_and_equal_by_identity_and_can_be_copied_and_saved() -> None:
    factors = make()
    with pytest.raises(AttributeError):
        factors.alpha_over_r = 2.0  # type: ignore[misc]
    assert factors == factors
    assert factors != make()
    file = io.BytesIO()
    torch.save(factors, file)
    file.seek(0)
    for other in (copy.deepcopy(factors), torch.load(file, weights_only=False)):
        assert torch.equal(other.delta(), factors.delta())
        assert other.lora_A is not factors.lora_A


def test_compiles_without_a_graph_break() -> None:
    factors = make(dtype=torch.float32)

    def run(A: Tensor, B: Tensor, s: Tensor) -> Tensor:
        return Factors(A, B, s, 0.7, "tanh", 1.3).delta().sin()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert factors.scaling is not None
    torch.testing.assert_close(compiled(factors.lora_A, factors.lora_B, factors.scaling), factors.delta().sin())


@pytest.mark.parametrize(
    ("A", "B", "scaling"),
    [
        ((5, 7), (5, 6), None),
        ((6,), (5, 6), None),
        ((6, 7), (5, 6, 1), None),
        ((6, 7), (5, 6), (4, 5)),
        ((6, 7), (5, 6), (3, 6)),
        ((6, 7), (5, 6), (0,)),
        ((6, 7), (5, 6), ()),
    ],
)
def test_wrong_shapes_are_refused_and_printed(
    A: tuple[int, ...], B: tuple[int, ...], scaling: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match="lora_A must be") as error:
        Factors(torch.zeros(A), torch.zeros(B), None if scaling is None else torch.zeros(scaling))
    assert f"lora_A {A}, lora_B {B}, scaling {scaling}" in str(error.value)
