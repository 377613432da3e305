"""GSM8K: word problems of grade-school arithmetic with worked answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from multilora.tasks.example import Example, Scoring, Split
from multilora.tasks.folder import DATA_SET, FolderSection, FolderTask, row_id
from multilora.tasks.hub import OnHub
from multilora.tasks.numbers import NUMBER, plain_number
from multilora.tasks.rows import Row, UnusableRowError
from multilora.tasks.rows_task import Drafted

_FINAL = re.compile(rf"#### ({NUMBER})\s*\Z")


@dataclass(frozen=True)
class GSM8K(FolderTask):
    """`question` and `answer`, which ends in `#### N`: the number that is scored."""

    scoring_kind: ClassVar[Scoring] = Scoring("final_number", ("exact_match",))
    on_hub: ClassVar[OnHub] = OnHub("openai/gsm8k", "main", {"train": "train", "test": "test"}, ("question", "answer"))

    def own_files(self, part: Split) -> Sequence[Path]:
        return [self.folder / f"{part}.jsonl"]

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        question, answer = row.text("question"), row.text("answer")
        final = _FINAL.search(answer)
        if final is None:
            raise UnusableRowError(f"the answer does not end in `#### N` with a number; it ends in {answer[-30:]!r}")
        prompt = f"Question: {question}\nAnswer:"
        number = plain_number(final.group(1))
        example = Example(prompt, f" {answer}", source, row_id(row, source, part), answers=(number,), key=question)
        return [Drafted(example, question)]


class GSM8KSection(FolderSection):
    """GSM8K: word problems of grade-school arithmetic."""

    task: Literal["gsm8k"] = Field(description=DATA_SET)
    data_set = GSM8K
