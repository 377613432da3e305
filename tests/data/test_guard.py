"""Nothing that is evaluated on is trained on: training stops, or leaves it out and says so."""

from __future__ import annotations

from itertools import count, islice
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rows_in_memory import RowsTask, examples, rows_task
from multilora import InputError
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.encoding import encode_task
from multilora.data.guard import guard_training
from multilora.data.leakage import find_leaks
from multilora.tasks.example import BadRow, Example, Scoring
from tiny_run import byte_level_tokenizer

TEXTS = st.lists(st.sampled_from(["a", "A.", "b", "b c", "B, c!", "d", "e"]), max_size=8)


def leaking() -> list[RowsTask]:
    return [
        rows_task("one", ["x", "y", "z", "Z?"], test=["z"]),
        rows_task("two", ["X!", "w"], validation=["x"]),
    ]


def test_leaks_stop_training_with_count_rows_and_remedy() -> None:
    with pytest.raises(InputError) as caught:
        guard_training(leaking(), "fail")
    first, *pairs = str(caught.value).splitlines()
    assert first.startswith("mixture.on_leak: training rows that equal evaluation rows: 4. ")
    assert "on_leak to drop" in first
    assert "`multilora data check RECIPE`" in first
    assert pairs == [
        "  one/train → one/test: 2: train row 3 (train-3) = one/test test row 1 (test-1), "
        "train row 4 (train-4) = one/test test row 1 (test-1)",
        "  one/train → two/validation: 1: train row 1 (train-1) = two/validation validation row 1 (validation-1)",
        "  two/train → two/validation: 1: train row 1 (train-1) = two/validation validation row 1 (validation-1)",
    ]


def test_the_error_names_a_few_rows_and_counts_the_others() -> None:
    with pytest.raises(InputError, match=r"rows: 50\. (.|\n)*: 50: (.*=.*){3}, and 47 more$"):
        guard_training([rows_task("one", ["x"] * 50, test=["x"])], "fail")


def test_clean_tasks_are_trained_on_as_they_are() -> None:
    tasks = [rows_task("one", ["a"], test=["b"]), rows_task("two", ["c"])]
    guarded = guard_training(tasks, "fail")
    assert all(one is other for one, other in zip(guarded.tasks, tasks, strict=True))
    assert guarded.notes == []
    assert sum(map(len, guarded.left_out.values())) == 0


@given(TEXTS, TEXTS, TEXTS)
def test_what_drop_leaves_has_no_leak_and_everything_else(one: list[str], two: list[str], test: list[str]) -> None:
    tasks = [rows_task("one", [*one, "kept"], test=test), rows_task("two", [*two, "kept too"])]
    guarded = guard_training(tasks, "drop")
    assert find_leaks(guarded.tasks).leaks == []
    leaked = {(p.first, row.id) for p in find_leaks(tasks).leaks for row, _ in p.matches}
    for task, left in zip(tasks, guarded.tasks, strict=True):
        rows = [row for row in task.train_rows() if isinstance(row, Example)]
        assert list(left.train_rows()) == [row for row in rows if (f"{task.name}/train", row.id) not in leaked]
        assert len(guarded.left_out[task.name]) == sum(name == f"{task.name}/train" for name, _ in leaked)


def test_what_is_left_out_is_counted_once_and_named() -> None:
    guarded = guard_training(leaking(), "drop")
    for task in guarded.tasks:
        assert list(task.train_rows()) == list(task.train_rows())
    assert {name: len(rows) for name, rows in guarded.left_out.items()} == {"one": 3, "two": 1}
    assert guarded.left_out["two"].notes("two") == [
        "two: 1 rows left out of training: train row 1 (train-1) = two/validation validation row 1 (validation-1)"
    ]
    assert guard_training(leaking(), "drop").left_out["one"].notes("one") == []


def test_a_stream_stays_a_stream() -> None:
    endless = RowsTask("s", lambda: (Example(str(i % 7), " x", f"row {i}") for i in count()), test=["3"])
    (task,) = guard_training([endless], "drop").tasks
    assert [row.prompt for row in islice(task.train_rows(), 8) if isinstance(row, Example)] == list("01245601")


def test_the_rest_of_a_task_is_the_tasks_own() -> None:
    bad = BadRow("train row 1", "bad")
    inner = RowsTask("t", lambda: [bad, *examples("train", ["b"])], test=["a"], missing=["train"])
    inner.scoring = Scoring("choices", ("accuracy",))
    (task,) = guard_training([inner], "drop").tasks
    assert (task.name, task.scoring) == ("t", inner.scoring)
    assert next(task.train_rows()) is bad
    assert list(task.eval_rows("test")) == list(inner.eval_rows("test"))
    with pytest.raises(InputError, match="cannot read"):
        task.check()


@pytest.mark.parametrize("on_leak", ["fail", "drop"])
def test_missing_evaluation_files_do_not_stop_training(on_leak: Literal["fail", "drop"]) -> None:
    tasks = [rows_task("one", ["a"], validation=["c"], test=["b"]), rows_task("two", ["a"])]
    tasks[0].missing = ["validation", "test"]
    guarded = guard_training(tasks, on_leak)
    (note,) = guarded.notes
    assert note.startswith("not checked for leaks: one: validation rows are not all compared")
    assert [len(list(task.train_rows())) for task in guarded.tasks] == [1, 1]


def test_a_task_of_which_nothing_is_left_is_an_error_that_says_why() -> None:
    (task,) = guard_training([rows_task("t", ["a", "A"], test=["a"])], "drop").tasks
    with pytest.raises(InputError, match=r"tasks\.t: all 2 training rows equal evaluation rows"):
        list(task.train_rows())


def test_a_guarded_task_is_encoded_without_the_leaks() -> None:
    encoder = PromptCompletionEncoder(byte_level_tokenizer())
    guarded = guard_training(leaking(), "drop")
    wanted = [encode_task(rows_task(name, texts), encoder, 64) for name, texts in (("one", ["y"]), ("two", ["w"]))]
    encoded = [encode_task(task, encoder, 64) for task in guarded.tasks]
    assert [one.fingerprint() for one in encoded] == [one.fingerprint() for one in wanted]
