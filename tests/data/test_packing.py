from __future__ import annotations

from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multilora.base.loading import ModelSource
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.mixture import mixture_stream
from multilora.data.packing import LOOKAHEAD, packed_rows
from multilora.recipe.file import load_recipe
from multilora.training.prepare import encode_mixture, open_tasks
from places import ROOT

CASES = st.integers(4, 40).flatmap(
    lambda row: st.tuples(st.just(row), st.lists(st.integers(1, row), max_size=60), st.integers(1, 12))
)


def array(lengths: list[int]) -> np.ndarray:
    return np.array(lengths, dtype=np.int64)


@given(CASES)
def test_every_example_comes_once_and_rows_are_not_too_long(case: tuple[int, list[int], int]) -> None:
    row_length, lengths, lookahead = case
    rows = list(packed_rows(range(len(lengths)), array(lengths), row_length, lookahead))
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[example] for example in row) <= row_length for row in rows)
    assert all(list(row) == sorted(row) for row in rows)


@given(CASES)
def test_no_example_is_overtaken_by_more_than_the_buffer(case: tuple[int, list[int], int]) -> None:
    row_length, lengths, lookahead = case
    left = list(range(len(lengths)))
    for row in packed_rows(range(len(lengths)), array(lengths), row_length, lookahead):
        assert row[0] == left[0]  # the one that waits longest
        assert set(row) <= set(left[:lookahead])
        left = [example for example in left if example not in row]


@settings(deadline=None)
@given(CASES.filter(lambda case: 0 < len(case[1]) <= 10))
def test_no_choice_of_the_buffer_fills_a_row_better(case: tuple[int, list[int], int]) -> None:
    row_length, lengths, _ = case
    row = next(packed_rows(range(len(lengths)), array(lengths), row_length, 10))
    others = lengths[1:]
    sums = [
        sum(size for place, size in enumerate(others) if choice >> place & 1) + lengths[0]
        for choice in range(2 ** len(others))
    ]
    assert sum(lengths[example] for example in row) == max(total for total in sums if total <= row_length)


def test_an_endless_order_is_read_as_far_as_needed() -> None:
    rows = list(islice(packed_rows((n % 3 for n in count()), array([5, 3, 4]), 10), 20))
    assert len(rows) == 20


def test_the_rows_do_not_depend_on_how_many_are_asked_for() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 70)
    stream = lambda: packed_rows(mixture_stream([40, 30], [1, 2], 3), lengths, 60)  # noqa: E731
    assert list(islice(stream(), 20)) == list(islice(stream(), 50))[:20]


def test_the_shares_of_a_mixture_stay_but_for_the_buffer() -> None:
    # One task's examples are long, the other's short: a packer that picks what fits would favour one.
    sizes, rates = [500, 500], [1.0, 3.0]
    lengths = np.concatenate([np.full(500, 70), np.random.default_rng(0).integers(1, 20, 500)])
    for rows in (10, 100, 1000):
        used = [
            example
            for row in islice(packed_rows(mixture_stream(sizes, rates, 0), lengths, 100), rows)
            for example in row
        ]
        ahead = sum(example < 500 for example in used) - sum(
            example < 500 for example in islice(mixture_stream(sizes, rates, 0), len(used))
        )
        assert abs(ahead) <= LOOKAHEAD


def test_the_real_mixture_fills_its_rows(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTILORA_DATA", str(data_dir))
    recipe = load_recipe(ROOT / "recipes" / "gsm8k-alpaca.yaml")
    mixture = encode_mixture(
        recipe, open_tasks(recipe), PromptCompletionEncoder(ModelSource.find(recipe.model).tokenizer())
    )
    stream, lengths = mixture_stream(mixture.sizes, mixture.rates, 0), mixture.lengths
    rows = list(islice(packed_rows(stream, lengths, recipe.training.row_length), 5000))
    used = sum(int(lengths[list(row)].sum()) for row in rows)
    assert used / (len(rows) * recipe.training.row_length) > 0.99
