"""A task whose rows are given, for tests of what reads tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multilora.errors import InputError
from multilora.tasks.example import BadRow, EvalSplit, Example, NoSplitError, Scoring, Split


def examples(prefix: str, texts: Iterable[str]) -> list[Example]:
    """One example per text, with an id of its own."""
    return [Example(text, " x", f"{prefix} row {i}", f"{prefix}-{i}") for i, text in enumerate(texts, start=1)]


@dataclass
class RowsTask:
    """Rows in memory. A split that is None is not there; `missing` ones raise as if their files were gone."""

    name: str
    train: Callable[[], Iterable[Example | BadRow]]
    validation: Iterable[str] | None = None
    test: Iterable[str] | None = None
    missing: list[Split] = field(default_factory=list[Split])
    scoring: Scoring = field(default_factory=lambda: Scoring("none"))

    def check(self, split: Split = "train") -> None:
        if split in self.missing:
            raise InputError(f"tasks.{self.name}.folder: cannot read '{split}.jsonl'\nand 'more.jsonl'")

    def train_rows(self) -> Iterator[Example | BadRow]:
        yield from self.train()

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        texts = self.validation if split == "validation" else self.test
        if texts is None:
            raise NoSplitError(f"tasks.{self.name}: no {split} split")
        yield from examples(split, texts)

    def shown_rows(self) -> Iterator[Example | BadRow]:
        return iter(())

    def files(self, split: Split) -> list[Path]:
        return []

    def groups(self, example: Example) -> dict[str, str]:
        return {}


def rows_task(
    name: str, train: Iterable[str], validation: Iterable[str] | None = None, test: Iterable[str] | None = None
) -> RowsTask:
    rows = examples("train", train)
    return RowsTask(name, lambda: rows, validation, test)
