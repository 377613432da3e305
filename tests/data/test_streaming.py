"""Streams: order, shares, shards, memory, and what is wrong with a row in the middle."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multilora import InputError
from multilora.data.counts import TaskCounts, counts_of_all
from multilora.data.guard import LeakedRows, WithoutLeaks
from multilora.data.leakage import EvaluationRows
from multilora.data.limits import ModelLimits
from multilora.data.streaming import MixtureStream, StreamedMixture, turns
from multilora.recipe.file import load_recipe
from multilora.training.prepare import open_tasks, streamed_mixture
from tiny_run import make_recipe

LIMITS = ModelLimits(embeddings=10**9, positions=None)


class Numbers:
    """Encodes a row as one token of prompt and its number as the completion; remembers what it was asked for."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def segments(self, examples: Sequence[Any]) -> list[Any]:
        numbers = [int(example.completion) for example in examples]
        self.encoded += numbers
        return [[([1], False), ([number] * (1 + number % 4), True)] for number in numbers]


def write(path: Path, rows: int, first: int = 0) -> None:
    path.write_text("".join(json.dumps({"q": "x", "a": first + row}) + "\n" for row in range(rows)))


def streamed(
    folder: Path, sizes: Sequence[int], *overrides: str, shard: tuple[int, int] = (0, 1), buffer: int = 7
) -> StreamedMixture:
    """Tasks a (numbers from 0) and b (numbers from 100,000), as many as there are sizes."""
    (folder / "model").mkdir(exist_ok=True)  # none is needed
    recipe_path = make_recipe(folder)
    for name, size, first in zip("ab", sizes, (0, 100_000), strict=False):
        write(folder / f"{name}.jsonl", size, first)
    options = ["mixture.streaming=true", f"mixture.shuffle_buffer={buffer}", *overrides]
    if len(sizes) == 1:
        options.append("tasks.b=null")
    recipe = load_recipe(recipe_path, options)
    encoder: Any = Numbers()
    return streamed_mixture(recipe, open_tasks(recipe), encoder, shard)


def numbers(mixture: StreamedMixture, count: int) -> list[int]:
    return [int(row["input_ids"][-1]) for row in islice(mixture.stream(LIMITS).rows(), count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streamed")


# Order ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_every_row_is_seen_before_any_repeats(folder: Path, size: int, buffer: int, seed: int, processes: int) -> None:
    for index in range(processes):
        mine = list(range(index, size, processes))
        if mine:
            mixture = streamed(folder, [size], f"training.seed={seed}", shard=(index, processes), buffer=buffer)
            drawn = numbers(mixture, 3 * len(mine))
            for number in range(3):
                assert sorted(drawn[number * len(mine) : (number + 1) * len(mine)]) == mine
            for start in range(0, len(mine), buffer):  # rows leave their block in no pass
                end = min(start + buffer, len(mine))
                assert sorted(drawn[start:end]) == mine[start:end]


def test_rows_are_shuffled_and_another_way_in_each_pass_and_for_each_seed(folder: Path) -> None:
    drawn = numbers(streamed(folder, [50], buffer=50), 150)
    passes = [drawn[:50], drawn[50:100], drawn[100:], list(range(50))]
    passes.append(numbers(streamed(folder, [50], "training.seed=1", buffer=50), 50))
    assert len({tuple(order) for order in passes}) == 5


def test_the_order_is_the_same_each_time(folder: Path) -> None:
    first = numbers(streamed(folder, [30, 20]), 200)
    assert first == numbers(streamed(folder, [30, 20]), 200)
    mixture = streamed(folder, [30, 20])
    assert first == numbers(mixture, 200) == numbers(mixture, 200)  # a stream begins at the beginning


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_shares_are_the_rates_and_do_not_drift(shard: tuple[int, int]) -> None:
    rates = [0.1, 3.0, 1 / 3, 7.7]
    drawn = list(islice(turns(rates, 0, shard), 10_000))
    for end in range(1000, 10_001, 1000):
        counts = Counter(drawn[:end])
        assert all(abs(counts[task] - end * rate / sum(rates)) <= 1 for task, rate in enumerate(rates))
    assert drawn[:1000] != drawn[1000:2000]
    assert drawn != list(islice(turns(rates, 1, shard), 10_000))


def test_tasks_take_their_turns(folder: Path) -> None:
    drawn = numbers(streamed(folder, [90, 10], "tasks.a.rate=1", "tasks.b.rate=4"), 1000)
    of_b = [number for number in drawn if number >= 100_000]
    assert len(of_b) == 800
    assert set(Counter(of_b).values()) == {80}
    assert max(Counter(number for number in drawn if number < 100_000).values()) == 3  # 200 draws of 90 rows


# Processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows_out_and_encode_no_others(folder: Path, processes: int) -> None:
    encoded: list[int] = []
    for index in range(processes):
        mixture = streamed(folder, [31, 20], shard=(index, processes))
        stream = mixture.stream(LIMITS)
        own = [len(range(index, size, processes)) for size in (31, 20)]
        rows = stream.rows()
        while any(task.drawn < size for task, size in zip(stream.tasks, own, strict=True)):
            next(rows)
        encoder: Any = mixture.encoder
        mine = set(encoder.encoded)
        assert mine == {*range(index, 31, processes), *range(100_000 + index, 100_020, processes)}
        encoded += mine
    assert sorted(encoded) == [*range(31), *range(100_000, 100_020)]


def test_a_process_without_a_row_says_so(folder: Path) -> None:
    with pytest.raises(InputError, match=r"tasks\.a \(one row in 3, for process 2\): the files have no rows"):
        numbers(streamed(folder, [2, 20], shard=(2, 3)), 50)


def test_counts_of_all_processes_are_those_of_one(folder: Path) -> None:
    def counts(*shards: tuple[int, int]) -> TaskCounts:
        found: list[TaskCounts] = []
        for shard in shards:
            mixture = streamed(folder, [40], "tasks.a.on_bad_row=skip", "training.max_length=4", shard=shard)
            with (folder / "a.jsonl").open("a") as file:
                file.write("no json\n" * 3)
            stream = mixture.stream(LIMITS)
            list(islice(stream.rows(), 100))
            found.append(stream.tasks[0].counts)
        return counts_of_all(found)

    whole, parts = counts((0, 1)), counts((0, 2), (1, 2))
    assert (whole.rows, whole.kept, whole.skipped, whole.dropped) == (43, 30, 3, 10)
    assert {**vars(whole), "skipped_named": 0} == {**vars(parts), "skipped_named": 0}
    assert {why: sorted(sources) for why, sources in parts.skipped_named.items()} == whole.skipped_named


# Memory -----------------------------------------------------------------------------------------------------------


def peak(mixture: StreamedMixture, rows: int) -> int:
    stream = mixture.stream(LIMITS)
    encoder: Any = mixture.encoder
    tracemalloc.start()
    for _ in islice(stream.rows(), rows):
        encoder.encoded.clear()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    small, large = (peak(streamed(tmp_path, [size], buffer=100), size) for size in (3_000, 20_000))
    assert large < 1.1 * small
    whole = peak(streamed(tmp_path, [20_000], buffer=20_000), 1)
    assert whole > 3 * large  # what is measured would show it


def test_packing_holds_no_row_that_was_given_out(folder: Path) -> None:
    mixture = streamed(folder, [300, 300])
    encoder: Any = mixture.encoder
    tracemalloc.start()
    rows = mixture.stream(LIMITS).packed_rows(12)
    for _ in islice(rows, 500):
        encoder.encoded.clear()
    first = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for _ in islice(rows, 2000):
        encoder.encoded.clear()
    assert tracemalloc.get_traced_memory()[1] < 1.1 * first
    tracemalloc.stop()


# Packed -----------------------------------------------------------------------------------------------------------


def test_packed_rows_hold_each_example_once_in_the_streams_order(folder: Path) -> None:
    mixture = streamed(folder, [40, 30])
    packed = list(islice(mixture.stream(LIMITS).packed_rows(12), 100))
    assert all(sum(len(example["input_ids"]) for example in row) <= 12 for row in packed)
    examples = [int(example["input_ids"][-1]) for row in packed for example in row]
    plain = numbers(mixture, len(examples) + 64)
    assert not Counter(examples) - Counter(plain)
    assert (Counter(plain) - Counter(examples)).total() == 64  # those that wait
    assert [int(row[0]["input_ids"][-1]) for row in packed[:1]] == plain[:1]


# What is wrong with a row ------------------------------------------------------------------------------------------


def append(folder: Path, line: str, to: str = "a") -> None:
    with (folder / f"{to}.jsonl").open("a") as file:
        file.write(line + "\n")


def test_a_bad_row_stops_the_stream_where_it_stands(tmp_path: Path) -> None:
    mixture = streamed(tmp_path, [1200, 20], buffer=5)
    append(tmp_path, '{"q": "x"}')
    mixture.check(LIMITS)  # the first rows are good
    with pytest.raises(InputError, match=r"tasks\.a: a\.jsonl line 1201: no field 'a'.*on_bad_row to skip"):
        numbers(mixture, 3000)


def test_skipped_and_dropped_rows_are_counted_once_however_many_passes(tmp_path: Path) -> None:
    mixture = streamed(tmp_path, [20], "tasks.a.on_bad_row=skip", "training.max_length=4")
    append(tmp_path, '{"q": "x"}')
    stream = mixture.stream(LIMITS)
    drawn = [int(row["input_ids"][-1]) for row in islice(stream.rows(), 45)]
    assert not any(number % 4 == 3 for number in drawn)  # five tokens
    (task,) = stream.tasks
    assert (task.passes, task.drawn) == (3, 45)
    assert (task.counts.rows, task.counts.kept, task.counts.dropped, task.counts.skipped) == (21, 15, 5, 1)
    assert task.counts.skipped_named == {"no field 'a'. The row has q": ["a.jsonl line 21"]}


def test_a_row_that_does_not_fit_the_model_stops_the_stream(tmp_path: Path) -> None:
    mixture = streamed(tmp_path, [20])
    with pytest.raises(InputError, match=r"token id 15, and the model has embeddings for 15 tokens"):
        list(islice(mixture.stream(ModelLimits(15, None)).rows(), 20))
    with pytest.raises(InputError, match=r"longest example has 5 tokens and the model 4 positions"):
        list(islice(mixture.stream(ModelLimits(99, 4)).rows(), 20))


def test_no_row_left_is_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tasks\.a: the files have no rows"):
        streamed(tmp_path, [0, 5]).check(LIMITS)
    mixture = streamed(tmp_path, [5, 5], "training.max_length=2")
    write(tmp_path / "b.jsonl", 3, first=1)
    with pytest.raises(InputError, match=r"tasks\.b: no row of 3 is left: 3 are longer"):
        mixture.check(LIMITS)


def test_the_record_has_each_files_size_and_time(tmp_path: Path) -> None:
    mixture = streamed(tmp_path, [3, 4])
    record = mixture.record()
    status = (tmp_path / "b.jsonl").stat()
    assert record["b"] == {"files": [{"name": "b.jsonl", "bytes": status.st_size, "modified": status.st_mtime_ns}]}
    append(tmp_path, "", to="b")
    assert mixture.record()["a"] == record["a"]
    assert mixture.record()["b"] != record["b"]


def test_files_are_found_inside_a_task_that_leaves_out_rows(tmp_path: Path) -> None:
    (task,) = streamed(tmp_path, [1]).tasks
    wrapped = WithoutLeaks(task, EvaluationRows(), LeakedRows())
    assert wrapped.files("train") == [tmp_path / "a.jsonl"]


def test_a_mixture_stream_of_nothing_but_one_task_needs_no_second(folder: Path) -> None:
    mixture = streamed(folder, [5])
    stream = mixture.stream(LIMITS)
    assert isinstance(stream, MixtureStream)
    assert all(row["task"] == 0 for row in islice(replace(stream, rates=[3.0]).rows(), 12))


# The recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["mixture.shuffle_buffer=5"], r"shuffle_buffer: 5 has no effect without streaming"),
        (["mixture.streaming=true", "mixture.shuffle_buffer=0"], r"mixture\.shuffle_buffer: must be greater"),
        (
            ["mixture.streaming=true", "mixture.rates=proportional", "tasks.a.rate=1"],
            r"rates: proportional needs the tasks' sizes",
        ),
        (
            ["mixture.streaming=true", "mixture.rates=temperature", "mixture.temperature=2", "tasks.a.rate=1"],
            r"rates: temperature needs the tasks' sizes",
        ),
        (["mixture.streaming=true", "mixture.counted_by=tokens"], r"counted_by: tokens needs the mean length"),
        (
            ["mixture.streaming=true", "training.steps=null", "training.epochs=2"],
            r"training\.epochs: 2\.0 needs the tasks' sizes.*training\.steps",
        ),
    ],
)
def test_what_a_stream_cannot_know_is_refused(tmp_path: Path, overrides: list[str], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as error:
        load_recipe(make_recipe(tmp_path), overrides)
    assert "1 fault" in str(error.value)
