"""docs/data.md has a section for every built-in task, and its samples read as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from data.tasks.formats import TRAIN, write_lines
from multilora.data.example import BadRow, Example
from multilora.data.tasks.mmlu import SUBJECTS
from multilora.data.tasks.registry import BUILT_IN, BuiltIn
from multilora.recipe import Recipe
from places import ROOT

TEXT = (ROOT / "docs/data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### \w+\n|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def shown(*rows: Example | BadRow) -> str:
    examples = [row for row in rows if isinstance(row, Example)]
    assert len(examples) == len(rows)
    return "```text\n" + "\n---\n".join(f"{row.prompt}⟦{row.completion}⟧" for row in examples) + "\n```"


def sample(kind: str, language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)\n```", SECTIONS[kind], re.DOTALL)
    return text


def test_every_task_has_a_section() -> None:
    assert set(SECTIONS) == set(BUILT_IN)


@pytest.mark.parametrize("kind", get_args(BuiltIn))
def test_the_sample_reads_as_shown(kind: BuiltIn, tmp_path: Path) -> None:
    row = json.loads(sample(kind, "json"))
    if kind == "mmlu":
        (tmp_path / "auxiliary_train").mkdir()
        (tmp_path / "auxiliary_train" / "a.json").write_text(json.dumps([row]))
    else:
        write_lines(tmp_path / TRAIN.get(kind, "train.jsonl"), [row])
    assert shown(*BUILT_IN[kind]("t", tmp_path).train_rows()) in SECTIONS[kind]


def test_mmlus_test_row_reads_as_shown(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        write_lines(tmp_path / "test" / f"{subject}_test.csv", [sample("mmlu", "csv")])
    rows = BUILT_IN["mmlu"]("t", tmp_path).eval_rows("test")
    (row,) = [row for row in rows if isinstance(row, Example) and row.group == "astronomy"]
    assert shown(row) in SECTIONS["mmlu"]


def test_the_recipes_tasks_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTILORA_DATA", "/somewhere")
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    training = {"output": "o", "steps": 1}
    recipe = Recipe.model_validate(
        {"model": "m", "method": {"name": "lora"}, "training": training} | yaml.safe_load(block)
    )
    assert [task.task for task in recipe.tasks.values()] == ["gsm8k", "mmlu", "jsonl"]
