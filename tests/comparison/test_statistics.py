from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from multilora.comparison.statistics import Floats, PairedTask, mean_over_seeds, paired_difference


def mean(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]


def task(first: Floats, second: Floats) -> PairedTask:
    """(seeds, examples) of right and wrong answers."""
    return PairedTask(*(np.stack([right, np.ones_like(right)], axis=-1) for right in (first, second)), mean)


def test_the_interval_of_the_mean_is_students() -> None:
    found = mean_over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high is not None
    assert found.high - 2.0 == pytest.approx(4.302653 * 1.0 / np.sqrt(3), rel=1e-6)  # t(0.975, 2) as in any table
    assert (mean_over_seeds([0.5]).low, mean_over_seeds([0.5]).high) == (None, None)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 1000))
def test_swapping_the_methods_turns_the_sign(seeds: int, examples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(2, size=(seeds, examples)).astype(float) for _ in range(2))
    one, other = (paired_difference([task(*pair)], draws=400) for pair in ((a, b), (b, a)))
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high)
    assert one.mean == pytest.approx(a.mean() - b.mean())
    assert (one.p_value is None) == (seeds < 5)


def test_what_is_the_same_everywhere_cancels() -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(2, size=(5, 100)).astype(float)
    found = paired_difference([task(right, right)])
    assert (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_spread_is_that_of_seeds_and_examples_together() -> None:
    # Variance of the mean of an S × N table of random rows and columns: var_rows/S + var_columns/N, the first known by
    # S - 1 degrees of freedom; as a bootstrap sees it, so within some percent.
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(40, 1)), rng.normal(size=(1, 200))
    table = rows + columns
    found = paired_difference([task(table, np.zeros_like(table))], draws=20_000)
    from_rows, from_columns = rows.var(ddof=1) / 40, columns.var() / 200
    freedom = 39 * ((from_rows + from_columns) / from_rows) ** 2
    expected = 2 * t.ppf(0.975, freedom) * np.sqrt(from_rows + from_columns)
    assert found.high - found.low == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("of_examples", [1.0, 0.0])
def test_five_seeds_give_the_coverage_and_the_p_values_they_claim(of_examples: float) -> None:
    # Of no difference; 40 examples and 5 seeds, of which unstretched percentiles cover 86 and 89 %.
    rng = np.random.default_rng(2)
    covered, rejected, times = 0, 0, 300
    for number in range(times):
        effects = rng.normal(size=(5, 1)) + of_examples * rng.normal(size=(1, 40)) + rng.normal(size=(5, 40))
        found = paired_difference([task(effects, np.zeros_like(effects))], seed=number, draws=500)
        covered += found.low <= 0 <= found.high
        assert found.p_value is not None
        rejected += found.p_value < 0.05
    assert 0.91 < covered / times < 0.99
    assert rejected / times < 0.08


def test_tasks_count_alike_whatever_their_size() -> None:
    small, large = np.ones((2, 10)), np.ones((2, 1000))
    found = paired_difference([task(small, 0 * small), task(0 * large, large)], draws=100)
    assert found.mean == pytest.approx(0.0)


def test_chunks_make_no_difference_to_what_is_measured() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(2, size=(3, 50)).astype(float) for _ in range(2))
    whole = paired_difference([task(a, b)], draws=5000)
    chunked = paired_difference([task(a, b)], draws=5000, held=500)
    assert chunked.mean == whole.mean
    assert chunked.low == pytest.approx(whole.low, abs=0.02)


def test_a_metric_that_is_no_mean() -> None:
    # F1 from sums of true positives, false positives and false negatives.
    def f1(sums: Floats) -> Floats:
        return 2 * sums[..., 0] / np.maximum(2 * sums[..., 0] + sums[..., 1] + sums[..., 2], 1)

    perfect = np.array([[[1, 0, 0], [0, 0, 0], [1, 0, 0]]], dtype=float)
    half = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]]], dtype=float)
    assert paired_difference([PairedTask(perfect, half, f1)], draws=50).mean == pytest.approx(0.5)
