"""CB (CommitmentBank): does the premise entail the hypothesis, contradict it, or neither?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import LabelTask, super_glue
from multilora.tasks.example import Scoring
from multilora.tasks.folder import DATA_SET, FolderSection
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row


@dataclass(frozen=True)
class CB(LabelTask):
    """`premise`, `hypothesis`, `label` entailment, contradiction or neutral."""

    on_hub: ClassVar[OnHub] = super_glue("cb", "premise hypothesis label")
    hub_labels: ClassVar[Mapping[str, Any]] = {name: name for name in ("entailment", "contradiction", "neutral")}

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("accuracy", "macro_f1"))
    labels: ClassVar[Mapping[Any, str]] = {"entailment": " True", "contradiction": " False", "neutral": " Neither"}

    def prompt(self, row: Row) -> tuple[str, str]:
        premise = row.text("premise")
        return f"{premise}\nQuestion: {row.text('hypothesis')}. True, False, or Neither?\nAnswer:", premise


class CBSection(FolderSection):
    """CommitmentBank: does the premise entail the hypothesis?"""

    task: Literal["cb"] = Field(description=DATA_SET)
    data_set = CB
