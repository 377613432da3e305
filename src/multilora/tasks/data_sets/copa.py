"""COPA (choice of plausible alternatives): which of two sentences is the cause or the effect of a premise?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import SuperGlueTask, super_glue
from multilora.tasks.example import Example, Split
from multilora.tasks.folder import DATA_SET, FolderSection, row_id
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row
from multilora.tasks.rows_task import Drafted


@dataclass(frozen=True)
class COPA(SuperGlueTask):
    """`premise`, `choice1`, `choice2`, `question` cause or effect, `label` 0 or 1.

    The premise continues with "because" or "therefore", and the choices continue the sentence, after two spaces: as in
    lm-evaluation-harness, whose scores others publish.
    """

    on_hub: ClassVar[OnHub] = super_glue("copa", "premise choice1 choice2 question label")
    hub_labels: ClassVar[Mapping[str, Any]] = {"choice1": 0, "choice2": 1}

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        premise = row.text("premise")
        connector = row.label("question", {"cause": "because", "effect": "therefore"})
        choices = (_continued(row.text("choice1")), _continued(row.text("choice2")))
        completion = row.label("label", {0: choices[0], 1: choices[1]})
        prompt = f"{premise.strip()[:-1]} {connector}"
        example = Example(prompt, completion, source, row_id(row, source, part), choices, (completion,))
        return [Drafted(example, premise)]


class COPASection(FolderSection):
    """COPA: the more plausible cause or effect of a premise."""

    task: Literal["copa"] = Field(description=DATA_SET)
    data_set = COPA


def _continued(sentence: str) -> str:
    return f"  {sentence[0].lower()}{sentence[1:]}"
