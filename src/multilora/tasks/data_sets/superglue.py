"""Common code of the SuperGLUE tasks: the original files `train.jsonl` and `val.jsonl`, and verbal labels as choices.

The prompts are worded as lm-evaluation-harness words them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from multilora.tasks.example import Example, Scoring, Split
from multilora.tasks.folder import FolderTask, row_id
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row
from multilora.tasks.rows_task import Drafted

YES_NO: Mapping[Any, str] = {False: " no", True: " yes"}


def super_glue(config: str, columns: str) -> OnHub:
    """SuperGLUE's place on the Hub, whose validation split is the file `val.jsonl`; the columns that are read."""
    return OnHub("aps/super_glue", config, {"train": "train", "test": "validation"}, columns.split())


@dataclass(frozen=True)
class SuperGlueTask(FolderTask):
    """A SuperGLUE task. `val.jsonl` is its test split: the labels of SuperGLUE's own test files are secret.

    Where the folder has no `train.jsonl`, one file whose name begins with `train` takes its place. On the Hub the
    columns are the original fields and the label is a class.
    """

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("accuracy",))
    hub_labels: ClassVar[Mapping[str, Any]] = {"False": False, "True": True}  # by the classes' names, in their order

    def own_files(self, part: Split) -> Sequence[Path]:
        if part == "test":
            return [self.folder / "val.jsonl"]
        train = self.folder / "train.jsonl"
        others = [] if train.exists() else sorted(self.folder.glob("train*.jsonl"))
        return others if len(others) == 1 else [train]

    def from_hub(self, row: Row) -> dict[str, Any]:
        return {**row.data, **self.own_label(row)}

    def own_label(self, row: Row) -> dict[str, Any]:
        """The original label of a row's class, which is a name, or a number where the file does not name classes."""
        label = row.data.get("label")
        if type(label) is int and 0 <= label < len(self.hub_labels):
            label = list(self.hub_labels)[label]
        return {"label": self.hub_labels.get(label, label)} if isinstance(label, str) else {}


@dataclass(frozen=True)
class LabelTask(SuperGlueTask):
    """A SuperGLUE task with one example per row and the same choices for every row."""

    labels: ClassVar[Mapping[Any, str]] = YES_NO

    def prompt(self, row: Row) -> tuple[str, str]:
        """The prompt, and what decides the side of the validation split (`Drafted.split_key`)."""
        raise NotImplementedError

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        prompt, split_key = self.prompt(row)
        completion = row.label("label", self.labels)
        choices = tuple(self.labels.values())
        example = Example(prompt, completion, source, row_id(row, source, part), choices, (completion,))
        return [Drafted(example, split_key)]
