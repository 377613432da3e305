"""From a recipe to its data: each training row is read once, and a run has one encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from multilora import InputError
from multilora.data.encoder import PromptCompletionEncoder
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.tasks.example import BadRow, Example, Task, TaskWrapper
from multilora.training.prepare import open_tasks, prepare_data
from multilora.training.run import train
from tiny_run import byte_level_tokenizer, make_recipe, make_rows


@dataclass(frozen=True)
class Counted(TaskWrapper):
    """Counts how often each training row is read."""

    reads: Counter[str] = field(default_factory=Counter[str])

    def train_rows(self) -> Iterator[Example | BadRow]:
        for row in self.task.train_rows():
            self.reads[row.source] += 1
            yield row


def recipe_with_test_rows(folder: Path, *overrides: str, leaks: bool = False) -> Recipe:
    """Test rows of task a: 20 of the training rows of both, or none of them."""
    path = make_recipe(folder)
    if leaks:
        (folder / "test.jsonl").write_text("".join((folder / "a.jsonl").read_text().splitlines(True)[:20]))
    else:
        (folder / "test.jsonl").write_text('{"q": "no such question", "a": "none"}\n')
    return load_recipe(path, [f"tasks.a.test={folder / 'test.jsonl'}", *overrides])


def counted(recipe: Recipe) -> list[Counted]:
    return [Counted(task) for task in open_tasks(recipe)]


def encoder() -> PromptCompletionEncoder:
    return PromptCompletionEncoder(byte_level_tokenizer())


@pytest.mark.parametrize(("on_leak", "leaks"), [("fail", False), ("drop", False), ("drop", True)])
def test_each_training_row_is_read_once(tmp_path: Path, on_leak: str, leaks: bool) -> None:
    recipe = recipe_with_test_rows(tmp_path, f"mixture.on_leak={on_leak}", leaks=leaks)
    tasks = counted(recipe)
    data = prepare_data(recipe, tasks, encoder())
    assert [list(task.reads.values()) for task in tasks] == [[1] * 40, [1] * 30]
    assert len(data.leaked["a"]) >= 20 * leaks
    assert len(data.mixture.tasks[0]) + len(data.leaked["a"]) == 40  # type: ignore[arg-type]


def test_each_training_row_is_read_once_where_leaks_stop_the_run(tmp_path: Path) -> None:
    recipe = recipe_with_test_rows(tmp_path, leaks=True)
    tasks = counted(recipe)
    with pytest.raises(InputError, match=r"mixture\.on_leak: training rows that equal evaluation rows: \d\d"):
        prepare_data(recipe, tasks, encoder())
    assert [list(task.reads.values()) for task in tasks] == [[1] * 40, [1] * 30]


def test_a_stream_is_read_before_training_only_to_stop_at_leaks(tmp_path: Path) -> None:
    for on_leak, reads in (("fail", 1), ("drop", 0)):
        recipe = recipe_with_test_rows(tmp_path, "mixture.streaming=true", f"mixture.on_leak={on_leak}")
        tasks = counted(recipe)
        data = prepare_data(recipe, tasks, encoder())
        assert [sum(task.reads.values()) for task in tasks] == [40 * reads, 30 * reads]
        streamed: list[Task] = list(data.mixture.tasks)  # type: ignore[arg-type]
        assert all(one is other for one, other in zip(streamed, tasks, strict=True)) == (on_leak == "fail")


def test_a_run_has_one_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, begin = list[Any](), PromptCompletionEncoder.__init__

    def counting(encoder: PromptCompletionEncoder, tokenizer: Any) -> None:
        made.append(tokenizer)
        begin(encoder, tokenizer)

    monkeypatch.setattr(PromptCompletionEncoder, "__init__", counting)
    path = make_recipe(tmp_path, steps=1)
    make_rows(tmp_path / "validation.jsonl", 5, 7)
    overrides = [f"tasks.a.validation={tmp_path / 'validation.jsonl'}", "validation.limit=3", "mixture.on_leak=drop"]
    train(load_recipe(path, overrides))
    assert len(made) == 1
