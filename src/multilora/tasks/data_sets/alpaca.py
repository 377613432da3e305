"""Alpaca: instructions, some with an input, and responses in free text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.example import Example, Split
from multilora.tasks.folder import DATA_SET, FolderSection, FolderTask, row_id
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row, UnusableRowError, json_array
from multilora.tasks.rows_task import Drafted

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Alpaca(FolderTask):
    """`instruction`, `input` (may be empty) and `output`, in `alpaca*.jsonl` or in the original `alpaca*.json`, one
    array. No test split and no score.
    """

    on_hub: ClassVar[OnHub] = OnHub("tatsu-lab/alpaca", None, {"train": "train"}, ("instruction", "input", "output"))

    def own_files(self, part: Split) -> Sequence[Path]:
        if part != "train":
            return []
        found = sorted([*self.folder.glob("alpaca*.jsonl"), *self.folder.glob("alpaca*.json")])
        return found[:1] if len(found) == 1 else [self.folder / "alpaca_data.json"]

    def read(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        if file.suffix == ".jsonl":
            yield from super().read(file)
        else:
            for number, row in json_array(file, f"tasks.{self.name}.folder"):
                yield f"{file.name} row {number}", row

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        instruction, given = row.text("instruction"), row.maybe_empty("input")
        template = _WITH_INPUT if given.strip() else _WITHOUT_INPUT
        prompt = template.format(instruction=instruction, input=given)
        question = f"{instruction}\n{given}"
        example = Example(prompt, row.maybe_empty("output"), source, row_id(row, source, part), key=question)
        return [Drafted(example, question)]


class AlpacaSection(FolderSection):
    """Alpaca: instructions with responses in free text."""

    task: Literal["alpaca"] = Field(description=DATA_SET)
    data_set = Alpaca
