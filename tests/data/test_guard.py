"""Nothing that is evaluated on is trained on: training stops, or leaves it out and says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rows_in_memory import RowsTask, examples, rows_task
from multilora import InputError
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.encoding import RowRules, encode_task, encode_tasks
from multilora.data.guard import Guard, OnLeak
from multilora.data.leakage import EvaluationRows, RowName, find_leaks
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
        Guard.of(leaking(), "fail").compare_rest()
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
        Guard.of([rows_task("one", ["x"] * 50, test=["x"])], "fail").compare_rest()


def test_clean_tasks_are_trained_on_as_they_are() -> None:
    tasks = [rows_task("one", ["a"], test=["b"]), rows_task("two", ["c"])]
    guarded = Guard.of(tasks, "fail")
    with guarded.reading():
        read = [list(task.train_rows()) for task in guarded.tasks]
    assert read == [list(task.train_rows()) for task in tasks]
    assert guarded.notes == []
    assert sum(map(len, guarded.leaked.values())) == 0


def test_tasks_without_evaluation_rows_are_not_wrapped() -> None:
    tasks = [rows_task("one", ["a"]), rows_task("two", ["c"])]
    assert all(one is other for one, other in zip(Guard.of(tasks, "fail").tasks, tasks, strict=True))


# Rows are read once ---------------------------------------------------------------------------------------------------


class Counted(RowsTask):
    """Counts how often each training row is read."""

    def __init__(self, name: str, rows: Sequence[Example | BadRow], test: list[str] | None = None) -> None:
        self.reads = Counter[str]()
        super().__init__(name, lambda: map(self._counted, rows), test=test)

    def _counted(self, row: Example | BadRow) -> Example | BadRow:
        self.reads[row.source] += 1
        return row


def counted(bad: bool = False, leaks: bool = True, long: bool = False) -> list[Counted]:
    first: list[Example | BadRow] = list(examples("train", ["a", "b c", "d"]))
    if bad:
        first.insert(1, BadRow("bad row", "no reason"))
    if long:
        first.insert(1, Example("e " * 200, " x", "long row", "long"))
    second = examples("train", ["e", "F"])
    return [Counted("one", first), Counted("two", second, test=["f", "b c"] if leaks else ["nothing"])]


def read_and_encode(guarded: Guard, on_bad_row: Literal["fail", "skip"] = "fail") -> None:
    rules = RowRules(64, "fail", dict.fromkeys(("one", "two"), on_bad_row))
    with guarded.reading():
        encode_tasks(guarded.tasks, PromptCompletionEncoder(byte_level_tokenizer()), rules)


@pytest.mark.parametrize("on_leak", ["fail", "drop"])
def test_training_rows_are_read_and_compared_once(on_leak: OnLeak, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, compared = counted(leaks=on_leak == "drop"), Counter[str]()
    equal_to = EvaluationRows.equal_to

    def counting(rows: EvaluationRows, row: Example) -> Sequence[RowName]:
        compared[row.prompt] += 1
        return equal_to(rows, row)

    monkeypatch.setattr(EvaluationRows, "equal_to", counting)
    read_and_encode(Guard.of(tasks, on_leak))
    assert [sorted(task.reads.values()) for task in tasks] == [[1, 1, 1], [1, 1]]
    assert compared == Counter(["a", "b c", "d", "e", "F"])


@pytest.mark.parametrize("fault", ["bad", "long", "none"])
def test_leaks_of_all_tasks_come_before_what_is_wrong_with_a_row(fault: str) -> None:
    """And even then each row is read once: those after the fault are compared, and not encoded."""
    tasks = counted(bad=fault == "bad", long=fault == "long")
    guarded = Guard.of(tasks, "fail")
    with pytest.raises(InputError, match=r"equal evaluation rows: 2\.") as caught:
        read_and_encode(guarded)
    with pytest.raises(InputError) as expected:
        Guard.of(counted(), "fail").compare_rest()
    assert str(caught.value) == str(expected.value)
    assert {count for task in tasks for count in task.reads.values()} == {1}


@pytest.mark.parametrize("on_leak", ["fail", "drop"])
@pytest.mark.parametrize(("fault", "said"), [("bad", "bad row: no reason"), ("long", "long row has")])
def test_without_leaks_a_bad_row_is_the_error(fault: str, said: str, on_leak: OnLeak) -> None:
    tasks = counted(bad=fault == "bad", long=fault == "long", leaks=False)
    with pytest.raises(InputError, match=said):
        read_and_encode(Guard.of(tasks, on_leak))


def test_rows_that_cannot_be_read_are_the_error_before_any_leak() -> None:
    def broken() -> Iterator[Example]:
        yield from examples("train", ["f"])
        raise InputError("the template names no field")

    tasks = counted(bad=True)
    tasks[1].train = broken
    with pytest.raises(InputError, match="the template names no field"):
        read_and_encode(Guard.of(tasks, "fail"))


def test_a_task_all_of_whose_rows_leak_stops_training_with_all_leaks() -> None:
    tasks = [rows_task("one", ["a", "A"], test=["a"]), rows_task("two", ["a", "b"])]
    with pytest.raises(InputError, match=r"equal evaluation rows: 3\."):
        read_and_encode(Guard.of(tasks, "fail"))


# Rows are left out ----------------------------------------------------------------------------------------------------


@given(TEXTS, TEXTS, TEXTS)
def test_what_drop_leaves_has_no_leak_and_everything_else(one: list[str], two: list[str], test: list[str]) -> None:
    tasks = [rows_task("one", [*one, "kept"], test=test), rows_task("two", [*two, "kept too"])]
    guarded = Guard.of(tasks, "drop")
    assert find_leaks(guarded.tasks).leaks == []
    leaked = {(p.first, row.id) for p in find_leaks(tasks).leaks for row, _ in p.matches}
    for task, left in zip(tasks, guarded.tasks, strict=True):
        rows = [row for row in task.train_rows() if isinstance(row, Example)]
        assert list(left.train_rows()) == [row for row in rows if (f"{task.name}/train", row.id) not in leaked]
        assert len(guarded.leaked[task.name]) == sum(name == f"{task.name}/train" for name, _ in leaked)


def test_what_is_left_out_is_counted_once_and_named() -> None:
    guarded = Guard.of(leaking(), "drop")
    for task in guarded.tasks:
        assert list(task.train_rows()) == list(task.train_rows())
    assert {name: len(rows) for name, rows in guarded.leaked.items()} == {"one": 3, "two": 1}
    assert guarded.leaked["two"].notes("two") == [
        "two: 1 rows left out of training: train row 1 (train-1) = two/validation validation row 1 (validation-1)"
    ]
    assert Guard.of(leaking(), "drop").leaked["one"].notes("one") == []


def test_a_stream_stays_a_stream() -> None:
    endless = RowsTask("s", lambda: (Example(str(i % 7), " x", f"row {i}") for i in count()), test=["3"])
    (task,) = Guard.of([endless], "drop").tasks
    assert [row.prompt for row in islice(task.train_rows(), 8) if isinstance(row, Example)] == list("01245601")


def test_the_rest_of_a_task_is_the_tasks_own() -> None:
    bad = BadRow("train row 1", "bad")
    inner = RowsTask("t", lambda: [bad, *examples("train", ["b"])], test=["a"], missing=["train"])
    inner.scoring = Scoring("choices", ("accuracy",))
    (task,) = Guard.of([inner], "drop").tasks
    assert (task.name, task.scoring) == ("t", inner.scoring)
    assert next(task.train_rows()) is bad
    assert list(task.eval_rows("test")) == list(inner.eval_rows("test"))
    with pytest.raises(InputError, match="cannot read"):
        task.check()


@pytest.mark.parametrize("on_leak", ["fail", "drop"])
def test_missing_evaluation_files_do_not_stop_training(on_leak: Literal["fail", "drop"]) -> None:
    tasks = [rows_task("one", ["a"], validation=["c"], test=["b"]), rows_task("two", ["a"])]
    tasks[0].missing = ["validation", "test"]
    guarded = Guard.of(tasks, on_leak)
    guarded.compare_rest()
    (note,) = guarded.notes
    assert note.startswith("not checked for leaks: one: validation rows are not all compared")
    assert [len(list(task.train_rows())) for task in guarded.tasks] == [1, 1]


def test_a_task_of_which_nothing_is_left_is_an_error_that_says_why() -> None:
    (task,) = Guard.of([rows_task("t", ["a", "A"], test=["a"])], "drop").tasks
    with pytest.raises(InputError, match=r"tasks\.t: all 2 training rows equal evaluation rows"):
        list(task.train_rows())


def test_a_guarded_task_is_encoded_without_the_leaks() -> None:
    encoder = PromptCompletionEncoder(byte_level_tokenizer())
    guarded = Guard.of(leaking(), "drop")
    wanted = [encode_task(rows_task(name, texts), encoder, 64) for name, texts in (("one", ["y"]), ("two", ["w"]))]
    encoded = [encode_task(task, encoder, 64) for task in guarded.tasks]
    assert [one.fingerprint() for one in encoded] == [one.fingerprint() for one in wanted]
