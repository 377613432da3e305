"""WiC (words in context): does a word mean the same in two sentences?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import LabelTask, super_glue
from multilora.tasks.folder import DATA_SET, FolderSection
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row, UnusableRowError


@dataclass(frozen=True)
class WiC(LabelTask):
    """`sentence1`, `sentence2`, `start1` and `end1` of the word in the first sentence, `label` true or false."""

    on_hub: ClassVar[OnHub] = super_glue("wic", "sentence1 sentence2 start1 end1 label")

    def prompt(self, row: Row) -> tuple[str, str]:
        first, second = row.text("sentence1"), row.text("sentence2")
        start, end = row.whole("start1"), row.whole("end1")
        word = first[start:end] if 0 <= start < end <= len(first) else ""
        if not word.strip():
            raise UnusableRowError(f"start1 {start} and end1 {end} mark no word in sentence1")
        question = f"Is the word '{word}' used in the same way in the two sentences above?"
        return f"Sentence 1: {first}\nSentence 2: {second}\nQuestion: {question}\nAnswer:", f"{first}\n{second}"


class WiCSection(FolderSection):
    """WiC: does a word mean the same in two sentences?"""

    task: Literal["wic"] = Field(description=DATA_SET)
    data_set = WiC
