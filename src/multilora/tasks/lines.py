"""Common code of tasks that read the user's rows: JSON-lines files or splits of the Hub, with options for both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, ValidationInfo, field_validator, model_validator

from multilora.errors import InputError, nearest
from multilora.tasks.example import Example, NoSplitError, Split
from multilora.tasks.hub import HubSource
from multilora.tasks.rows import Row, UnusableRowError
from multilora.tasks.rows_task import Drafted, Place, RowsTask
from multilora.tasks.section import Files, HubId, TaskSection


@dataclass(frozen=True)
class LinesTask(RowsTask):
    """Rows of JSON-lines files, in order; blank lines are allowed. Or rows of a data set on the Hugging Face Hub.

    A kind of task says how a row reads.

    Attributes:
        train: files with the training rows, UTF-8; with a `hub`, names of its splits, here and in the other parts.
        validation: files with the validation rows.
        test: files with the test rows.
        id_field: field that names the row; None if rows have no ids.
    """

    train: Sequence[Path]
    validation: Sequence[Path] = field(default=(), kw_only=True)
    test: Sequence[Path] = field(default=(), kw_only=True)
    id_field: str | None = field(default=None, kw_only=True)

    @abstractmethod
    def example(self, row: Mapping[str, Any], source: str, id: str) -> Example:
        """A row as an example.

        Raises:
            UnusableRowError: the row makes none.
        """

    @abstractmethod
    def split_key(self, example: Example) -> str:
        """The text by whose hash the example falls on one side of the validation split."""

    @abstractmethod
    def fields(self) -> set[str]:
        """The fields that some row must have, or their name is a mistake."""

    def place(self, split: Split) -> Place:
        if split == "train" or (split == "validation" and self.validation_share and not self.validation):
            return self._place("train", self.train)
        files = self.validation if split == "validation" else self.test
        if not files:
            share = f", or tasks.{self.name}.validation_share" if split == "validation" else ""
            raise NoSplitError(
                f"tasks.{self.name}: no {split} split; name its files in tasks.{self.name}.{split}{share}"
            )
        return self._place(split, files)

    def _place(self, part: Split, files: Sequence[Path]) -> Place:
        if self.hub is None:
            return Place(part, part, list(files))
        return Place(part, part, hub=self.hub, hub_splits=[str(name) for name in files])

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        example = self.example(row.data, source, self._id(row.data))
        return [Drafted(example, self.split_key(example))]

    def read(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        for source, row in super().read(file):
            yield source, row if isinstance(row, UnusableRowError) else with_inner_fields(row)

    def read_hub(self, hub: HubSource, split: str) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        for source, row in hub.rows(split):
            yield source, with_inner_fields(row)

    def finish(self, place: Place, rows: int, fields: Set[str]) -> None:
        if fields and (absent := sorted(self.fields() - fields)):
            raise InputError(
                f"tasks.{self.name}: no row has the field {absent[0]!r}{nearest(absent[0], fields)}. "
                f"The rows have {', '.join(sorted(fields))}"
            )

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


class LinesSection(TaskSection):
    """The options of a task that reads the user's rows."""

    hub: HubId | None = Field(
        None,
        min_length=1,
        description="Take the rows from a data set on the Hugging Face Hub, by its id, or from a local folder in the "
        "Hub's layout (docs/data.md). If None, the rows come from files.",
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

    def source(self, name: str) -> HubSource | None:
        """The data set on the Hub, for the task of this name; None if files have the rows."""
        return HubSource(f"tasks.{name}.hub", self.hub, self.config, self.revision) if self.hub else None

    def options(self, name: str) -> dict[str, Any]:
        """The arguments of `LinesTask`, for the task of this name."""
        return {
            "name": name,
            "train": self.train or [Path("train")],  # the split's name on the Hub
            "validation": self.validation,
            "test": self.test,
            "validation_share": self.validation_share,
            "id_field": self.id,
            "hub": self.source(name),
        }

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
