from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from multilora.data.mixture import CountedBy, mixture_order, mixture_quotas, mixture_stream, rates_of

RATES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)
TASKS = st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 100)), min_size=1, max_size=5)


def split(tasks: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [size for size, _ in tasks], [rate for _, rate in tasks]


def of_task(order: np.ndarray, sizes: list[int], task: int) -> list[int]:
    first = sum(sizes[:task])
    return [row - first for row in order.tolist() if first <= row < first + sizes[task]]


def quotas_of(rates: Sequence[float], length: int, epochs: int = 1) -> list[list[int]]:
    return list(islice(mixture_quotas(rates, length), epochs))


@settings(max_examples=examples(50), deadline=None)
@given(RATES, st.integers(1, 10_000), st.integers(1, 30))
def test_quotas_sum_to_the_epoch_and_do_not_drift_from_the_exact_share(
    rates: list[float], length: int, epochs: int
) -> None:
    quotas = quotas_of(rates, length, epochs)
    assert all(sum(epoch) == length and min(epoch) >= 0 for epoch in quotas)
    for number in range(1, epochs + 1):
        for task, rate in enumerate(rates):
            exact = rate / sum(rates) * length * number
            # A task may wait for its first row until others have given theirs back, if its share is less than one.
            slack = 1 if min(rates) / sum(rates) * length >= 1 else len(rates)
            assert abs(sum(epoch[task] for epoch in quotas[:number]) - exact) < slack + 1e-6


def test_a_rare_task_comes_after_all() -> None:
    assert [task for _, task in quotas_of([99, 1], 10, 20)].count(1) == 2


@given(RATES, st.integers(1, 1000), st.sampled_from([0.5, 2.0, 1024.0]))
def test_quotas_depend_on_the_rates_proportions_alone(rates: list[float], length: int, factor: float) -> None:
    assert quotas_of(rates, length, 3) == quotas_of([rate * factor for rate in rates], length, 3)


@settings(max_examples=examples(50), deadline=None)
@given(TASKS, st.integers(0, 2**32), st.integers(0, 5), st.integers(1, 100))
def test_every_epoch_has_each_tasks_quota(tasks: list[tuple[int, float]], seed: int, epoch: int, length: int) -> None:
    sizes, rates = split(tasks)
    order = mixture_order(sizes, rates, seed, epoch, length)
    assert len(order) == length
    expected = quotas_of(rates, length, epoch + 1)[-1]
    assert [len(of_task(order, sizes, task)) for task in range(len(sizes))] == expected


@settings(max_examples=examples(50), deadline=None)
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


def test_shares_are_those_of_the_rates_over_ten_thousand_draws() -> None:
    # Small tasks: an epoch of 60 rows whose quotas are all rounded, 167 times over.
    sizes, rates = [20, 15, 15, 10], [3.0, 1.0, 0.7, 0.31]
    drawn = np.array(list(islice(mixture_stream(sizes, rates, 0), 10_000)))
    for task, rate in enumerate(rates):
        first = sum(sizes[:task])
        share = np.mean((drawn >= first) & (drawn < first + sizes[task]))
        assert abs(share - rate / sum(rates)) < 0.01


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


EXPECTED = [6, 4, 8, 6, 7, 8, 2, 1, 5]


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


# Rates --------------------------------------------------------------------------------------------------------------

COUNTS = st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, 2000)), min_size=1, max_size=6).map(
    lambda tasks: ([size for size, _ in tasks], [size * mean for size, mean in tasks])
)
RULES: list[dict[str, Any]] = [
    {"rule": "explicit"},
    {"rule": "equal"},
    {"rule": "proportional"},
    {"rule": "proportional", "examples_cap": 1000},
    {"rule": "temperature", "temperature": 2.0},
]


def shares(rates: Sequence[float]) -> list[float]:
    return [rate / sum(rates) for rate in rates]


@given(COUNTS, st.sampled_from(["examples", "tokens"]))
def test_temperature_one_is_proportional(counts: tuple[list[int], list[int]], counted_by: CountedBy) -> None:
    one = rates_of(*counts, "temperature", temperature=1.0, counted_by=counted_by)
    assert one == rates_of(*counts, "proportional", counted_by=counted_by)


@given(COUNTS, st.sampled_from(["examples", "tokens"]))
def test_a_large_temperature_is_equal(counts: tuple[list[int], list[int]], counted_by: CountedBy) -> None:
    large = rates_of(*counts, "temperature", temperature=1e9, counted_by=counted_by)
    assert shares(large) == pytest.approx(shares(rates_of(*counts, "equal", counted_by=counted_by)), rel=1e-6)


@given(COUNTS, st.floats(1, 100), st.floats(1, 100))
def test_a_higher_temperature_helps_the_smallest(
    counts: tuple[list[int], list[int]], first: float, second: float
) -> None:
    low, high = sorted([first, second])
    smallest = counts[0].index(min(counts[0]))
    rates = [shares(rates_of(*counts, "temperature", temperature=each)) for each in (low, high)]
    assert rates[0][smallest] <= rates[1][smallest] * (1 + 1e-9)


@given(COUNTS)
def test_a_cap_that_no_task_reaches_is_none_and_one_that_all_reach_is_equal(
    counts: tuple[list[int], list[int]],
) -> None:
    capped = [rates_of(*counts, "proportional", examples_cap=cap) for cap in (max(counts[0]), min(counts[0]))]
    assert capped[0] == rates_of(*counts, "proportional")
    assert shares(capped[1]) == pytest.approx(shares(rates_of(*counts, "equal")))


@given(COUNTS)
def test_proportional_is_the_same_by_tokens_and_by_examples(counts: tuple[list[int], list[int]]) -> None:
    by_tokens = rates_of(*counts, "proportional", counted_by="tokens")
    assert shares(by_tokens) == pytest.approx(shares(rates_of(*counts, "proportional")))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1000, 4000), st.integers(5, 50)), min_size=2, max_size=5),
    st.sampled_from(RULES),
    st.integers(0, 1000),
)
@pytest.mark.parametrize("counted_by", ["examples", "tokens"])
def test_shares_of_ten_thousand_draws_are_within_a_point(
    counted_by: CountedBy, tasks: list[tuple[int, int]], rule: dict[str, Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Of similar lengths, or a share in tokens would vary by chance; an epoch's quotas are exact to one row.
    lengths = [rng.integers(mean - mean // 5, mean + mean // 5 + 1, size) for size, mean in tasks]
    sizes, tokens = [len(each) for each in lengths], [int(each.sum()) for each in lengths]
    rates = rates_of(sizes, tokens, counted_by=counted_by, **rule)
    order = list(islice(mixture_stream(sizes, rates, seed), 10_000))
    weight = np.concatenate(lengths) if counted_by == "tokens" else np.ones(sum(sizes))
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    seen = np.bincount(task_of[order], weight[order], len(sizes))
    n = [min(each, rule.get("examples_cap", each)) for each in (tokens if counted_by == "tokens" else sizes)]
    expected = {
        "explicit": [1.0] * len(n),
        "equal": [1.0] * len(n),
        "proportional": n,
        "temperature": [each**0.5 for each in n],
    }[rule["rule"]]
    assert shares(seen.tolist()) == pytest.approx(shares(expected), abs=0.01)


@settings(max_examples=examples(50), deadline=None)
@given(TASKS, st.integers(0, 1000))
def test_every_example_is_seen_before_any_repeats(tasks: list[tuple[int, float]], seed: int) -> None:
    sizes, rates = split(tasks)
    order = np.array(list(islice(mixture_stream(sizes, rates, seed), 5 * sum(sizes))))
    for task, size in enumerate(sizes):
        rows = of_task(order, sizes, task)
        for start in range(0, len(rows), size):
            seen = rows[start : start + size]
            assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.5}, {"examples_cap": 0}, {"explicit": [1.0]}],
)
def test_rates_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1|as many"):
        rates_of([1, 2], [3, 4], "explicit", **options)
