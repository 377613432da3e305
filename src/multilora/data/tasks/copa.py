"""COPA (choice of plausible alternatives): which of two sentences is the cause or the effect of a premise?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multilora.data.example import Example
from multilora.data.tasks.folder import Drafted, Part, row_id
from multilora.data.tasks.rows import Row
from multilora.data.tasks.superglue import SuperGlueTask


@dataclass(frozen=True)
class COPA(SuperGlueTask):
    """`premise`, `choice1`, `choice2`, `question` cause or effect, `label` 0 or 1.

    The premise goes on with "because" or "therefore", and the choices continue the sentence.
    """

    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        premise = row.text("premise")
        connector = row.label("question", {"cause": "because", "effect": "therefore"})
        choices = (_continued(row.text("choice1")), _continued(row.text("choice2")))
        completion = row.label("label", {0: choices[0], 1: choices[1]})
        prompt = f"{premise.strip()[:-1]} {connector}"
        example = Example(prompt, completion, source, row_id(row, source, part), choices, (completion,))
        return [Drafted(example, premise)]


def _continued(sentence: str) -> str:
    return f" {sentence[0].lower()}{sentence[1:]}"
