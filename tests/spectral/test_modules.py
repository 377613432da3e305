"""Among the modules: similarity, energy, overlap, and the scale's distribution."""

from __future__ import annotations

import pytest
import torch

from multilora.spectral.measures import mean_off_diagonal
from multilora.spectral.modules import module_factors, module_measures, scaling_distribution
from multilora.tuner.factors import Factors

F64 = torch.float64


def energy(A: torch.Tensor, B: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(B @ A) ** 2)


def test_the_modules_add_up_to_delta_weight() -> None:
    torch.manual_seed(0)
    A, B = torch.randn(6, 11, dtype=F64), torch.randn(9, 6, dtype=F64)
    modules = module_factors(Factors(A, B), 3)
    assert [module.total_rank for module in modules] == [2, 2, 2]
    torch.testing.assert_close(sum(module.delta() for module in modules), B @ A)


def test_modules_in_orthogonal_spaces() -> None:
    eye = torch.eye(6, dtype=F64)
    A, B = eye, eye * torch.tensor([1.0, 1.0, 2.0, 2.0, 0.0, 0.0], dtype=F64)
    found = module_measures(module_factors(Factors(A, B), 3), F64, energy(A, B))
    assert found["energy"] == pytest.approx([0.2, 0.8, 0.0])
    assert found["overlap"] == pytest.approx(1.0)
    assert found["effective_rank"] == pytest.approx([2, 2, 0])
    assert found["left"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]  # the third has no direction, not even its own
    assert mean_off_diagonal(found["left"]) == 0.0
    assert found["random_left"] == pytest.approx(2 / 6)


def test_equal_modules_add_up_and_opposite_ones_cancel() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, dtype=F64), torch.randn(5, 2, dtype=F64)
    for sign, overlap in ((1, 2.0), (-1, 0.0)):
        A, B = torch.cat([a, a]), torch.cat([b, sign * b], dim=1)
        found = module_measures(module_factors(Factors(A, B), 2), F64, energy(A, B))
        assert found["overlap"] == pytest.approx(overlap, abs=1e-12)
        assert mean_off_diagonal(found["left"]) == pytest.approx(1)
        assert mean_off_diagonal(found["right"]) == pytest.approx(1)
        assert found["energy"] == pytest.approx([0.5, 0.5])


def test_all_zero() -> None:
    found = module_measures(module_factors(Factors(torch.ones(4, 5), torch.zeros(3, 4)), 2), F64, 0.0)
    assert (found["energy"], found["overlap"], found["effective_rank"]) == ([0, 0], 0, [0, 0])


@pytest.mark.parametrize("shape", [(2,), (2, 9)])
def test_the_scale(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    scaling = torch.randn(shape)
    found = scaling_distribution(scaling)
    for module, values in zip(found, scaling.double().reshape(2, -1), strict=True):
        assert module["mean"] == pytest.approx(float(values.mean()))
        assert module["std"] == pytest.approx(float(values.std(correction=0)))
        assert module["min"] <= module["q05"] <= module["q50"] <= module["q95"] <= module["max"]
        assert module["q50"] == pytest.approx(float(values.median())) if values.numel() % 2 else True
