"""A task from JSON-lines files: one JSON object per line, prompt and completion by templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multilora.data.example import BadRow, Example
from multilora.data.template import Template
from multilora.errors import InputError, nearest


class _UnusableRowError(Exception):
    """The row makes no example; the message says why."""


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

    def check(self) -> None:
        """Every file can be opened.

        Raises:
            InputError: one message that names all files that cannot.
        """
        faults: list[str] = []
        for file in self.files:
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                faults.append(f"tasks.{self.name}.train: cannot read {str(file)!r}: {error.strerror}{_near_file(file)}")
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
                lines = file.open("rb")
            except OSError as error:
                raise InputError(f"tasks.{self.name}.train: cannot read {str(file)!r}: {error.strerror}") from error
            with lines:
                for number, line in enumerate(lines, start=1):
                    if not line.strip():
                        continue
                    source = f"{file.name} line {number}"
                    try:
                        row = _parse(line)
                        seen |= row.keys()
                        yield self._example(row, source)
                    except _UnusableRowError as error:
                        yield BadRow(source, str(error))
        if seen and (absent := sorted(wanted - seen)):
            raise InputError(
                f"tasks.{self.name}: no row has the template field {absent[0]!r}{nearest(absent[0], seen)}. "
                f"The rows have {', '.join(sorted(seen))}"
            )

    def _example(self, row: dict[str, Any], source: str) -> Example:
        values = {key: text for key, value in row.items() if (text := _text(value)) is not None}
        for prompt in self.prompts[:-1]:
            if all(values.get(field) for field in prompt.fields):
                break
        else:
            prompt = self.prompts[-1]
        for field in (*prompt.fields, *self.completion.fields):
            if field not in values:
                raise _UnusableRowError(_why_no_text(field, row))
        example = Example(prompt.fill(values), self.completion.fill(values), source)
        if not example.completion.strip():
            raise _UnusableRowError("the completion is blank, so there is nothing to learn from")
        for text in (example.prompt, example.completion):
            # JSON can spell half of a surrogate pair (\ud800), which is not text and which no tokenizer takes.
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise _UnusableRowError("a lone surrogate (\\ud800 … \\udfff), which is not a character")
        return example


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _UnusableRowError(f"not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        hint = " (the file is one JSON array? Write one object per line)" if line.strip() in (b"[", b"[{") else ""
        raise _UnusableRowError(f"not JSON: {error.msg} at character {error.pos + 1}{hint}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting of thousands of levels
        raise _UnusableRowError(f"JSON that cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise _UnusableRowError(f"a JSON {_json_type(row)} where an object {{…}} is needed")
    return row


def _text(value: Any) -> str | None:
    """Text as it is, numbers and true/false as JSON spells them; None for null, lists and objects."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (int, float)) else None


def _why_no_text(field: str, row: dict[str, Any]) -> str:
    if field not in row:
        return f"no field {field!r}{nearest(field, row)}. The row has {', '.join(row) or 'no fields'}"
    return f"field {field!r} is {_json_type(row[field])}; a template takes text and numbers"


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _near_file(file: Path) -> str:
    return nearest(file.name, (other.name for other in file.parent.iterdir())) if file.parent.is_dir() else ""
