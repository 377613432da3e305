"""Top singular vectors of large matrices: the random method is checked, and gives way where it does not converge."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from multilora.spectral import dense
from multilora.spectral.subspace import subspace_similarity

# The random method at sizes at which the exact one is quick.
top_svd = partial(dense.top_svd, exact_up_to=50)


def with_spectrum(values: Tensor, d_out: int, d_in: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    left = torch.linalg.qr(torch.randn(d_out, len(values), dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(d_in, len(values), dtype=torch.float64, generator=generator))[0]
    return (left * values.double()) @ right.t()


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
@pytest.mark.parametrize("decay", [0.7, 0.9])
def test_it_finds_the_strongest_directions(shape: tuple[int, int], decay: float) -> None:
    values = decay ** torch.arange(300)
    matrix = with_spectrum(values, *shape)
    found = top_svd(matrix, 8, values=values)
    assert found.method == "randomised"
    assert found.residual <= 1e-4
    assert (found.S - values[:8]).abs().max() <= 1e-4
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    assert subspace_similarity(found.U, U, 8, 8) >= 0.999
    assert subspace_similarity(found.Vh.t(), Vh.t(), 8, 8) >= 0.999
    torch.testing.assert_close(found.U.t() @ found.U, torch.eye(8, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_residual_is_the_measured_one() -> None:
    matrix = with_spectrum(0.97 ** torch.arange(300), 400, 300)
    found = top_svd(matrix, 5)
    measured = torch.linalg.vector_norm(matrix @ found.Vh.t() - found.U * found.S, dim=0).max() / found.S[0]
    assert found.residual == pytest.approx(float(measured), rel=1e-6)


def test_a_spectrum_that_is_too_flat_for_it_is_decomposed_as_a_whole() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(120, 120, dtype=torch.float64)
    found = top_svd(matrix, 40, tolerance=1e-12)
    assert found.method == "exact"
    torch.testing.assert_close(found.S, torch.linalg.svdvals(matrix)[:40])


def test_exact_on_request_and_where_it_is_cheap() -> None:
    matrix = with_spectrum(0.9 ** torch.arange(100), 100, 100)
    assert top_svd(matrix, 4, exact=True).method == "exact"
    assert top_svd(matrix[:40], 4).method == "exact"


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_rank_deficient_matrices(rank: int) -> None:
    matrix = with_spectrum(torch.ones(rank), 200, 150) if rank else torch.zeros(200, 150, dtype=torch.float64)
    found = top_svd(matrix, 10)
    expected = torch.zeros(10, dtype=torch.float64)
    expected[:rank] = 1
    assert (found.S - expected).abs().max() <= 1e-9
    assert (found.U * found.S @ found.Vh - matrix).abs().max() <= 1e-9


def test_more_vectors_than_the_matrix_has() -> None:
    found = top_svd(torch.randn(70, 60), 100)
    assert (found.U.shape, found.S.shape, found.Vh.shape) == ((70, 60), (60,), (60, 60))
