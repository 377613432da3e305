"""A task from JSON-lines files: one JSON object per line, prompt and completion by templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from multilora.data.example import BadRow, EvalSplit, Example, NoSplitError, Scoring, Split
from multilora.data.tasks.numbers import final_number
from multilora.data.tasks.rows import (
    UnusableRowError,
    check_texts,
    is_held_out,
    json_lines,
    json_type,
    near_file,
)
from multilora.data.template import Template
from multilora.errors import InputError, nearest

FreeTextScore = Literal["none", "exact_match", "final_number"]


@dataclass(frozen=True)
class JsonlTask:
    """Rows of JSON-lines files, in order. Blank lines are allowed.

    Attributes:
        name: the task's name in the recipe.
        files: with the training rows, UTF-8.
        prompts: of these the first whose fields all have a value that is not empty makes the prompt; the last one
            also takes empty values.
        completion: makes the completion; None: `answer` says which of the choices it is.
        choices: what a model may answer. One template whose only field holds a list makes a choice of each item.
        answer: field that says which choice is right: its number, from 0, or its letter, from A.
        validation: files with the validation rows.
        test: files with the test rows.
        validation_share: this share of the training rows is held out for validation, chosen by a hash of the prompt.
        id_field: field that names the row; None: rows have no ids.
        score: how free text is scored.
    """

    name: str
    files: Sequence[Path]
    prompts: Sequence[Template]
    completion: Template | None
    choices: Sequence[Template] = ()
    answer: str | None = None
    validation: Sequence[Path] = ()
    test: Sequence[Path] = ()
    validation_share: float = 0.0
    id_field: str | None = None
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

    def check(self, split: Split = "train") -> None:
        """Every file of the split can be opened.

        Raises:
            InputError: one message that names all files that cannot.
        """
        field, files = self._files(split)
        faults: list[str] = []
        for file in files:
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                near = near_file(file)
                faults.append(f"tasks.{self.name}.{field}: cannot read {str(file)!r}: {error.strerror}{near}")
        if faults:
            raise InputError("\n".join(faults))

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The rows that are not held out, streaming: one line is held at a time.

        Raises:
            InputError: a field of the templates is in no row at all; the message names the nearest fields.
        """
        return (row for row in self._rows("train") if isinstance(row, BadRow) or not self._held_out(row))

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        """The rows of the split's files, or those held out of the training files.

        Raises:
            NoSplitError: the task has neither.
            InputError: as for `train_rows`.
        """
        rows = self._rows(split)
        if split == "validation" and not self.validation:
            return (row for row in rows if isinstance(row, BadRow) or self._held_out(row))
        return rows

    def _held_out(self, row: Example) -> bool:
        return is_held_out(row.prompt, self.validation_share)

    def _files(self, split: Split) -> tuple[str, Sequence[Path]]:
        """The split's files, and the field of the recipe that names them."""
        if split == "train" or (split == "validation" and self.validation_share and not self.validation):
            return "train", self.files
        files = self.validation if split == "validation" else self.test
        if not files:
            share = f", or tasks.{self.name}.validation_share" if split == "validation" else ""
            raise NoSplitError(
                f"tasks.{self.name}: no {split} split; name its files in tasks.{self.name}.{split}{share}"
            )
        return split, files

    def _rows(self, split: Split) -> Iterator[Example | BadRow]:
        place, files = self._files(split)
        return self._read(place, files)

    def _read(self, place: str, files: Sequence[Path]) -> Iterator[Example | BadRow]:
        seen: set[str] = set()
        ids: dict[str, str] = {}
        for file in files:
            try:
                for number, row in json_lines(file):
                    source = f"{file.name} line {number}"
                    if isinstance(row, UnusableRowError):
                        yield BadRow(source, str(row))
                        continue
                    seen |= row.keys()
                    try:
                        example = self._example(row, source)
                        if example.id in ids:
                            raise UnusableRowError(f"the id {example.id!r} stands in {ids[example.id]} already")
                    except UnusableRowError as error:
                        yield BadRow(source, str(error))
                    else:
                        if example.id:
                            ids[example.id] = source
                        yield example
            except OSError as error:
                raise InputError(f"tasks.{self.name}.{place}: cannot read {str(file)!r}: {error.strerror}") from error
        if seen and (absent := sorted(self._fields() - seen)):
            raise InputError(
                f"tasks.{self.name}: no row has the template field {absent[0]!r}{nearest(absent[0], seen)}. "
                f"The rows have {', '.join(sorted(seen))}"
            )

    def _fields(self) -> set[str]:
        templates = (*self.prompts, *self.choices, *((self.completion,) if self.completion else ()))
        named = {field for field in (self.answer, self.id_field) if field is not None}
        return named | {field for template in templates for field in template.fields}

    def _example(self, row: dict[str, Any], source: str) -> Example:
        values = {key: text for key, value in row.items() if (text := _text(value)) is not None}
        for prompt in self.prompts[:-1]:
            if all(values.get(field) for field in prompt.fields):
                break
        else:
            prompt = self.prompts[-1]
        choices = self._choices(row, values)
        completion = _filled(self.completion, row, values) if self.completion else choices[self._right(row, choices)]
        example = Example(
            _filled(prompt, row, values),
            completion,
            source,
            "" if self.id_field is None else _filled(Template.parse(f"{{{self.id_field}}}"), row, values),
            choices,
            self._answers(completion, choices),
        )
        for choice in choices or (completion,):
            check_texts(example.prompt, choice)
        return example

    def _choices(self, row: dict[str, Any], values: dict[str, str]) -> tuple[str, ...]:
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

    def _right(self, row: dict[str, Any], choices: Sequence[str]) -> int:
        assert self.answer is not None
        text = _filled(Template.parse(f"{{{self.answer}}}"), row, {k: t for k, v in row.items() if (t := _text(v))})
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        number = int(text) if text.isdecimal() else letters.find(text) if len(text) == 1 else -1
        if not 0 <= number < len(choices):
            raise UnusableRowError(
                f"field {self.answer!r} is {text!r}, which is neither the number (from 0) nor the letter (from A) of "
                f"one of the {len(choices)} choices"
            )
        return number

    def _answers(self, completion: str, choices: Sequence[str]) -> tuple[str, ...]:
        if choices and completion not in choices:
            raise UnusableRowError(f"the completion {completion!r} is none of the choices {list(choices)}")
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


def _filled(template: Template, row: dict[str, Any], values: dict[str, str]) -> str:
    for field in template.fields:
        if field not in values:
            raise UnusableRowError(_why_no_text(field, row))
    return template.fill(values)


def _text(value: Any) -> str | None:
    """Text as it is, numbers and true/false as JSON spells them; None for null, lists and objects."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (int, float)) else None


def _why_no_text(field: str, row: dict[str, Any]) -> str:
    if field not in row:
        return f"no field {field!r}{nearest(field, row)}. The row has {', '.join(row) or 'no fields'}"
    return f"field {field!r} is {json_type(row[field])}; a template takes text and numbers"
