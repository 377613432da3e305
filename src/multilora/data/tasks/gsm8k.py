"""GSM8K: word problems of grade-school arithmetic with worked answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from multilora.data.example import Example, Scoring
from multilora.data.tasks.folder import Drafted, FolderTask, Part, row_id
from multilora.data.tasks.rows import Row, UnusableRowError

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_FINAL = re.compile(rf"#### ({_NUMBER})\s*\Z")


@dataclass(frozen=True)
class GSM8K(FolderTask):
    """`question` and `answer`, which ends in `#### N`: the number that is scored."""

    scoring_kind: ClassVar[Scoring] = Scoring("final_number", ("exact_match",))

    def files(self, part: Part) -> Sequence[Path]:
        return [self.folder / f"{part}.jsonl"]

    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        question, answer = row.text("question"), row.text("answer")
        final = _FINAL.search(answer)
        if final is None:
            raise UnusableRowError(f"the answer does not end in `#### N` with a number; it ends in {answer[-30:]!r}")
        prompt = f"Question: {question}\nAnswer:"
        number = _plain(final.group(1))
        example = Example(prompt, f" {answer}", source, row_id(row, source, part), answers=(number,))
        return [Drafted(example, question)]


def final_number(text: str) -> str | None:
    """The number that a generated answer ends in: the one after the first `####`, else the last one in the text.

    Commas are taken out, and so are a decimal point and zeros that say nothing. None: the text has no number.
    """
    marked = re.search(rf"####[^\d\n-]*({_NUMBER})", text)
    numbers = [marked.group(1)] if marked else re.findall(_NUMBER, text)
    return _plain(numbers[-1]) if numbers else None


def _plain(number: str) -> str:
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number
