"""The base section of every task in a recipe: options common to all tasks, and how they build a task."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from multilora.fields import Number, PathText, Section, as_list, expand
from multilora.tasks.example import Task

HubId = Annotated[str, BeforeValidator(expand)]
Files = Annotated[list[PathText], BeforeValidator(as_list, json_schema_input_type=str | list[str])]


class TaskSection(Section):
    """A task's options. A subclass adds those of its kind of task, in fields with descriptions.

    It also has a field `task: Literal["NAME"]`, by which a recipe chooses it (`tasks.registry`).
    """

    rate: Number = Field(
        1.0, gt=0, description="Sampling share of the task, relative to the other tasks' rates. Equal by default."
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail",
        description="A row that is not JSON, lacks a field or has a blank completion: stop, or skip it (skips are "
        "counted and named).",
    )
    validation_share: Number = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training rows to hold out for validation. Which ones is decided by their text alone: "
        "the same rows in every run. 0: no validation split, except for mmlu, whose data include one (val).",
    )

    @abstractmethod
    def build(self, name: str) -> Task:
        """The task with these options. No file is opened, and nothing is downloaded.

        Args:
            name: the task's name in the recipe, which messages name fields by: `tasks.NAME.FIELD`.
        """


def names_of(section: type[TaskSection]) -> tuple[str, ...]:
    """The names by which a recipe chooses the section: those of its field `task`; empty if it has no such field."""
    field = section.model_fields.get("task")
    return tuple(name for name in get_args(field.annotation) if isinstance(name, str)) if field else ()
