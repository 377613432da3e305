"""What the tasks of one's own rows share: JSON-lines files or splits of the Hub, ids, and a validation split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from multilora.errors import InputError, nearest
from multilora.tasks.example import BadRow, EvalSplit, Example, NoSplitError, Scoring, Split
from multilora.tasks.hub import HubSource
from multilora.tasks.rows import UnusableRowError, is_held_out, json_lines, near_file


@dataclass(frozen=True)
class LinesTask(ABC):
    """Rows of JSON-lines files, in order; blank lines are allowed. Or rows of a data set on the Hugging Face Hub.

    A kind of task says how a row reads; files, splits, ids and faults are handled here.

    Attributes:
        name: the task's name in the recipe.
        train: files with the training rows, UTF-8; with a `hub`, names of its splits, here and in the other parts.
        validation: files with the validation rows.
        test: files with the test rows.
        validation_share: this share of the training rows is held out for validation, chosen by a hash of their text.
        id_field: field that names the row; None: rows have no ids.
        hub: where the rows are instead of in files.
    """

    name: str
    train: Sequence[Path]
    validation: Sequence[Path] = field(default=(), kw_only=True)
    test: Sequence[Path] = field(default=(), kw_only=True)
    validation_share: float = field(default=0.0, kw_only=True)
    id_field: str | None = field(default=None, kw_only=True)
    hub: HubSource | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def scoring(self) -> Scoring:
        """How answers are scored."""

    @abstractmethod
    def example(self, row: Mapping[str, Any], source: str, id: str) -> Example:
        """A row as an example.

        Raises:
            UnusableRowError: the row makes none.
        """

    @abstractmethod
    def together(self, example: Example) -> str:
        """The text by whose hash the example falls on one side of the validation split."""

    @abstractmethod
    def fields(self) -> set[str]:
        """The fields that some row must have, or their name is a mistake."""

    def check(self, split: Split = "train") -> None:
        """Every file of the split can be opened. The Hub is not asked.

        Raises:
            InputError: one message that names all files that cannot.
        """
        place, files = self._places(split)
        if self.hub is not None:
            self.hub.check([str(file) for file in files])
            return
        faults: list[str] = []
        for file in files:
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                near = near_file(file)
                faults.append(f"tasks.{self.name}.{place}: cannot read {str(file)!r}: {error.strerror}{near}")
        if faults:
            raise InputError("\n".join(faults))

    def files(self, split: Split) -> list[Path]:
        """The files that the split's rows are read from.

        Raises:
            InputError: there are none, or the Hub has them and they cannot be had.
        """
        _, files = self._places(split)
        return list(files) if self.hub is None else [path for name in files for path in self.hub.files(str(name))]

    def shown_rows(self) -> Iterator[Example | BadRow]:
        """None."""
        return iter(())

    def groups(self, example: Example) -> Mapping[str, str]:
        """None."""
        return {}

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The rows that are not held out, streaming: one line is held at a time.

        Raises:
            InputError: a field that the recipe names is in no row at all; the message names the nearest fields.
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
        return is_held_out(self.together(row), self.validation_share)

    def _places(self, split: Split) -> tuple[str, Sequence[Path]]:
        """The split's files, or splits of the Hub, and the field of the recipe that names them."""
        if split == "train" or (split == "validation" and self.validation_share and not self.validation):
            return "train", self.train
        files = self.validation if split == "validation" else self.test
        if not files:
            share = f", or tasks.{self.name}.validation_share" if split == "validation" else ""
            raise NoSplitError(
                f"tasks.{self.name}: no {split} split; name its files in tasks.{self.name}.{split}{share}"
            )
        return split, files

    def _rows(self, split: Split) -> Iterator[Example | BadRow]:
        return self._read(*self._places(split))

    def _read(self, place: str, files: Sequence[Path]) -> Iterator[Example | BadRow]:
        seen: set[str] = set()
        ids: dict[str, str] = {}
        for source, row in self._raw(place, files):
            try:
                if isinstance(row, UnusableRowError):
                    raise row
                seen |= row.keys()
                example = self.example(row, source, self._id(row))
                if example.id and example.id in ids:
                    raise UnusableRowError(f"the id {example.id!r} stands in {ids[example.id]} already")
            except UnusableRowError as error:
                yield BadRow(source, str(error))
            else:
                if example.id:
                    ids[example.id] = source
                yield example
        if seen and (absent := sorted(self.fields() - seen)):
            raise InputError(
                f"tasks.{self.name}: no row has the field {absent[0]!r}{nearest(absent[0], seen)}. "
                f"The rows have {', '.join(sorted(seen))}"
            )

    def _raw(self, place: str, files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        for file in files:
            if self.hub is not None:
                for source, row in self.hub.rows(str(file)):
                    yield source, with_inner_fields(row)
                continue
            try:
                for number, row in json_lines(file):
                    inner = row if isinstance(row, UnusableRowError) else with_inner_fields(row)
                    yield f"{file.name} line {number}", inner
            except OSError as error:
                raise InputError(f"tasks.{self.name}.{place}: cannot read {str(file)!r}: {error.strerror}") from error

    def _id(self, row: Mapping[str, Any]) -> str:
        if self.id_field is None:
            return ""
        value = row.get(self.id_field)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            near = "" if self.id_field in row else nearest(self.id_field, row)
            raise UnusableRowError(f"field {self.id_field!r} has no id, which is text or a whole number{near}")
        return str(value)


def with_inner_fields(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the fields of the objects in it beside them, as `object.field`."""
    inner = {
        f"{name}.{key}": value
        for name, item in row.items()
        if isinstance(item, dict)
        for key, value in cast(dict[str, Any], item).items()
    }
    return {**inner, **row} if inner else row
