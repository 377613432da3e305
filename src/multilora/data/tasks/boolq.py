"""BoolQ: a yes/no question about a passage."""

from __future__ import annotations

from dataclasses import dataclass

from multilora.data.tasks.rows import Row
from multilora.data.tasks.superglue import LabelTask


@dataclass(frozen=True)
class BoolQ(LabelTask):
    """`question`, `passage`, `label` true or false."""

    def prompt(self, row: Row) -> tuple[str, str]:
        passage = row.text("passage")
        return f"{passage}\nQuestion: {row.text('question')}?\nAnswer:", passage
