"""The rows to evaluate on: the sample is fixed, spread, and keeps questions together; bad rows stop or are counted."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.in_memory import CHOICES, QUESTIONS, GivenTask, yes_no
from multilora import InputError
from multilora.evaluation.rows import in_hash_order, read_rows
from multilora.tasks.example import BadRow, Example, NoSplitError


def ids(task: GivenTask, limit: int | None) -> list[str]:
    return [row.id for row in read_rows(task, "test", limit, "fail").examples]


@given(st.permutations(range(40)), st.integers(1, 45))
def test_the_sample_depends_on_ids_alone_and_keeps_the_files_order(order: list[int], limit: int) -> None:
    rows = yes_no(map(str, range(40)))
    shuffled = GivenTask("t", [rows[number] for number in order])
    sample = ids(shuffled, limit)
    assert len(sample) == min(limit, 40)
    assert set(sample) == set(ids(GivenTask("other", rows), limit))
    position = {row.id: number for number, row in enumerate(shuffled.rows) if isinstance(row, Example)}
    assert all(position[one] < position[other] for one, other in pairwise(sample))


def test_a_smaller_sample_is_part_of_a_larger_one_and_not_the_first_rows() -> None:
    task = GivenTask("t", yes_no(map(str, range(300))))
    small, large = set(ids(task, 50)), set(ids(task, 100))
    assert small < large
    assert small != {f"id-{number}" for number in range(50)}


def test_the_sample_is_spread_over_groups() -> None:
    groups = {number: f"subject {number // 100}" for number in range(1000)}
    sample = read_rows(GivenTask("t", yes_no(map(str, range(1000)), groups)), "test", 200, "fail").examples
    counts = Counter(row.group for row in sample)
    assert len(counts) == 10
    assert max(counts.values()) <= 35


@given(st.integers(1, 60))
def test_the_rows_of_a_question_stay_together(limit: int) -> None:
    groups = {number: f"question {number // 3}" for number in range(60)}
    task = GivenTask("t", yes_no(map(str, range(60)), groups), QUESTIONS)
    counts = Counter(row.group for row in read_rows(task, "test", limit, "fail").examples)
    assert set(counts.values()) == {3}
    assert limit - 2 <= sum(counts.values()) <= max(limit, 3)


def test_rows_without_ids_are_told_apart_by_their_place() -> None:
    rows = [Example(f"p{i}", " a", f"file line {i}", choices=(" a", " b"), answers=(" a",)) for i in range(10)]
    assert len(read_rows(GivenTask("t", rows), "test", 5, "fail").examples) == 5


def test_bad_rows_stop_or_are_counted_and_named() -> None:
    rows = [*yes_no(["p"]), BadRow("val.jsonl line 2", "no field 'label'")]
    with pytest.raises(InputError, match=r"tasks\.t: val\.jsonl line 2: no field 'label'.*on_bad_row to skip"):
        read_rows(GivenTask("t", rows), "test", None, "fail")
    found = read_rows(GivenTask("t", rows), "test", None, "skip")
    assert (found.counts.rows, found.counts.kept, found.counts.skipped) == (2, 1, 1)
    assert "val.jsonl line 2 (no field 'label')" in found.counts.skipped_text()
    with pytest.raises(InputError, match="no row to evaluate on: all 1 were skipped"):
        read_rows(GivenTask("t", rows[1:]), "test", None, "skip")
    with pytest.raises(NoSplitError):
        read_rows(GivenTask("t", rows), "validation", None, "skip")


@pytest.mark.parametrize(
    "row",
    [
        Example("p", " a", "line 1", choices=(" a",), answers=(" a",)),
        Example("p", " a", "line 1", choices=(" a", " b")),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(row: Example) -> None:
    with pytest.raises(InputError, match=r"tasks\.t: line 1 has \d choices and \d right answers"):
        read_rows(GivenTask("t", [row], CHOICES), "test", None, "fail")


def test_numbers_in_hash_order_are_all_numbers_in_another_order() -> None:
    assert sorted(in_hash_order("t", 100)) == list(range(100)) != in_hash_order("t", 100)
    assert in_hash_order("t", 100) == in_hash_order("t", 100) != in_hash_order("u", 100)
