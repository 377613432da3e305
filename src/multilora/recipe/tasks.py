"""The tasks of a recipe and how often each is seen."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, model_validator

from multilora.data.mixture import CountedBy, RateRule
from multilora.data.tasks.registry import BUILT_IN, BuiltIn
from multilora.errors import InputError
from multilora.recipe.values import Integer, Number, PathText, Section, TemplateText, as_list


class _AnyTaskSection(Section):
    rate: Number = Field(
        1.0, gt=0, description="Sampling share of the task, relative to the other tasks' rates. Equal by default."
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail",
        description="A row that is not JSON, lacks a field or has a blank completion: stop, or skip it (skips are "
        "counted and named).",
    )


class TaskSection(_AnyTaskSection):
    """A task from JSON-lines files."""

    task: Literal["jsonl"] = Field("jsonl", description="JSON-lines files with templates; the default.")
    train: Annotated[list[PathText], BeforeValidator(as_list, json_schema_input_type=str | list[str])] = Field(
        min_length=1, description="JSON-lines file or files with the training rows: one JSON object per line."
    )
    prompt: Annotated[list[TemplateText], BeforeValidator(as_list, json_schema_input_type=str | list[str])] = Field(
        min_length=1,
        description="The model's input as a template: {field} is replaced by the row's value; write {{ and }} for "
        "braces. Of a list, the first template whose fields are all there and not empty is used; the last one also "
        "takes empty values.",
    )
    completion: TemplateText = Field(
        description="The target as a template. It is the model's text right after the prompt: begin it with a space "
        "or end the prompt with a line break where the text needs one. The eos token is added."
    )


class BuiltInTaskSection(_AnyTaskSection):
    """A built-in task: a known data set in its own format, with prompts, splits and scoring of its own."""

    task: BuiltIn = Field(description="The data set; docs/data.md shows each.")
    folder: PathText = Field(description="Folder with the data set's own files.")
    auxiliary: PathText | None = Field(
        None,
        description="For mmlu: folder with the training sources, as MMLU has no training split of its own. None: "
        "auxiliary_train in the folder.",
    )
    shots: Integer = Field(
        0,
        ge=0,
        le=5,
        description="For mmlu: worked questions of the subject, from dev, before each question to evaluate on. "
        "Training rows have none.",
    )
    validation_share: Number = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training rows to hold out for validation. Which ones is decided by their text alone: "
        "the same rows in every run. 0: no validation split, but for mmlu, which has one of its own (val).",
    )

    @model_validator(mode="after")
    def _options_of_mmlu(self) -> BuiltInTaskSection:
        if self.auxiliary is not None and self.task != "mmlu":
            raise InputError(
                f"auxiliary: {str(self.auxiliary)!r} has no effect: the task {self.task} has training "
                "rows of its own. Leave it out"
            )
        if self.shots and self.task != "mmlu":
            raise InputError(f"shots: {self.shots} has no effect with the task {self.task}, only with mmlu; leave it out")
        return self


def _task_kind(section: Any) -> str | None:
    """Which section a task has: by its `task`, which is `jsonl` unless said otherwise."""
    if isinstance(section, BaseModel):
        return "built-in" if isinstance(section, BuiltInTaskSection) else "jsonl"
    name = cast(dict[str, Any], section).get("task", "jsonl") if isinstance(section, dict) else "jsonl"
    return "jsonl" if name == "jsonl" else "built-in" if isinstance(name, str) and name in BUILT_IN else None


AnyTaskSection = Annotated[
    Annotated[TaskSection, Tag("jsonl")] | Annotated[BuiltInTaskSection, Tag("built-in")], Discriminator(_task_kind)
]


class MixtureSection(Section):
    """How often each task is seen."""

    rates: RateRule = Field(
        "explicit",
        description="explicit: each task's rate. proportional: by the task's size n. equal: the same for all. "
        "temperature: by n^(1/temperature).",
    )
    temperature: Number | None = Field(
        None, ge=1, description="For rates: temperature. 1 is proportional, a large one nearly equal."
    )
    examples_cap: Integer | None = Field(
        None,
        ge=1,
        description="For rates proportional and temperature: a task's n counts up to this, as T5's K. In tokens if "
        "counted_by is tokens.",
    )
    counted_by: CountedBy = Field(
        "examples",
        description="What n and the shares are measured in: examples, or tokens of prompts and completions. Counted by "
        "tokens, a task of short examples with rate 1 is as many tokens as one of long examples with rate 1.",
    )
    on_leak: Literal["fail", "drop"] = Field(
        "fail",
        description="A training row whose question is also one of a validation or test split of any of the tasks: "
        "stop, or leave it out of training, counted and named. `multilora data check` lists them.",
    )

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> MixtureSection:
        if self.rates == "temperature" and self.temperature is None:
            raise InputError("rates: temperature needs a temperature, such as temperature: 2")
        if self.rates != "temperature" and self.temperature is not None:
            raise InputError(
                f"temperature: {self.temperature} has no effect with rates: {self.rates}; leave it out, or set rates: "
                "temperature"
            )
        if self.rates in ("explicit", "equal") and self.examples_cap is not None:
            raise InputError(
                f"examples_cap: {self.examples_cap} has no effect with rates: {self.rates}; leave it out, or set "
                "rates to proportional or temperature"
            )
        return self
