"""The tasks of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from multilora.errors import InputError
from multilora.fields import Integer, Number, PathText, Section, as_list, expand
from multilora.tasks.registry import BUILT_IN, BuiltIn
from multilora.tasks.template import TemplateText

HubId = Annotated[str, BeforeValidator(expand)]
Files = Annotated[list[PathText], BeforeValidator(as_list, json_schema_input_type=str | list[str])]


class _AnyTaskSection(Section):
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
        "the same rows in every run. 0: no validation split, but for mmlu, which has one of its own (val).",
    )


class _LinesSection(_AnyTaskSection):
    """A task of one's own rows."""

    hub: HubId | None = Field(
        None,
        min_length=1,
        description="Take the rows from a data set on the Hugging Face Hub, by its id, or from a local folder in the "
        "Hub's layout (docs/data.md). None: from files.",
    )
    config: str | None = Field(None, min_length=1, description="For hub: the data set's configuration.")
    revision: str | None = Field(None, min_length=1, description="For hub: branch, tag or commit.")
    train: Files = Field(
        [],
        validate_default=True,
        description="JSON-lines file or files with the training rows: one JSON object per line. With hub: split or "
        "splits, train if left out.",
    )
    validation: Files = Field([], description="The same with the validation rows.")
    test: Files = Field([], description="The same with the test rows, which `multilora eval` reports on.")
    id: str | None = Field(None, min_length=1, description="Field that names a row; two rows of one name are a fault.")

    @field_validator("train")
    @classmethod
    def _rows_from_somewhere(cls, value: list[Path], info: ValidationInfo) -> list[Path]:
        if not value and info.data.get("hub") is None:
            raise InputError("name at least 1 JSON-lines file with training rows in train, or a data set in hub")
        return value

    @model_validator(mode="after")
    def _options_of_hub(self) -> Self:
        for name, value in (("config", self.config), ("revision", self.revision)):
            if self.hub is None and value is not None:
                raise InputError(f"{name}: {value!r} has no effect without hub; leave it out, or name the data set")
        if self.validation and self.validation_share:
            raise InputError(
                f"validation_share: {self.validation_share} has no effect beside the files in validation; drop one"
            )
        return self


class TaskSection(_LinesSection):
    """A task from JSON-lines files."""

    task: Literal["jsonl"] = Field("jsonl", description="Rows with templates; the default.")
    prompt: Annotated[list[TemplateText], BeforeValidator(as_list, json_schema_input_type=str | list[str])] = Field(
        min_length=1,
        description="The model's input as a template: {field} is replaced by the row's value; write {{ and }} for "
        "braces. Of a list, the first template whose fields are all there and not empty is used; the last one also "
        "takes empty values.",
    )
    completion: TemplateText | None = Field(
        None,
        description="The target as a template. It is the model's text right after the prompt: begin it with a space "
        "or end the prompt with a line break where the text needs one. The eos token is added. With choices it must be "
        "one of them, or is left out for answer.",
    )
    choices: Annotated[list[TemplateText], BeforeValidator(as_list, json_schema_input_type=str | list[str])] = Field(
        [],
        description="What a model may answer, as templates; the likeliest counts as its answer. One template whose "
        "only field holds a list makes a choice of each item.",
    )
    answer: str | None = Field(
        None,
        min_length=1,
        description="Field that says which of the choices is right: its number from 0, or its letter from A; with "
        "labels, its label.",
    )
    labels: str | None = Field(
        None, min_length=1, description="For answer: field with the list of the choices' own labels."
    )
    score: Literal["none", "exact_match", "final_number"] = Field(
        "none",
        description="How free text is scored: not at all, by the whole text, or by the number that it ends in.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> TaskSection:
        if (self.completion is None) == (self.answer is None):
            raise InputError("completion: give either completion, or choices and answer")
        if self.answer is not None and not self.choices:
            raise InputError(f"answer: {self.answer!r} needs choices, of which it says the right one")
        if self.choices and self.score != "none":
            raise InputError(f"score: {self.score} has no effect with choices, which are scored by likelihood")
        if self.labels is not None and self.answer is None:
            raise InputError(f"labels: {self.labels!r} has no effect without answer, the field with the right label")
        return self


class ChatTaskSection(_LinesSection):
    """A task from conversations."""

    task: Literal["chat"] = Field(
        description="Rows with messages, each with role and content; the loss has what the assistant says."
    )
    chat_template: str = Field(
        "",
        description="Chat template: a Jinja file, or the template's text. Left out: the tokenizer's own.",
    )

    @field_validator("chat_template")
    @classmethod
    def _a_file_or_text(cls, value: str, info: ValidationInfo) -> str:
        return value if "{{" in value or "{%" in value else expand(value, info)


class BuiltInTaskSection(_AnyTaskSection):
    """A built-in task: a known data set in its own format, with prompts, splits and scoring of its own."""

    task: BuiltIn = Field(description="The data set; docs/data.md shows each.")
    folder: PathText | None = Field(
        None, description="Folder with the data set's own files. None: from the Hugging Face Hub."
    )
    hub: HubId | None = Field(
        None,
        min_length=1,
        description="The data set's id on the Hub, or a local folder in the Hub's layout. None: its usual id "
        "(docs/data.md).",
    )
    revision: str | None = Field(None, min_length=1, description="Branch, tag or commit on the Hub.")
    auxiliary: PathText | None = Field(
        None,
        description="For mmlu: folder with the training sources, as MMLU has no training split of its own. None: "
        "auxiliary_train, in the folder or on the Hub.",
    )
    shots: Integer = Field(
        0,
        ge=0,
        le=5,
        description="For mmlu: worked questions of the subject, from dev, before each question to evaluate on. "
        "Training rows have none.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> BuiltInTaskSection:
        for name, value in (("hub", self.hub), ("revision", self.revision)):
            if self.folder is not None and value is not None:
                raise InputError(
                    f"{name}: {value!r} has no effect beside folder, whose files are read; leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def _options_of_mmlu(self) -> BuiltInTaskSection:
        if self.auxiliary is not None and self.task != "mmlu":
            raise InputError(
                f"auxiliary: {str(self.auxiliary)!r} has no effect: the task {self.task} has training "
                "rows of its own. Leave it out"
            )
        if self.shots and self.task != "mmlu":
            raise InputError(
                f"shots: {self.shots} has no effect with the task {self.task}, only with mmlu; leave it out"
            )
        return self


def _task_kind(section: Any) -> str | None:
    """Which section a task has: by its `task`, which is `jsonl` unless said otherwise."""
    if isinstance(section, BaseModel):
        return next(kind for kind, cls in SECTIONS.items() if isinstance(section, cls))
    name = cast(dict[str, Any], section).get("task", "jsonl") if isinstance(section, dict) else "jsonl"
    if not isinstance(name, str):
        return None
    return "built-in" if name in BUILT_IN else name if name in ("jsonl", "chat") else None


SECTIONS: Mapping[str, type[_AnyTaskSection]] = MappingProxyType(
    {"jsonl": TaskSection, "chat": ChatTaskSection, "built-in": BuiltInTaskSection}
)
AnyTaskSection = Annotated[
    Annotated[TaskSection, Tag("jsonl")]
    | Annotated[ChatTaskSection, Tag("chat")]
    | Annotated[BuiltInTaskSection, Tag("built-in")],
    Discriminator(_task_kind),
]


def section_of(task: Any) -> type[Section]:
    """The section of a task with this name: jsonl, chat, or a built-in one's."""
    return SECTIONS.get(task, BuiltInTaskSection) if isinstance(task, str) else BuiltInTaskSection
