"""How adapters start: variances, orthogonality, zeros."""

from __future__ import annotations

import math

import pytest
import torch

from multilora.tuner.factors import Factors
from multilora.tuner.initialization import initialize

N, R, D_IN, D_OUT = 3, 32, 512, 256


def start(init_weights: bool | str, learned: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    scaling = torch.empty(N, D_OUT) if learned else None
    A, B = torch.empty(N * R, D_IN), torch.empty(D_OUT, N * R)
    initialize(Factors(A, B, scaling), R, init_weights)
    return A, B, scaling


@pytest.mark.parametrize("init_weights", [True, "gaussian", "kaiming_uniform", "orthogonal", False])
def test_variances_are_those_of_lora_s_reference_code(init_weights: bool | str) -> None:
    A, B, scaling = start(init_weights)
    assert A.var().item() == pytest.approx(1 / (3 * D_IN), rel=0.05)
    assert B.var().item() == pytest.approx(1 / (3 * R), rel=0.05)  # the fan-in of B is r, not n·r
    assert scaling is not None
    assert bool((scaling == 0).all()) is (init_weights is not False)


def test_uniform_is_bounded_and_gaussian_is_not() -> None:
    assert start("kaiming_uniform")[0].abs().max() <= 1 / math.sqrt(D_IN)
    assert start("kaiming_uniform")[1].abs().max() <= 1 / math.sqrt(R)
    assert start("gaussian")[0].abs().max() > 1.5 / math.sqrt(D_IN)


def test_orthogonal_rows_are_orthonormal_across_the_modules() -> None:
    A, _, _ = start("orthogonal")
    torch.testing.assert_close(3 * A @ A.T, torch.eye(N * R), atol=1e-5, rtol=0)


def test_orthogonal_works_in_blocks_where_there_are_more_rows_than_dimensions() -> None:
    A, B, s = torch.empty(3 * 7, 10), torch.empty(6, 3 * 7), torch.empty(3)
    initialize(Factors(A, B, s), 7, "orthogonal")
    for block in A.split(10):
        torch.testing.assert_close(3 * block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)


def test_lora_init_is_lora_s() -> None:
    for init_weights in ("lora", True):
        A, B, _ = start(init_weights, learned=False)
        assert (B == 0).all()
        assert A.abs().max() <= 1 / math.sqrt(D_IN)
        assert A.var().item() == pytest.approx(1 / (3 * D_IN), rel=0.05)
