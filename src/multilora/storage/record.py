"""Records: the files that we write, each one a frozen class that writes it and reads it again, checked.

A field without default stands in every file. A field with a default may be absent: a writer leaves out what it does not
give, and files of earlier versions lack what they did not know. Unknown keys are ignored: a later version may write
more. What a reader could misunderstand raises the format number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from multilora.errors import InputError
from multilora.storage.folders import write_text

P = TypeVar("P", bound="Part")


class Part(BaseModel):
    """A part of a record."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def content(self) -> dict[str, Any]:
        """Plain data for JSON, without the optional fields that were not given."""
        return self.model_dump(exclude_unset=True)


class Line(Part):
    """One line of a JSON Lines file. The folder's JSON file has the format number for its lines, too."""

    def text(self, *, ascii_only: bool = True) -> str:
        """The line with its end.

        Args:
            ascii_only: write other characters as escapes.
        """
        return json.dumps(self.content(), ensure_ascii=ascii_only) + "\n"

    @classmethod
    def read_all(cls, file: Path) -> list[Self]:
        """All complete lines; none if there is no such file. A last line that a kill cut short is left out.

        Raises:
            InputError: the file cannot be read, or a line is not a valid record.
        """
        if not file.exists():
            return []
        lines = _read(file, "").split("\n")[:-1]
        places = [f"{file}, line {number}" for number in range(1, len(lines) + 1)]
        return [_checked(cls, _parsed(line, place, ""), place, "") for line, place in zip(lines, places, strict=True)]


class Record(Part):
    """A whole JSON file.

    Attributes:
        format: number of the file's format. Files from before there was a number have format 1.
    """

    READABLE: ClassVar[tuple[int, ...]] = (1,)
    INDENT: ClassVar[int | None] = 2
    ASCII_ONLY: ClassVar[bool] = True

    format: int = 1

    @model_validator(mode="before")
    @classmethod
    def _check_format(cls, content: Any) -> Any:
        if isinstance(content, dict) and "format" in content and content["format"] not in cls.READABLE:
            known, found = " and ".join(map(str, cls.READABLE)), repr(cast(Any, content["format"]))
            raise ValueError(f"format: this version of multilora reads format {known}; got {found[:60]}")
        return cast(Any, content)

    def content(self) -> dict[str, Any]:
        """Plain data for JSON, the format number first."""
        return {"format": self.format} | self.model_dump(exclude_unset=True)

    def text(self) -> str:
        """The file's content."""
        separators = (",", ":") if self.INDENT is None else None
        return (
            json.dumps(self.content(), indent=self.INDENT, separators=separators, ensure_ascii=self.ASCII_ONLY) + "\n"
        )

    def write(self, file: Path) -> None:
        """Write the file: it has its old content or the new one, never a part."""
        write_text(file, self.text())

    @classmethod
    def read(cls, file: Path, remedy: str = "") -> Self:
        """Read and check the file.

        Args:
            file: its place.
            remedy: what to do about a file that is not a valid record; ends the message.

        Raises:
            InputError: there is no such file, or it holds something else; names file, field and value.
        """
        return _checked(cls, _parsed(_read(file, remedy), str(file), remedy), str(file), remedy)


def write_lines(file: Path, lines: Iterable[Line]) -> None:
    """Write a JSON Lines file: it has its old content or the new one, never a part."""
    write_text(file, "".join(line.text() for line in lines))


def _read(file: Path, remedy: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}{_then(remedy)}") from error
    except ValueError as error:
        raise InputError(f"{str(file)!r} is not JSON ({_first_line(error)}){_then(remedy)}") from error


def _parsed(text: str, place: str, remedy: str) -> dict[str, Any]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place!r} is not JSON ({_first_line(error)}){_then(remedy)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{place!r} holds no object{_then(remedy)}")
    return cast(dict[str, Any], found)


def _checked(cls: type[P], content: dict[str, Any], place: str, remedy: str) -> P:
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{place!r}: {_fault(error)}{_then(remedy)}") from error


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1:,} more)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return f"{field[:300]} is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return f"{message}{more}"
    shown = repr(first["input"])
    got = shown if len(shown) <= 60 else shown[:59] + "…"
    return f"{field[:300]}: {message[:1].lower()}{message[1:]}; got {got}{more}"


def _then(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
