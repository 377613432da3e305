from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multilora.data.mixture import mixture_order, mixture_quotas

RATES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)
TASKS = st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 100)), min_size=1, max_size=5)


def split(tasks: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [size for size, _ in tasks], [rate for _, rate in tasks]


def of_task(order: np.ndarray, sizes: list[int], task: int) -> list[int]:
    first = sum(sizes[:task])
    return [row - first for row in order.tolist() if first <= row < first + sizes[task]]


@given(RATES, st.integers(1, 10_000))
def test_quotas_sum_to_the_epoch_and_are_within_one_row_of_the_exact_share(rates: list[float], length: int) -> None:
    quotas = mixture_quotas(rates, length)
    assert sum(quotas) == length
    for rate, quota in zip(rates, quotas, strict=True):
        assert abs(quota - rate / sum(rates) * length) < 1 + 1e-6


@given(RATES, st.integers(1, 1000), st.sampled_from([0.5, 2.0, 1024.0]))
def test_quotas_depend_on_the_rates_proportions_alone(rates: list[float], length: int, factor: float) -> None:
    assert mixture_quotas(rates, length) == mixture_quotas([rate * factor for rate in rates], length)


@settings(max_examples=50, deadline=None)
@given(TASKS, st.integers(0, 2**32), st.integers(0, 5), st.integers(1, 100))
def test_every_epoch_has_each_tasks_quota(tasks: list[tuple[int, float]], seed: int, epoch: int, length: int) -> None:
    sizes, rates = split(tasks)
    order = mixture_order(sizes, rates, seed, epoch, length)
    assert len(order) == length
    assert [len(of_task(order, sizes, task)) for task in range(len(sizes))] == mixture_quotas(rates, length)


@settings(max_examples=50, deadline=None)
@given(TASKS, st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 60))
def test_no_row_repeats_until_all_have_been_seen_across_epochs(
    tasks: list[tuple[int, float]], seed: int, epochs: int, length: int
) -> None:
    sizes, rates = split(tasks)
    seen: list[Counter[int]] = [Counter() for _ in sizes]
    for epoch in range(epochs):
        order = mixture_order(sizes, rates, seed, epoch, length)
        for task, size in enumerate(sizes):
            seen[task].update(of_task(order, sizes, task))
            counts = [seen[task][row] for row in range(size)]
            assert max(counts) - min(counts) <= 1
            assert sum(counts) == mixture_quotas(rates, length)[task] * (epoch + 1)


def test_one_task_at_its_own_size_is_a_fresh_permutation_each_epoch() -> None:
    epochs = [mixture_order([50], [1.0], 0, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_is_a_pure_function_of_its_arguments() -> None:
    first = mixture_order([40, 25], [2, 1], 7, 3)
    np.random.seed(0)
    np.random.default_rng().random()
    assert first.tolist() == mixture_order([40, 25], [2, 1], 7, 3).tolist()
    assert first.tolist() != mixture_order([40, 25], [2, 1], 8, 3).tolist()
    assert first.tolist() != mixture_order([40, 25], [2, 1], 7, 4).tolist()


def test_tasks_are_mixed_not_one_after_the_other() -> None:
    order = mixture_order([1000, 1000], [1, 1], 0, 0)
    changes = int(np.count_nonzero(np.diff(order < 1000)))
    assert 900 < changes < 1100  # 1000 expected, standard deviation about 22


def test_the_order_stays_the_same_in_every_version() -> None:
    # A run resumed after an upgrade must go on with the rows it would have had. Not a law, a promise.
    assert mixture_order([5, 4], [1.0, 2.0], seed=3, epoch=1).tolist() == EXPECTED


EXPECTED = [5, 4, 7, 6, 6, 8, 2, 1, 8]


@pytest.mark.parametrize(
    "arguments",
    [
        ([], [], 0, 0),
        ([1], [1, 1], 0, 0),
        ([0], [1], 0, 0),
        ([1], [0], 0, 0),
        ([1], [float("inf")], 0, 0),
        ([1], [float("nan")], 0, 0),
        ([1], [1], -1, 0),
        ([1], [1], 0, -1),
        ([1], [1], 0, 0, 0),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"must be|as many"):
        mixture_order(*arguments)
