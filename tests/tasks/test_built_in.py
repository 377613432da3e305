"""What holds for every built-in task, on made-up rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from multilora import InputError
from multilora.tasks.example import BadRow, Example, Task
from tasks.formats import DATA_SETS, JSON_LINES, TEST, TRAIN, made_up, write_lines

KINDS = ["alpaca", "boolq", "cb", "copa", "gsm8k", "mmlu", "multirc", "record", "rte", "wic", "wsc"]
SCORED = [kind for kind in KINDS if kind != "alpaca"]
FILES = [kind for kind in KINDS if kind != "mmlu"]


def good(rows: Iterable[Example | BadRow]) -> list[Example]:
    kept = list(rows)
    assert [row for row in kept if isinstance(row, BadRow)] == []
    return [row for row in kept if isinstance(row, Example)]


def bad(task: Task) -> BadRow:
    (row,) = [row for row in task.train_rows() if isinstance(row, BadRow)]
    return row


def test_every_name_has_a_task() -> None:
    assert set(KINDS) <= set(DATA_SETS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_becomes_a_whole_example(kind: str, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    task.check()
    rows = good(task.train_rows())
    assert len(rows) == 5 * (3 if kind == "multirc" else 1)
    check_examples(rows, task)
    assert rows == good(task.train_rows())


@pytest.mark.parametrize("kind", SCORED)
def test_evaluation_rows_are_whole_and_never_trained_on(kind: str, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    task.check("test")
    rows = good(task.eval_rows("test"))
    check_examples(rows, task)
    trained = good(task.train_rows())
    assert not {row.id for row in rows} & {row.id for row in trained}
    assert not {row.prompt for row in rows} & {row.prompt for row in trained}


def check_examples(rows: list[Example], task: Task) -> None:
    assert rows
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert row.prompt.strip()
        assert row.completion.strip()
        if task.scoring.kind == "choices":
            assert row.completion in row.choices
            assert row.completion in row.answers
            assert set(row.answers) <= set(row.choices)
            assert len(set(row.choices)) == len(row.choices) >= 2
        else:
            assert not row.choices
            assert bool(row.answers) == (task.scoring.kind == "final_number")


@pytest.mark.parametrize("kind", KINDS)
def test_validation_comes_out_of_train_and_does_not_depend_on_order(kind: str, tmp_path: Path) -> None:
    every = good(made_up(kind, tmp_path / "a").train_rows()) if kind != "mmlu" else []
    task = made_up(kind, tmp_path / "b", share=0.5) if kind != "mmlu" else made_up(kind, tmp_path, share=0.5)
    train, held_out = good(task.train_rows()), good(task.eval_rows("validation"))
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    if kind == "mmlu":
        assert len(train) + len(held_out) == 5
        return
    assert {row.id for row in train} | {row.id for row in held_out} == {row.id for row in every}
    file = tmp_path / "b" / TRAIN.get(kind, "train.jsonl")
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    assert {row.prompt for row in task.eval_rows("validation") if isinstance(row, Example)} == {
        row.prompt for row in held_out
    }


def test_the_validation_share_is_about_what_was_asked_for_and_grows_by_adding_rows(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [JSON_LINES["gsm8k"](i) for i in range(2000)])
    held: set[str] = set()
    for share in (0.05, 0.1, 0.5):
        rows = good(DATA_SETS["gsm8k"]("t", tmp_path, validation_share=share).eval_rows("validation"))
        assert abs(len(rows) / 2000 - share) < 0.04
        assert held <= {row.id for row in rows}
        held = {row.id for row in rows}


def test_rows_of_one_passage_stay_on_one_side(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [JSON_LINES["multirc"](i) for i in range(60)])
    task = DATA_SETS["multirc"]("t", tmp_path, validation_share=0.5)
    sides = [{row.source for row in good(rows)} for rows in (task.train_rows(), task.eval_rows("validation"))]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_split_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    task = made_up("alpaca", tmp_path)
    with pytest.raises(InputError, match=r"tasks\.t: the data set has no test split"):
        task.check("test")
    with pytest.raises(InputError, match=r"tasks\.t: no validation split; set tasks\.t\.validation_share"):
        list(task.eval_rows("validation"))


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    task = DATA_SETS[kind]("t", tmp_path / "nowhere")
    fault = r"^tasks\.t\.folder: cannot read '.*nowhere.*': No such file"
    if kind == "mmlu":
        fault = r"^tasks\.t\.auxiliary: no JSON file in '.*nowhere.*'"
    with pytest.raises(InputError, match=fault):
        task.check()
    with pytest.raises(InputError, match=fault):
        list(task.train_rows())


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write_lines(tmp_path / "trian.jsonl", [])
    with pytest.raises(InputError, match=r"nearest: 'trian\.jsonl'"):
        DATA_SETS["rte"]("t", tmp_path).check()


@pytest.mark.parametrize("kind", FILES)
def test_a_truncated_file_is_a_bad_row_that_says_so(kind: str, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    file = tmp_path / TRAIN.get(kind, "train.jsonl")
    file.write_text(file.read_text()[:-10])
    assert bad(task).source == f"{file.name} line 5"
    assert "not JSON" in bad(task).why
    assert "cut off" in bad(task).why


@pytest.mark.parametrize("kind", FILES)
def test_a_wrong_column_is_a_bad_row_that_names_it(kind: str, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    rows = [JSON_LINES[kind](i) for i in range(2)]
    needed = "passage" if "passage" in rows[1] else list(rows[1])[1 if kind in ("gsm8k", "wic") else 0]
    rows[1][f"{needed}s"] = rows[1].pop(needed)
    write_lines(tmp_path / TRAIN.get(kind, "train.jsonl"), rows)
    assert bad(task).why.startswith(f"no field '{needed}'; nearest: '{needed}s'")


@pytest.mark.parametrize("kind", [kind for kind in SCORED if kind not in ("gsm8k", "mmlu", "multirc", "record")])
@pytest.mark.parametrize("label", ["entailmant", 2, None, "true"])
def test_an_unknown_label_is_a_bad_row_with_the_known_ones(kind: str, label: Any, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    write_lines(tmp_path / "train.jsonl", [JSON_LINES[kind](0), JSON_LINES[kind](1) | {"label": label}])
    assert bad(task).source == "train.jsonl line 2"
    assert f"unknown label {json.dumps(label)} in field 'label'" in bad(task).why
    assert "the labels are" in bad(task).why
    assert kind not in ("cb", "rte") or label != "entailmant" or "nearest: 'entailment'" in bad(task).why


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind not in ("gsm8k", "alpaca")])
def test_an_id_that_comes_twice_is_a_bad_row_that_names_the_first(kind: str, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    write_lines(tmp_path / "train.jsonl", [JSON_LINES[kind](i) for i in (0, 1, 0)])
    assert bad(task).source == "train.jsonl line 3"
    assert "stands in train.jsonl line 1 already" in bad(task).why


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_rows_is_an_error(kind: str, tmp_path: Path) -> None:
    task = made_up(kind, tmp_path)
    write_lines(tmp_path / TRAIN.get(kind, "train.jsonl"), [])
    with pytest.raises(InputError, match=r"tasks\.t\.folder: no row in .*jsonl"):
        list(task.train_rows())
    if kind != "alpaca":
        write_lines(tmp_path / TEST.get(kind, "val.jsonl"), [])
        with pytest.raises(InputError, match="no row in"):
            list(task.eval_rows("test"))
