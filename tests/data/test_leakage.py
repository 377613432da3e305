"""Leaks are what training and evaluation share, no more and no less; on real data, those that are known."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rows_in_memory import RowsTask, examples, rows_task
from multilora.data.leakage import EvaluationRows, LeakReport, find_leaks
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.tasks.data_sets.wic import WiC
from multilora.tasks.example import BadRow, Example
from multilora.tasks.keys import key_of, normalised
from multilora.training.prepare import open_tasks
from places import ROOT

TEXTS = st.lists(st.sampled_from(["a", "A.", "b", "b c", "B, c!", "d", "e"]), max_size=8)


@dataclass
class Showing(RowsTask):
    """A task with worked questions."""

    shown: tuple[str, ...] = ()

    def shown_rows(self) -> Iterator[Example | BadRow]:
        yield from examples("dev", self.shown)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_what_is_found_is_what_both_have(
    one: list[str], two: list[str], validation: list[str], test: list[str]
) -> None:
    tasks = [rows_task("one", one, test=test), rows_task("two", two, validation=validation)]
    found = {
        (pair.first, pair.second, first.id, second.id)
        for pair in find_leaks(tasks).leaks
        for first, second in pair.matches
    }
    assert found == {
        (f"{task}/train", split, f"train-{i}", f"{split.partition('/')[2]}-{j}")
        for task, train in (("one", one), ("two", two))
        for split, evaluated in (("one/test", test), ("two/validation", validation))
        for i, trained_text in enumerate(train, start=1)
        for j, text in enumerate(evaluated, start=1)
        if normalised(trained_text) == normalised(text)
    }


def test_a_report_names_rows_by_pair_and_counts_each_once() -> None:
    tasks = [
        rows_task("a", ["one", "two", "Two!", "three"], test=["TWO", "two?", "four"]),
        rows_task("b", ["four"], validation=["three"]),
    ]
    report = find_leaks(tasks)
    assert [(p.first, p.second, p.first_rows, p.second_rows, len(p.matches)) for p in report.leaks] == [
        ("a/train", "a/test", 2, 2, 4),
        ("a/train", "b/validation", 1, 1, 1),
        ("b/train", "a/test", 1, 1, 1),
    ]
    assert report.leaked_rows == 4
    assert str(report.leaks[1].matches[0][0]) == "train row 4 (train-4)"
    assert report.read == {"a/train": 4, "b/train": 1, "a/test": 3, "b/validation": 1}
    assert report.shared == []
    assert report.unread == []


def test_rows_that_evaluation_splits_share_are_not_leaks() -> None:
    tasks = [
        Showing("m", list, validation=["one", "two"], test=["two", "three"], shown=("one", "three", "four")),
        rows_task("n", ["four"], test=["two"]),
    ]
    report = find_leaks(tasks)
    assert report.leaks == []  # a worked question may be trained on
    assert {(p.first, p.second): p.first_rows for p in report.shared} == {
        ("m/shown", "m/validation"): 1,
        ("m/shown", "m/test"): 1,
        ("m/validation", "m/test"): 1,
        ("m/validation", "n/test"): 1,
        ("m/test", "n/test"): 1,
    }


def test_equal_rows_of_one_split_are_nothing_to_report() -> None:
    assert find_leaks([rows_task("a", ["x", "x"], test=["y", "Y"])]).shared == []


def test_a_split_that_cannot_be_read_is_named_once_per_task_and_the_rest_is_compared() -> None:
    gone = rows_task("gone", ["one"], validation=[], test=[])
    gone.missing = ["validation", "test"]
    report = find_leaks([gone, rows_task("here", ["two"], test=["one", "two"])])
    (line,) = report.unread
    assert line.startswith("gone: validation rows are not all compared: tasks.gone.folder: cannot read")
    assert "(and 1 more); test rows are not all compared: tasks.gone.folder" in line
    assert report.leaked_rows == 2


def test_bad_rows_are_passed_over() -> None:
    good = examples("train", ["one"])
    task = RowsTask("t", lambda: [BadRow("train row 9", "bad"), *good], test=["one"])
    report = find_leaks([task])
    assert report.read["t/train"] == 1
    assert report.leaked_rows == 1


def test_memory_does_not_grow_with_the_texts() -> None:
    def memory(length: int) -> int:
        task = rows_task("t", [], test=(f"{i} " + "x" * length for i in range(2000)))
        tracemalloc.start()
        rows = EvaluationRows.of([task])
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows.read == {"t/test": 2000}
        return size

    memory(1)  # first use fills caches
    assert memory(5000) < 1.1 * memory(5)


# On the data sets themselves --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(data_dir: Path) -> LeakReport:
    """Of the four-categories recipe, with MMLU's own validation split."""
    for folder in ("alpaca", "superglue", "mmlu", "mmlu_auxiliary", "gsm8k"):
        if not (data_dir / "data" / folder).is_dir():
            pytest.skip(f"needs real data: {data_dir}/data/{folder} is missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTILORA_DATA", str(data_dir))
        recipe = load_recipe(ROOT / "recipes/four-categories.yaml", ["tasks.mmlu.validation_share=0"])
    return find_leaks(open_tasks(recipe))


def test_mmlu_has_33_rows_that_equal_test_rows(report: LeakReport) -> None:
    to_test = {pair.first: pair.first_rows for pair in report.shared if pair.second == "mmlu/test"}
    assert to_test == {"mmlu/shown": 5, "mmlu/validation": 28}


def test_no_dev_row_of_mmlu_equals_a_test_row_of_its_own_subject(report: LeakReport) -> None:
    (pair,) = [pair for pair in report.shared if (pair.first, pair.second) == ("mmlu/shown", "mmlu/test")]
    subjects = [(shown.source.partition("_dev")[0], test.source.partition("_test")[0]) for shown, test in pair.matches]
    assert all(shown != test for shown, test in subjects)


def test_the_four_categories_train_on_no_evaluation_row(report: LeakReport) -> None:
    assert report.unread == []
    assert report.leaks == []
    assert min(report.read.values()) > 0


def test_rows_that_differ_in_punctuation_alone_stay_on_one_side(data_dir: Path) -> None:
    folder = data_dir / "data/superglue/WiC"
    if not folder.is_dir():
        pytest.skip(f"needs real data: {folder} is missing")
    keys = Counter(key_of(row) for row in WiC("wic", folder).train_rows() if isinstance(row, Example))
    assert max(keys.values()) > 1  # there is such a pair, so the next line says something
    for share in (0.05, 0.1, 0.5, 0.9):
        assert find_leaks([WiC("wic", folder, validation_share=share)]).leaks == []


@pytest.mark.parametrize(
    ("template", "found"),
    [("{task}", 1), ("Question: {task}\nAnswer:", 1), ("Translate: {task}", 0)],
    ids=["the question alone", "the benchmark's own prompt", "another task on the same text"],
)
def test_a_benchmarks_question_among_ones_own_rows(tmp_path: Path, template: str, found: int) -> None:
    (tmp_path / "gsm8k").mkdir()
    row = {"question": "Ann has 3 apples and eats 1. How many are left?", "answer": "3 - 1 = 2\n#### 2"}
    for split in ("train", "test"):
        other = row if split == "test" else {"question": "1 + 1?", "answer": "2\n#### 2"}
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(json.dumps(other) + "\n")
    mine = {"task": row["question"].upper(), "solution": "2"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(mine) + "\n")
    recipe = Recipe.model_validate(
        {
            "model": "m",
            "method": {"name": "lora"},
            "tasks": {
                "mine": {
                    "train": str(tmp_path / "mine.jsonl"),
                    "prompt": template,
                    "completion": "{solution}",
                },
                "gsm8k": {"task": "gsm8k", "folder": str(tmp_path / "gsm8k")},
            },
            "training": {"output": "o", "steps": 1},
        }
    )
    tasks = [section.build(name) for name, section in recipe.tasks.items()]
    report = find_leaks(tasks)
    assert report.leaked_rows == found
    assert [(pair.first, pair.second) for pair in report.leaks] == [("mine/train", "gsm8k/test")] * found
