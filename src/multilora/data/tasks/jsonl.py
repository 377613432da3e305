"""A task from JSON-lines files: one JSON object per line, prompt and completion by templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multilora.data.example import BadRow, EvalSplit, Example, Scoring, Split
from multilora.data.tasks.rows import UnusableRowError, check_texts, json_lines, json_type, near_file
from multilora.data.template import Template
from multilora.errors import InputError, nearest


@dataclass(frozen=True)
class JsonlTask:
    """Rows of `files`, in order.

    Attributes:
        name: the task's name in the recipe.
        files: JSON-lines files, UTF-8; blank lines are allowed.
        prompts: of these the first whose fields all have a value that is not empty makes the prompt; the last one
            also takes empty values.
        completion: makes the completion.
    """

    name: str
    files: Sequence[Path]
    prompts: Sequence[Template]
    completion: Template

    @property
    def scoring(self) -> Scoring:
        """Free text: none."""
        return Scoring("none")

    def check(self, split: Split = "train") -> None:
        """Every file can be opened.

        Raises:
            InputError: one message that names all files that cannot.
        """
        if split != "train":
            raise self._no_split(split)
        faults: list[str] = []
        for file in self.files:
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                faults.append(f"tasks.{self.name}.train: cannot read {str(file)!r}: {error.strerror}{near_file(file)}")
        if faults:
            raise InputError("\n".join(faults))

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The rows as examples, streaming: one line is held at a time.

        Raises:
            InputError: a field of the templates is in no row at all; the message names the nearest fields.
        """
        wanted = {field for template in (*self.prompts, self.completion) for field in template.fields}
        seen: set[str] = set()
        for file in self.files:
            try:
                for number, row in json_lines(file):
                    source = f"{file.name} line {number}"
                    if isinstance(row, UnusableRowError):
                        yield BadRow(source, str(row))
                        continue
                    seen |= row.keys()
                    try:
                        example = self._example(row, source)
                    except UnusableRowError as error:
                        yield BadRow(source, str(error))
                    else:
                        yield example
            except OSError as error:
                raise InputError(f"tasks.{self.name}.train: cannot read {str(file)!r}: {error.strerror}") from error
        if seen and (absent := sorted(wanted - seen)):
            raise InputError(
                f"tasks.{self.name}: no row has the template field {absent[0]!r}{nearest(absent[0], seen)}. "
                f"The rows have {', '.join(sorted(seen))}"
            )

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        """There are none.

        Raises:
            InputError: always.
        """
        raise self._no_split(split)

    def _no_split(self, split: Split) -> InputError:
        return InputError(f"tasks.{self.name}: a jsonl task has training rows only, and no {split} split")

    def _example(self, row: dict[str, Any], source: str) -> Example:
        values = {key: text for key, value in row.items() if (text := _text(value)) is not None}
        for prompt in self.prompts[:-1]:
            if all(values.get(field) for field in prompt.fields):
                break
        else:
            prompt = self.prompts[-1]
        for field in (*prompt.fields, *self.completion.fields):
            if field not in values:
                raise UnusableRowError(_why_no_text(field, row))
        example = Example(prompt.fill(values), self.completion.fill(values), source)
        check_texts(example.prompt, example.completion)
        return example


def _text(value: Any) -> str | None:
    """Text as it is, numbers and true/false as JSON spells them; None for null, lists and objects."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (int, float)) else None


def _why_no_text(field: str, row: dict[str, Any]) -> str:
    if field not in row:
        return f"no field {field!r}{nearest(field, row)}. The row has {', '.join(row) or 'no fields'}"
    return f"field {field!r} is {json_type(row[field])}; a template takes text and numbers"
