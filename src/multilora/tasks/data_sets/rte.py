"""RTE (recognising textual entailment): does the premise entail the hypothesis?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.tasks.data_sets.superglue import LabelTask, super_glue
from multilora.tasks.folder import DATA_SET, FolderSection
from multilora.tasks.hub import OnHub
from multilora.tasks.rows import Row


@dataclass(frozen=True)
class RTE(LabelTask):
    """`premise`, `hypothesis`, `label` entailment or not_entailment."""

    on_hub: ClassVar[OnHub] = super_glue("rte", "premise hypothesis label")
    hub_labels: ClassVar[Mapping[str, Any]] = {name: name for name in ("entailment", "not_entailment")}

    labels: ClassVar[Mapping[Any, str]] = {"entailment": " True", "not_entailment": " False"}

    def prompt(self, row: Row) -> tuple[str, str]:
        premise = row.text("premise")
        return f"{premise}\nQuestion: {row.text('hypothesis')} True or False?\nAnswer:", premise


class RTESection(FolderSection):
    """RTE: does the premise entail the hypothesis?"""

    task: Literal["rte"] = Field(description=DATA_SET)
    data_set = RTE
