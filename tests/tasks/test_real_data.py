"""The tasks on the data sets themselves, where they are: complete, whole, and no evaluation row in training."""

from __future__ import annotations

from pathlib import Path

import pytest

from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.example import BadRow, Example
from multilora.tasks.folder import FolderTask
from multilora.tasks.numbers import final_number
from tasks.formats import DATA_SETS


def task_on(data_dir: Path, kind: str, folder: str, share: float = 0.0) -> FolderTask:
    place = data_dir / "data" / folder
    if not place.is_dir():
        pytest.skip(f"needs real data: {place} is missing")
    if kind == "mmlu":
        return MMLU(kind, place, validation_share=share, auxiliary=place.parent / "mmlu_auxiliary")
    return DATA_SETS[kind](kind, place, validation_share=share)


@pytest.mark.parametrize(
    ("kind", "folder", "train", "test"),
    [
        ("alpaca", "alpaca", 21_200, 0),
        ("boolq", "superglue/BoolQ", 2_000, 3_270),
        ("cb", "superglue/CB", 250, 56),
        ("copa", "superglue/COPA", 400, 100),
        ("gsm8k", "gsm8k", 7_473, 1_319),
        ("mmlu", "mmlu", 2_251 + 1_119 + 4_957, 14_042),
        ("multirc", "superglue/MultiRC", 27_243, 4_848),
        ("rte", "superglue/RTE", 2_490, 277),
        ("wic", "superglue/WiC", 5_428, 638),
        ("wsc", "superglue/WSC", 554, 104),
    ],
)
def test_every_row_of_the_data_set(kind: str, folder: str, train: int, test: int, data_dir: Path) -> None:
    task = task_on(data_dir, kind, folder)
    task.check()
    trained = list(task.train_rows())
    evaluated = list(task.eval_rows("test")) if test else []
    assert (len(trained), len(evaluated)) == (train, test)

    bad = [row for row in [*trained, *evaluated] if isinstance(row, BadRow)]
    assert len(bad) == (10 if kind == "alpaca" else 0), bad[:3]  # ten blank outputs, as upstream
    good = [row for row in [*trained, *evaluated] if isinstance(row, Example)]
    assert len({row.id for row in good}) == len(good)
    for row in good:
        assert row.prompt.strip()
        assert row.completion.strip()
        if task.scoring.kind == "choices":
            assert row.completion in row.choices
            assert row.answers == (row.completion,)
        elif task.scoring.kind == "final_number":
            assert row.answers == (final_number(row.completion),)

    questions = {(row.prompt, row.choices) for row in trained if isinstance(row, Example)}
    assert not [row for row in evaluated if isinstance(row, Example) and (row.prompt, row.choices) in questions]

    held = task_on(data_dir, kind, folder, share=0.1)
    left = {row.id for row in held.train_rows() if isinstance(row, Example)}
    validation = {row.id for row in held.eval_rows("validation") if isinstance(row, Example)}
    assert left.isdisjoint(validation)
    assert left | validation == {row.id for row in trained if isinstance(row, Example)}
    assert 0.05 < len(validation) / train < 0.16


def test_every_subject_of_mmlu_with_its_five_dev_rows(data_dir: Path) -> None:
    task = task_on(data_dir, "mmlu", "mmlu")
    assert isinstance(task, MMLU)
    shots = MMLU("mmlu", task.folder, shots=5)
    for row in shots.eval_rows("test"):
        assert isinstance(row, Example)
        assert row.prompt.count("\nAnswer:") >= 6
    assert {row.group for row in task.eval_rows("test") if isinstance(row, Example)} == set(SUBJECTS)
