"""BoolQ: a yes/no question about a passage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row
from multilora.tasks.superglue import LabelTask, super_glue


@dataclass(frozen=True)
class BoolQ(LabelTask):
    """`question`, `passage`, `label` true or false."""

    on_hub: ClassVar[OnHub] = super_glue("boolq", "question passage label")

    def prompt(self, row: Row) -> tuple[str, str]:
        passage = row.text("passage")
        return f"{passage}\nQuestion: {row.text('question')}?\nAnswer:", passage
