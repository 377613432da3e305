"""BoolQ: a yes/no question about a passage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import LabelTask, super_glue
from multilora.tasks.folder import DATA_SET, FolderSection
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row


@dataclass(frozen=True)
class BoolQ(LabelTask):
    """`question`, `passage`, `label` true or false."""

    on_hub: ClassVar[OnHub] = super_glue("boolq", "question passage label")

    def prompt(self, row: Row) -> tuple[str, str]:
        passage = row.text("passage")
        return f"{passage}\nQuestion: {row.text('question')}?\nAnswer:", passage


class BoolQSection(FolderSection):
    """BoolQ: yes/no questions about a passage."""

    task: Literal["boolq"] = Field(description=DATA_SET)
    data_set = BoolQ
