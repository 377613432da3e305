"""Reading rows: JSON lines, and fields that are there and of the right type, or a reason why the row is unusable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from multilora.errors import InputError, nearest
from multilora.tasks.keys import normalised

T = TypeVar("T")


class UnusableRowError(Exception):
    """The row makes no example; the message says why."""


class Row:
    """One JSON object of a data set. Every reader raises `UnusableRowError` with the field's name and its value.

    Args:
        data: the object.
        place: path to it in the row, for messages, such as `passage.`; empty for the row itself.
    """

    def __init__(self, data: Mapping[str, Any], place: str = "") -> None:
        self.data = data
        self._place = place

    def text(self, field: str) -> str:
        """Text that is not blank."""
        text = self.maybe_empty(field)
        if not text.strip():
            raise UnusableRowError(f"field {self._place + field!r} is blank")
        return text

    def maybe_empty(self, field: str) -> str:
        """Text, possibly empty."""
        return self._of_type(field, str, "text")

    def whole(self, field: str) -> int:
        """A whole number."""
        value = self._of_type(field, int, "a whole number")
        if isinstance(value, bool):
            raise UnusableRowError(f"field {self._place + field!r} is a boolean where a whole number is needed")
        return value

    def label(self, field: str, known: Mapping[Any, T]) -> T:
        """What the field's value stands for. True and 1 are different labels."""
        value = self._value(field)
        for key, meaning in known.items():
            if type(key) is type(value) and key == value:
                return meaning
        names = [json.dumps(key) for key in known]
        close = nearest(value, [key for key in known if isinstance(key, str)]) if isinstance(value, str) else ""
        raise UnusableRowError(
            f"unknown label {json.dumps(value)[:60]} in field {self._place + field!r}{close}; "
            f"the labels are {', '.join(names)}"
        )

    def texts(self, field: str) -> list[str]:
        """A list of texts."""
        items: list[Any] = self._of_type(field, list, "a list")
        for number, item in enumerate(items):
            if not isinstance(item, str):
                raise UnusableRowError(f"{self._place}{field}[{number}] is {json_type(item)} where text is needed")
        return items

    def inner(self, field: str) -> Row:
        """An object in the row."""
        return Row(self._of_type(field, dict, "an object"), f"{self._place}{field}.")

    def inners(self, field: str) -> list[Row]:
        """A list of objects in the row, not empty."""
        items: list[Any] = self._of_type(field, list, "a list")
        if not items:
            raise UnusableRowError(f"field {self._place + field!r} is an empty list")
        rows: list[Row] = []
        for number, item in enumerate(items):
            place = f"{self._place}{field}[{number}]"
            if not isinstance(item, dict):
                raise UnusableRowError(f"{place} is {json_type(item)} where an object is needed")
            rows.append(Row(cast(dict[str, Any], item), f"{place}."))
        return rows

    def _of_type(self, field: str, kind: type[T], name: str) -> T:
        value = self._value(field)
        if not isinstance(value, kind):
            raise UnusableRowError(f"field {self._place + field!r} is {json_type(value)} where {name} is needed")
        return value

    def _value(self, field: str) -> Any:
        if field not in self.data:
            raise UnusableRowError(
                f"no field {self._place + field!r}{nearest(field, self.data)}. "
                f"The row has {', '.join(self.data) or 'no fields'}"
            )
        return self.data[field]


def json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | UnusableRowError]]:
    """The file's objects with their line numbers, from 1; blank lines are passed over. One line is held at a time.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, parse_object(line)
            except UnusableRowError as error:
                cut = "" if line.endswith(b"\n") else "; the file ends in this line: it seems to be cut off"
                yield number, UnusableRowError(f"{error}{cut}")


def parse_object(line: bytes) -> dict[str, Any]:
    """One line's JSON object.

    Raises:
        UnusableRowError: the line is something else.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UnusableRowError(f"not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        hint = " (the file is one JSON array? Write one object per line)" if line.strip() in (b"[", b"[{") else ""
        raise UnusableRowError(f"not JSON: {error.msg} at character {error.pos + 1}{hint}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting of thousands of levels
        raise UnusableRowError(f"JSON that cannot be read: {error}") from error
    if not isinstance(row, dict):
        raise UnusableRowError(f"a JSON {json_type(row)} where an object {{…}} is needed")
    return cast(dict[str, Any], row)


def check_texts(prompt: str, completion: str) -> None:
    """What every example must hold.

    Raises:
        UnusableRowError: a blank completion, or half of a surrogate pair in either text.
    """
    if not completion.strip():
        raise UnusableRowError("the completion is blank, so there is nothing to learn from")
    check_characters(prompt)
    check_characters(completion)


def check_characters(text: str) -> None:
    """The text has no half of a surrogate pair (\\ud800): JSON can spell it, and no tokenizer takes it.

    Raises:
        UnusableRowError: it has one.
    """
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UnusableRowError("a lone surrogate (\\ud800 … \\udfff), which is not a character")


def is_held_out(together: str, share: float) -> bool:
    """Whether a row belongs to the validation split that takes `share` of the training rows.

    By a hash of its text, so it is the same rows whatever their order, the seed and the other rows; and texts that are
    equal but for case and punctuation (`keys.normalised`) fall on the same side.
    """
    digest = hashlib.sha256(normalised(together).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def json_type(value: Any) -> str:
    """The value's type by JSON's name for it."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def near_file(file: Path) -> str:
    """The names in the file's folder that are spelled most like it, for a message."""
    return nearest(file.name, (other.name for other in file.parent.iterdir())) if file.parent.is_dir() else ""


def json_array(file: Path, place: str) -> Iterator[tuple[int, dict[str, Any] | UnusableRowError]]:
    """The objects of a file that is one JSON array, with their numbers, from 1. The file is held in memory.

    Args:
        file: the file.
        place: what names the file in the recipe, for messages.

    Raises:
        OSError: the file cannot be read.
        InputError: the file is not a JSON array; a file that is cut off is not.
    """
    try:
        rows = json.loads(file.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{place}: {str(file)!r} is not JSON: {error}; is it cut off?") from error
    if not isinstance(rows, list):
        raise InputError(f"{place}: {str(file)!r} is a JSON {json_type(rows)} where a list of rows is needed")
    for number, row in enumerate(cast(list[Any], rows), start=1):
        yield number, row if isinstance(row, dict) else UnusableRowError(f"a JSON {json_type(row)}, not an object")
