"""A task from JSON-lines files: one JSON object per line; prompt, completion and choices by templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from multilora.errors import InputError, nearest
from multilora.fields import as_list
from multilora.tasks.example import Example, Scoring
from multilora.tasks.lines import LinesSection, LinesTask
from multilora.tasks.numbers import final_number
from multilora.tasks.rows import UnusableRowError, check_texts, json_type
from multilora.tasks.template import Template, TemplateText

FreeTextScore = Literal["none", "exact_match", "final_number"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class JsonlTask(LinesTask):
    """Rows whose fields go into templates.

    Attributes:
        prompts: of these the first whose fields all have a value that is not empty makes the prompt; the last one
            also takes empty values.
        completion: makes the completion; None if `answer` says which of the choices it is.
        choices: what a model may answer. One template whose only field holds a list makes a choice of each item.
        answer: field that says which choice is right: its label, where there are `labels`; else its number, from 0, or
            its letter, from A.
        labels: field with a list of the choices' labels; None if choices have none.
        score: how free text is scored.
    """

    prompts: Sequence[Template]
    completion: Template | None
    choices: Sequence[Template] = ()
    answer: str | None = None
    labels: str | None = None
    score: FreeTextScore = "none"

    @property
    def scoring(self) -> Scoring:
        """Choices by their likelihood; free text as the recipe says."""
        if self.choices:
            return Scoring("choices", ("accuracy",))
        match self.score:
            case "none":
                return Scoring("none")
            case "exact_match":
                return Scoring("exact_text", ("exact_match",))
            case "final_number":
                return Scoring("final_number", ("exact_match",))

    def fields(self) -> set[str]:
        templates = (*self.prompts, *self.choices, *((self.completion,) if self.completion else ()))
        named = {field for field in (self.answer, self.labels, self.id_field) if field is not None}
        return named | {field for template in templates for field in template.fields}

    def split_key(self, example: Example) -> str:
        """The prompt; where all rows have the same one, the completion."""
        return example.prompt if any(prompt.fields for prompt in self.prompts) else example.completion

    def example(self, row: Mapping[str, Any], source: str, id: str) -> Example:
        values = {key: text for key, value in row.items() if (text := _text(value)) is not None}
        for prompt in self.prompts[:-1]:
            if all(values.get(field) for field in prompt.fields):
                break
        else:
            prompt = self.prompts[-1]
        choices = self._choices(row, values)
        completion = _filled(self.completion, row, values) if self.completion else choices[self._right(row, choices)]
        answers = self._answers(completion, choices)
        example = Example(_filled(prompt, row, values), completion, source, id, choices, answers)
        for choice in choices:
            check_texts(example.prompt, choice)
        return example

    def _choices(self, row: Mapping[str, Any], values: Mapping[str, str]) -> tuple[str, ...]:
        if not self.choices:
            return ()
        (first, *others) = self.choices
        listed = row.get(first.fields[0]) if len(first.fields) == 1 and not others else None
        if isinstance(listed, list):
            items = [_text(item) for item in cast(list[Any], listed)]
            if None in items:
                raise UnusableRowError(f"field {first.fields[0]!r} holds more than text and numbers")
            choices = tuple(first.fill({first.fields[0]: item}) for item in items if item is not None)
        else:
            choices = tuple(_filled(choice, row, values) for choice in self.choices)
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise UnusableRowError(f"at least two different choices are needed; got {list(choices)}")
        return choices

    def _right(self, row: Mapping[str, Any], choices: Sequence[str]) -> int:
        assert self.answer is not None
        text = _text(row.get(self.answer))
        if text is None:
            raise UnusableRowError(_why_no_text(self.answer, row))
        if self.labels is not None:
            labels: Any = row.get(self.labels)
            known = [_text(label) for label in cast(list[Any], labels)] if isinstance(labels, list) else []
            if len(known) != len(choices):
                raise UnusableRowError(
                    f"field {self.labels!r} is no list of {len(choices)} labels, one for each choice"
                )
            if known.count(text) != 1:
                raise UnusableRowError(f"field {self.answer!r} is {text!r}, and one of {known} is needed")
            return known.index(text)
        number = int(text) if text.isdecimal() else _LETTERS.find(text) if len(text) == 1 else -1
        if not 0 <= number < len(choices):
            raise UnusableRowError(
                f"field {self.answer!r} is {text!r}, which is neither the number (from 0) nor the letter (from A) of "
                f"one of the {len(choices)} choices"
            )
        return number

    def _answers(self, completion: str, choices: Sequence[str]) -> tuple[str, ...]:
        if choices and completion not in choices:
            raise UnusableRowError(f"the completion {completion!r} is not one of the choices {list(choices)}")
        if choices:
            return (completion,)
        if self.score == "exact_match":
            return (completion.strip(),)
        if self.score == "final_number":
            number = final_number(completion)
            if number is None:
                raise UnusableRowError(f"the completion has no number to score: {completion[-30:]!r}")
            return (number,)
        return ()


def _filled(template: Template, row: Mapping[str, Any], values: Mapping[str, str]) -> str:
    for field in template.fields:
        if field not in values:
            raise UnusableRowError(_why_no_text(field, row))
    return template.fill(values)


def _text(value: Any) -> str | None:
    """Text as it is, numbers and true/false as JSON spells them; None for null, lists and objects."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (int, float)) else None


def _why_no_text(field: str, row: Mapping[str, Any]) -> str:
    if field not in row:
        return f"no field {field!r}{nearest(field, row)}. The row has {', '.join(row) or 'no fields'}"
    return f"field {field!r} is {json_type(row[field])}; a template takes text and numbers"


class JsonlSection(LinesSection):
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
    score: FreeTextScore = Field(
        "none",
        description="How free text is scored: not at all, by the whole text, or by the number that it ends in.",
    )

    def build(self, name: str) -> JsonlTask:
        """The task, with its templates parsed."""
        return JsonlTask(
            prompts=[Template.parse(text) for text in self.prompt],
            completion=Template.parse(self.completion) if self.completion is not None else None,
            choices=[Template.parse(text) for text in self.choices],
            answer=self.answer,
            labels=self.labels,
            score=self.score,
            **self.options(name),
        )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.completion is None) == (self.answer is None):
            raise InputError("completion: give either completion, or choices and answer")
        if self.answer is not None and not self.choices:
            raise InputError(f"answer: {self.answer!r} needs choices, of which it says the right one")
        if self.choices and self.score != "none":
            raise InputError(f"score: {self.score} has no effect with choices, which are scored by likelihood")
        if self.labels is not None and self.answer is None:
            raise InputError(f"labels: {self.labels!r} has no effect without answer, the field with the right label")
        return self
