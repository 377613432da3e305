"""MMLU's own splits, its worked questions, and what makes two of its questions the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from multilora import InputError
from multilora.tasks.data_sets.mmlu import MMLU, MMLUSection
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.example import BadRow, Example, NoSplitError
from multilora.tasks.keys import key_of
from tasks.formats import auxiliary, write_csv, write_mmlu


def good(rows: Iterable[Example | BadRow]) -> list[Example]:
    found = list(rows)
    assert [row for row in found if isinstance(row, BadRow)] == []
    return [row for row in found if isinstance(row, Example)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `write_mmlu`, with three val rows per subject."""
    write_mmlu(tmp_path)
    for subject in SUBJECTS:
        rows = [[f"val {i} of {subject}?", "a", "b", "c", "d", "ABCD"[i]] for i in range(3)]
        write_csv(tmp_path / "val" / f"{subject}_val.csv", rows)
    return tmp_path


def test_validation_is_the_folder_val_and_no_training_row(folder: Path) -> None:
    task = MMLU("m", folder)
    task.check("validation")
    rows = good(task.eval_rows("validation"))
    assert len(rows) == 3 * len(SUBJECTS)
    assert [row.group for row in rows[::3]] == list(SUBJECTS)
    assert rows[0].id == f"val-{SUBJECTS[0]}-1"
    assert len({row.id for row in rows}) == len(rows)
    assert rows[1].completion == " B"
    assert rows[0].prompt.startswith(
        "The following are multiple choice questions (with answers) about abstract algebra."
    )
    assert len(good(task.train_rows())) == 5


def test_a_share_holds_out_training_rows_instead(folder: Path) -> None:
    sources = folder / "auxiliary_train" / "arc.json"
    sources.write_text(json.dumps([auxiliary(i) for i in range(40)]))
    task = MMLU("m", folder, validation_share=0.5)
    held, trained = good(task.eval_rows("validation")), good(task.train_rows())
    assert {row.id.partition("-")[0] for row in held} == {"train"}
    assert held
    assert trained
    assert len(held) + len(trained) == 40


def test_without_val_and_share_there_is_no_validation_split(tmp_path: Path) -> None:
    write_mmlu(tmp_path)
    with pytest.raises(NoSplitError, match=r"no folder val; fetch it, or set tasks\.m\.validation_share"):
        MMLU("m", tmp_path).check("validation")


def test_a_missing_val_file_is_missing_and_not_another_split(folder: Path) -> None:
    (folder / "val" / "anatomy_val.csv").rename(folder / "val" / "anatomi_val.csv")
    with pytest.raises(InputError, match=r"cannot read '.*anatomy_val\.csv'.*nearest: 'anatomi_val\.csv'") as caught:
        MMLU("m", folder).check("validation")
    assert not isinstance(caught.value, NoSplitError)


@pytest.mark.parametrize("shots", range(6))
def test_shots_stand_before_evaluation_rows_and_no_others(folder: Path, shots: int) -> None:
    task, plain = MMLU("m", folder, shots=shots), MMLU("m", folder)
    shown = good(task.shown_rows())
    assert len(shown) == 5 * len(SUBJECTS)
    for split in ("validation", "test"):
        for row, bare in zip(good(task.eval_rows(split)), good(plain.eval_rows(split)), strict=True):
            head, question = bare.prompt.split("\n\n", 1)
            worked = [one for one in shown if one.group == row.group][:shots]
            parts = [one.prompt.split("\n\n", 1)[1] + one.completion for one in worked]
            assert row.prompt == "\n\n".join([head, *parts, question])
            assert key_of(row) == key_of(bare)
    assert good(task.train_rows()) == good(plain.train_rows())


def test_no_question_has_itself_among_its_shots(folder: Path) -> None:
    rows = [["DEV 2  of anatomy", "d", "c", 'b "y"', "a, x", "B"], ["another", "a", "b", "c", "d", "A"]]
    write_csv(folder / "test" / "anatomy_test.csv", rows)
    same, another = [row for row in good(MMLU("m", folder, shots=5).eval_rows("test")) if row.group == "anatomy"]
    assert "dev 2 of anatomy" not in same.prompt
    assert same.prompt.count("\nAnswer:") == 5
    assert another.prompt.count("\nAnswer:") == 6


def test_too_few_worked_questions_are_an_error(folder: Path) -> None:
    write_csv(folder / "dev" / "anatomy_dev.csv", [["q", "a", "b", "c", "d", "A"]])
    with pytest.raises(InputError, match=r"tasks\.m\.shots: anatomy_dev\.csv has 1 rows, fewer than shots = 5"):
        list(MMLU("m", folder, shots=5).eval_rows("test"))
    (folder / "dev" / "anatomy_dev.csv").unlink()
    with pytest.raises(InputError, match=r"cannot read '.*anatomy_dev\.csv'"):
        list(MMLU("m", folder, shots=1).eval_rows("test"))


def test_a_question_is_the_same_in_any_split_and_in_any_order_of_its_options(folder: Path) -> None:
    text = "Which floats?\n\nAnswer1: a cork Answer2: a nail Answer3: a brick Answer4: a coin\n\nAnswer format: answer1"
    row = auxiliary(0) | {"instruction": f"Please choose the correct answer to the question: {text}"}
    (folder / "auxiliary_train" / "arc.json").write_text(json.dumps([row]))
    options = ["a nail", "A cork.", "a coin", "a brick"]
    same, fewer = ["Which floats", *options, "B"], ["Which floats?", *options[:3], "a boat", "B"]
    for subject, question in (("anatomy", same), ("astronomy", fewer)):
        write_csv(folder / "test" / f"{subject}_test.csv", [question])
    (trained,) = good(MMLU("m", folder).train_rows())
    tested = {row.group: key_of(row) for row in good(MMLU("m", folder, shots=5).eval_rows("test"))}
    assert tested["anatomy"] == key_of(trained) != tested["astronomy"]


def section(**options: object) -> MMLUSection:
    return MMLUSection.model_validate({"task": "mmlu", "folder": "f", **options})


def test_a_recipe_reaches_the_shots() -> None:
    task = section(shots=5).build("m")
    assert isinstance(task, MMLU)
    assert task.shots == 5
    assert section().build("m") == MMLU("m", Path("f"))
    with pytest.raises(ValueError, match="less than or equal to 5"):
        section(shots=6)
