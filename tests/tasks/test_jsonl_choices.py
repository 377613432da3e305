"""JSON-lines tasks with choices, splits, ids and scores of free text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multilora import InputError
from multilora.recipe import Recipe
from multilora.tasks.example import BadRow, Example, NoSplitError, Scoring


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def build(**section: Any) -> Any:
    recipe = Recipe.model_validate(
        {
            "model": "m",
            "method": {"name": "lora"},
            "tasks": {"t": {"prompt": "{q}", **section}},
            "training": {"output": "o", "steps": 1},
        }
    )
    return recipe.tasks["t"].build("t")


def examples(rows: Any) -> list[Example]:
    found = list(rows)
    assert all(isinstance(row, Example) for row in found), found
    return found


def why(rows: Any) -> list[str]:
    return [row.why for row in rows if isinstance(row, BadRow)]


def test_the_same_choices_for_all_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"q": "Is it?", "a": "yes"}, {"q": "Was it?", "a": "no"})
    task = build(train=file, completion=" {a}", choices=[" no", " yes"])
    one, other = examples(task.train_rows())
    assert (one.completion, one.choices, one.answers) == (" yes", (" no", " yes"), (" yes",))
    assert other.answers == (" no",)
    assert task.scoring == Scoring("choices", ("accuracy",))


@pytest.mark.parametrize("answer", [1, "1", "B"])
def test_choices_in_a_list_and_their_number_or_letter(tmp_path: Path, answer: Any) -> None:
    file = write(tmp_path / "t.jsonl", {"q": "He", "endings": ["sat.", "ran.", "3"], "label": answer})
    (row,) = examples(build(train=file, choices=" {endings}", answer="label").train_rows())
    assert (row.completion, row.choices) == (" ran.", (" sat.", " ran.", " 3"))


def test_a_choice_per_field(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"q": "He", "one": "sat", "two": "ran", "label": 0})
    (row,) = examples(build(train=file, choices=[" {one}", " {two}"], answer="label").train_rows())
    assert (row.completion, row.choices) == (" sat", (" sat", " ran"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 2}, "field 'label' is '2', which is neither the number"),
        ({"label": -1}, "field 'label' is '-1'"),
        ({"label": "x"}, "field 'label' is 'x'"),
        ({"label": None}, "field 'label' is null"),
        ({}, "no field 'label'"),
        ({"label": 0, "c": ["x"]}, "at least two different choices"),
        ({"label": 0, "c": ["x", "x"]}, "at least two different choices"),
        ({"label": 0, "c": ["x", None]}, "holds more than text and numbers"),
        ({"label": 0, "c": ["x", " "]}, "blank"),
    ],
)
def test_rows_whose_choices_make_no_sense(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "t.jsonl", {"q": "Q", "c": ["x", "y"], "label": 0}, {"q": "Q", "c": ["x", "y"]} | row)
    (found,) = why(build(train=file, choices="{c}", answer="label").train_rows())
    assert message in found


def test_a_completion_that_is_no_choice(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"q": "Is it?", "a": "maybe"})
    (found,) = why(build(train=file, completion=" {a}", choices=[" no", " yes"]).train_rows())
    assert found == "the completion ' maybe' is not one of the choices [' no', ' yes']"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "give either completion, or choices and answer"),
        ({"completion": "{a}", "answer": "label", "choices": "{c}"}, "give either"),
        ({"answer": "label"}, "answer: 'label' needs choices"),
        ({"completion": "{a}", "choices": "{c}", "score": "exact_match"}, "score: exact_match has no effect"),
        ({"completion": "{a}", "validation": "v.jsonl", "validation_share": 0.1}, "validation_share: 0.1 has no"),
    ],
)
def test_sections_that_contradict_themselves(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(train="t.jsonl", **section)


def test_splits_have_files_of_their_own(tmp_path: Path) -> None:
    files = {
        split: write(tmp_path / f"{split}.jsonl", {"q": split, "a": "x"}) for split in ("train", "validation", "test")
    }
    task = build(completion="{a}", **files)
    for split in ("validation", "test"):
        task.check(split)
        assert [row.prompt for row in examples(task.eval_rows(split))] == [split]
    assert [row.prompt for row in examples(task.train_rows())] == ["train"]


def test_a_share_is_held_out_by_the_prompt_and_nothing_is_in_both(tmp_path: Path) -> None:
    rows = [{"q": f"question {number}", "a": str(n)} for number in range(300) for n in range(2)]
    task = build(train=write(tmp_path / "t.jsonl", *rows), completion="{a}", validation_share=0.3)
    train, validation = (
        [(row.prompt, row.completion) for row in examples(rows)]
        for rows in (task.train_rows(), task.eval_rows("validation"))
    )
    assert sorted(train + validation) == sorted((row["q"], row["a"]) for row in rows)
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in validation}
    assert 0.2 < len(validation) / 600 < 0.4


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    task = build(train=write(tmp_path / "t.jsonl", {"q": "x", "a": "y"}), completion="{a}")
    for split in ("validation", "test"):
        with pytest.raises(NoSplitError, match=rf"no {split} split; name its files in tasks\.t\.{split}"):
            task.check(split)
    missing = build(train="t.jsonl", test=str(tmp_path / "tset.jsonl"), completion="{a}")
    with pytest.raises(InputError, match=r"tasks\.t\.test: cannot read"):
        missing.check("test")


def test_ids_name_rows_and_come_once(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", *({"q": "x", "a": "y", "n": n} for n in (1, 2, 1)))
    one, two, three = build(train=file, completion="{a}", id="n").train_rows()
    assert (one.id, two.id) == ("1", "2")
    assert three == BadRow("t.jsonl line 3", "the id '1' stands in t.jsonl line 1 already")


def test_free_text_is_scored_as_the_recipe_says(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"q": "x", "a": " 3 + 4 = 7.\n#### 7"}, {"q": "x", "a": "none"})
    exact = build(train=file, completion="{a}", score="exact_match")
    assert exact.scoring == Scoring("exact_text", ("exact_match",))
    assert examples(exact.train_rows())[0].answers == ("3 + 4 = 7.\n#### 7",)
    number = build(train=file, completion="{a}", score="final_number")
    right, wrong = number.train_rows()
    assert right.answers == ("7",)
    assert wrong == BadRow("t.jsonl line 2", "the completion has no number to score: 'none'")
