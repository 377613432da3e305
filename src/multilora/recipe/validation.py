"""Validation during training: losses and scores per task, the best weights, forgetting."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from multilora.errors import InputError
from multilora.fields import Integer, PathText, Section, as_list


class ValidationSection(Section):
    """Validation while training: before the first step, every `every` steps, and after the last."""

    every: Integer | None = Field(
        None, ge=1, description="Steps between validations. None: only before and after training."
    )
    limit: Integer | None = Field(
        200, ge=1, description="Validation rows per task, and texts of general_text, spread evenly. None: all."
    )
    scores: bool = Field(
        False,
        description="Score the tasks' answers too (accuracy and so on), not only their loss. Needs the extra `eval`, "
        "and takes a forward pass for each choice.",
    )
    best_by: str | None = Field(
        None,
        description="Keep the weights that are best by this instead of the last: loss (the mean of the tasks' losses), "
        "score (the mean of the tasks' main metrics), or one task's: NAME.loss, NAME.accuracy and so on.",
    )
    general_text: Annotated[list[PathText], BeforeValidator(as_list, json_schema_input_type=str | list[str])] = Field(
        [],
        description="Files with general text that no task trains on, to see what is forgotten: .txt, or JSON lines or "
        "a JSON array of texts or of objects with a field `text`.",
    )

    @model_validator(mode="after")
    def _best_is_measured(self) -> ValidationSection:
        measured = self.best_by is None or self.best_by == "loss" or self.best_by.endswith(".loss")
        if not measured and not self.scores:
            raise InputError(f"best_by: {self.best_by} is a score, and scores are off; set scores: true")
        if self.best_by is not None and self.every is None:
            raise InputError(f"best_by: {self.best_by} needs every, the steps between validations; set for example 100")
        return self
