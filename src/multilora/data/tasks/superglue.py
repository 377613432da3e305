"""What the SuperGLUE tasks share: the original files `train.jsonl` and `val.jsonl`, and verbal labels as choices.

The prompts are worded as lm-evaluation-harness words them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from multilora.data.example import Example, Scoring
from multilora.data.tasks.folder import Drafted, FolderTask, Part, row_id
from multilora.data.tasks.rows import Row

YES_NO: Mapping[Any, str] = {False: " no", True: " yes"}


@dataclass(frozen=True)
class SuperGlueTask(FolderTask):
    """A SuperGLUE task. `val.jsonl` is its test split: the labels of SuperGLUE's own test files are secret.

    Where the folder has no `train.jsonl`, one file whose name begins with `train` takes its place.
    """

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("accuracy",))

    def files(self, part: Part) -> Sequence[Path]:
        if part == "test":
            return [self.folder / "val.jsonl"]
        train = self.folder / "train.jsonl"
        others = [] if train.exists() else sorted(self.folder.glob("train*.jsonl"))
        return others if len(others) == 1 else [train]


@dataclass(frozen=True)
class LabelTask(SuperGlueTask):
    """A SuperGLUE task with one example per row and the same choices for every row."""

    labels: ClassVar[Mapping[Any, str]] = YES_NO

    def prompt(self, row: Row) -> tuple[str, str]:
        """The prompt, and what decides the side of the validation split (`Drafted.together`)."""
        raise NotImplementedError

    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        prompt, together = self.prompt(row)
        completion = row.label("label", self.labels)
        choices = tuple(self.labels.values())
        example = Example(prompt, completion, source, row_id(row, source, part), choices, (completion,))
        return [Drafted(example, together)]
