"""docs/data.md has a section for every task, and its samples read as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from multilora.data.chat import chat_pieces
from multilora.recipe import Recipe
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.data_sets.superglue import SuperGlueTask
from multilora.tasks.example import BadRow, Conversation, Example, Task
from places import ROOT
from tasks.formats import DATA_SETS, JSON_LINES, TRAIN, write_lines
from tasks.hub_layout import as_on_hub
from tiny_run import byte_level_tokenizer

TEXT = (ROOT / "docs/data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### \w+\n|^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def shown(*rows: Example | BadRow) -> str:
    examples = [row for row in rows if isinstance(row, Example)]
    assert len(examples) == len(rows)
    return "```text\n" + "\n---\n".join(f"{row.prompt}⟦{row.completion}⟧" for row in examples) + "\n```"


def sample(kind: str, language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)\n```", SECTIONS[kind], re.DOTALL)
    return text


def test_every_task_has_a_section() -> None:
    assert set(SECTIONS) == {*DATA_SETS, "jsonl", "chat"}


def test_the_table_of_the_hub_is_what_the_tasks_read() -> None:
    rows = re.findall(r"^\| (\w+) \| `([\w./-]+)` \| ([\w.]*) ?\| ([\w, ]+) \| (.*) \|$", TEXT, re.MULTILINE)
    assert [kind for kind, *_ in rows] == list(DATA_SETS)
    for kind, id, config, splits, columns in rows:
        task = DATA_SETS[kind]
        assert (id, config or None) == (task.on_hub.id, task.on_hub.config)
        assert set(splits.split(", ")) == {*task.on_hub.splits.values(), *(["dev"] if kind == "mmlu" else [])}
        if issubclass(task, SuperGlueTask) and kind != "record":
            assert f"label ({', '.join(task.hub_labels)})" in columns
        named = re.sub(r" \([^)]*\)|: one row.*", "", columns).split(", ")
        assert set(task.on_hub.columns) <= set(named)
        if kind in JSON_LINES:
            (row, *_) = as_on_hub(kind, JSON_LINES[kind](0))
            assert set(named) <= set(row)


@pytest.mark.parametrize("kind", DATA_SETS)
def test_the_sample_reads_as_shown(kind: str, tmp_path: Path) -> None:
    row = json.loads(sample(kind, "json"))
    if kind == "mmlu":
        (tmp_path / "auxiliary_train").mkdir()
        (tmp_path / "auxiliary_train" / "a.json").write_text(json.dumps([row]))
    else:
        write_lines(tmp_path / TRAIN.get(kind, "train.jsonl"), [row])
    assert shown(*DATA_SETS[kind]("t", tmp_path).train_rows()) in SECTIONS[kind]


def test_mmlus_test_row_reads_as_shown(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        write_lines(tmp_path / "test" / f"{subject}_test.csv", [sample("mmlu", "csv")])
    rows = DATA_SETS["mmlu"]("t", tmp_path).eval_rows("test")
    (row,) = [row for row in rows if isinstance(row, Example) and row.group == "astronomy"]
    assert shown(row) in SECTIONS["mmlu"]


def test_the_recipes_tasks_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTILORA_DATA", "/somewhere")
    block = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]
    training = {"output": "o", "steps": 1}
    recipe = Recipe.model_validate(
        {"model": "m", "method": {"name": "lora"}, "training": training} | yaml.safe_load(block)
    )
    assert [task.task for task in recipe.tasks.values()] == ["gsm8k", "mmlu", "rte", "jsonl", "chat"]


def own_task(kind: str, tmp_path: Path) -> Task:
    """The task of the section's sample, on its one row."""
    section = yaml.safe_load(sample(kind, "yaml"))
    file = write_lines(tmp_path / section["train"], [json.loads(sample(kind, "json"))])
    training = {"output": "o", "steps": 1}
    tasks = {"t": section | {"train": str(file)}}
    recipe = Recipe.model_validate({"model": "m", "method": {"name": "lora"}, "training": training, "tasks": tasks})
    return recipe.tasks["t"].build("t")


def test_the_sample_of_choices_reads_as_shown(tmp_path: Path) -> None:
    (row,) = own_task("jsonl", tmp_path).train_rows()
    assert shown(row) in SECTIONS["jsonl"]
    assert isinstance(row, Example)
    assert row.choices == (" a nail", " a cork")


def test_the_sample_of_a_conversation_reads_as_shown(tmp_path: Path) -> None:
    (row,) = own_task("chat", tmp_path).train_rows()
    assert isinstance(row, Conversation)
    pieces = chat_pieces(byte_level_tokenizer(), row)
    text = "".join(f"⟦{piece}⟧" if learnt else piece for piece, learnt in pieces)
    assert f"```text\n{text}\n```" in SECTIONS["chat"]
