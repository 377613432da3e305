"""How adapters start: variances, orthogonality, zeros."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from multilora import InputError
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.factors import Factors, effective_scaling
from multilora.tuner.initialization import SMALL, STARTS, InitWeights, initialize

N, R, D_IN, D_OUT = 3, 32, 512, 256


def start(
    init_weights: bool | InitWeights, learned: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    scaling = torch.empty(N, D_OUT) if learned else None
    A, B = torch.empty(N * R, D_IN), torch.empty(D_OUT, N * R)
    initialize(Factors(A, B, scaling), R, init_weights)
    return A, B, scaling


@pytest.mark.parametrize("init_weights", ["gaussian", "kaiming_uniform", "orthogonal", False])
def test_variances_are_those_of_lora_s_reference_code(init_weights: bool | str) -> None:
    A, B, scaling = start(init_weights)
    assert A.var().item() == pytest.approx(1 / (3 * D_IN), rel=0.05)
    assert B.var().item() == pytest.approx(1 / (3 * R), rel=0.05)  # the fan-in of B is r, not n·r
    assert scaling is not None
    assert bool((scaling == 0).all()) is (init_weights is not False)


def test_the_calibrated_start_has_the_usual_A_and_a_small_B() -> None:
    for init_weights in (True, "calibrated"):
        A, B, scaling = start(init_weights)
        assert A.var().item() == pytest.approx(1 / (3 * D_IN), rel=0.05)
        assert B.std().item() == pytest.approx(SMALL, rel=0.05)
        assert scaling is not None
        assert (scaling == 0).all()


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


def test_the_names_for_type_checkers_are_those_of_the_table() -> None:
    assert get_args(InitWeights) == tuple(STARTS)


@pytest.mark.parametrize("name", STARTS)
def test_every_start_begins_at_the_base_model_and_is_documented(name: InitWeights) -> None:
    factors = Factors(torch.empty(6, 8), torch.empty(5, 6), None if STARTS[name].zero == "lora_B" else torch.empty(3))
    initialize(factors, 2, name)
    assert (factors.delta() == 0).all()
    assert factors.lora_A.isfinite().all()
    assert (factors.lora_A != 0).any()
    # Something learns from the first step on: of scale and B exactly one is zero.
    assert bool((factors.lora_B == 0).all()) is (factors.scaling is None)
    assert f"{name!r}: {STARTS[name].help}." in MultiLoraConfig.__dataclass_fields__["init_weights"].metadata["help"]


@pytest.mark.parametrize("name", STARTS)
def test_every_start_is_checked_against_the_scaling(name: InitWeights) -> None:
    if STARTS[name].zero == "lora_B":
        with pytest.raises(InputError, match=f"init_weights='{name}' .* needs scaling='none'"):
            MultiLoraConfig(init_weights=name)
    else:
        MultiLoraConfig(init_weights=name)
        with pytest.warns(UserWarning, match=f"init_weights='{name}': without a scale"):
            MultiLoraConfig(init_weights=name, scaling="none")


def test_bytes_of_a_seed_are_those_of_the_first_version() -> None:
    """Training from a seed must not change between versions: the first random numbers are A's, the next B's."""
    torch.manual_seed(0)
    expected = [torch.empty(6, 8).normal_(std=1 / math.sqrt(24)), torch.empty(5, 6).normal_(std=1 / math.sqrt(6))]
    torch.manual_seed(0)
    factors = Factors(torch.empty(6, 8), torch.empty(5, 6), torch.empty(3))
    initialize(factors, 2, "gaussian")
    assert torch.equal(factors.lora_A, expected[0])
    assert torch.equal(factors.lora_B, expected[1])


@pytest.mark.parametrize(("lr", "reached"), [(1e-6, 0.75), (5e-5, 0.999), (2e-4, 0.999)])
def test_a_scale_that_was_cast_to_bf16_still_counts_in_the_default_start(lr: float, reached: float) -> None:
    """TRL casts what is trained on 4-bit bases. In bf16 a number stops growing where a step is below its resolution."""
    config = MultiLoraConfig()
    assert config.scaling_function == "tanh"
    assert config.scaling_constant is not None
    scale = torch.zeros((), dtype=torch.bfloat16, requires_grad=True)
    optimizer = torch.optim.AdamW([scale], lr=lr)
    for _ in range(1500):
        scale.grad = torch.tensor(-1.0, dtype=torch.bfloat16)
        optimizer.step()
    assert scale.item() < 700 * lr  # which is all that a linear scale would have
    assert effective_scaling(scale.detach(), "tanh", config.scaling_constant).item() >= reached
