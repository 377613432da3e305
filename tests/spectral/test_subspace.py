"""Subspace similarity, by hand and by its laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effort import examples
from multilora.spectral.subspace import grid_ranks, similarity_grid, subspace_similarity


def basis(d: int, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=generator))[0]


def test_by_hand() -> None:
    e = torch.eye(4, dtype=torch.float64)
    turned = torch.stack([(e[0] + e[2]) / 2**0.5, e[1]], dim=1)  # half of e_0, and e_1
    assert subspace_similarity(e[:, :2], turned, 1, 1) == pytest.approx(0.5)
    assert subspace_similarity(e[:, :2], turned, 2, 2) == pytest.approx(0.75)
    assert subspace_similarity(e[:, :2], turned, 1, 2) == pytest.approx(0.5)
    assert subspace_similarity(e[:, :1], e, 1, 4) == 1.0
    assert subspace_similarity(e[:, :2], e[:, 2:], 2, 2) == 0.0


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(9, 12), st.integers(0, 99))
def test_laws(i: int, j: int, d: int, seed: int) -> None:
    U1, U2 = basis(d, 9, seed), basis(d, 9, seed + 1000)
    phi = subspace_similarity(U1, U2, i, j)
    assert -1e-12 <= phi <= 1 + 1e-12
    assert phi == pytest.approx(subspace_similarity(U2, U1, j, i))
    rotation = basis(i, i, seed)
    assert phi == pytest.approx(subspace_similarity(U1[:, :i] @ rotation, U2, i, j))
    assert subspace_similarity(U1, U1, i, i) == pytest.approx(1)
    direct = torch.linalg.matrix_norm(U1[:, :i].t() @ U2[:, :j]) ** 2 / min(i, j)
    assert phi == pytest.approx(float(direct))


def test_random_subspaces_have_max_over_d_on_average() -> None:
    values = [subspace_similarity(basis(40, 3, seed), basis(40, 8, 10_000 + seed), 3, 8) for seed in range(120)]
    assert sum(values) / len(values) == pytest.approx(8 / 40, rel=0.08)


def test_the_grid_is_phi_at_every_pair_and_zero_directions_are_alike_to_none() -> None:
    U1, U2 = basis(20, 6, 1), basis(20, 8, 2)
    grid = similarity_grid(U1, U2, [1, 2, 6], [1, 4, 8])
    for i, row in zip([1, 2, 6], grid, strict=True):
        assert row == pytest.approx([subspace_similarity(U1, U2, i, j) for j in (1, 4, 8)])
    assert similarity_grid(U1[:, :0], U2, [], [1, 2]) == []
    assert subspace_similarity(U1[:, :0], U2, 0, 3) == 0.0


def test_spaces_that_differ_and_vectors_that_lack_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(20, 3\), \(21, 3\)"):
        subspace_similarity(basis(20, 3, 0), basis(21, 3, 0), 1, 1)
    with pytest.raises(ValueError, match="at least 4"):
        subspace_similarity(basis(20, 3, 0), basis(20, 3, 0), 4, 1)


def test_ranks_of_a_grid() -> None:
    assert grid_ranks(0) == []
    assert grid_ranks(1) == [1]
    assert grid_ranks(8) == [1, 2, 4, 8]
    assert grid_ranks(24) == [1, 2, 4, 8, 16, 24]
