"""Common code of data sets with a specific format: reads a folder of files or the Hub, with options for both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from multilora.errors import InputError
from multilora.fields import PathText
from multilora.tasks.example import NoSplitError, Scoring, Split
from multilora.tasks.hub import HubSource, OnHub
from multilora.tasks.rows import Row, UnusableRowError
from multilora.tasks.rows_task import Place, RowsTask, first_files
from multilora.tasks.section import HubId, TaskSection

# The description of a section's field `task`.
DATA_SET = "The data set; docs/data.md shows each."
# A data set without a usual place on the Hub: `folder` or `hub` must be given.
NOWHERE = OnHub("", None, {"train": "train", "validation": "validation", "test": "test"}, ())


@dataclass(frozen=True)
class FolderTask(RowsTask):
    """A data set in a local folder, in its own format, or on the Hugging Face Hub.

    A data set's class says which files it has, how a row reads, how it is scored, and how a row of the Hub becomes a
    row of the files.

    Attributes:
        folder: where its own files are; without effect if there is a `hub`.
    """

    folder: Path

    scoring_kind: ClassVar[Scoring] = Scoring("none")
    on_hub: ClassVar[OnHub] = NOWHERE

    @property
    def scoring(self) -> Scoring:
        """How answers are scored."""
        return self.scoring_kind

    @abstractmethod
    def own_files(self, part: Split) -> Sequence[Path]:
        """The data set's own files of the part, in order, whether they exist or not; empty if there is no such part."""

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub's row as a row of the data set's own files; here the same.

        Raises:
            UnusableRowError: the row is not as the Hub's rows are.
        """
        return dict(row.data)

    def read_hub(self, hub: HubSource, split: str) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        for source, row in hub.rows(split, self.on_hub.columns):
            try:
                yield source, self.from_hub(Row(row))
            except UnusableRowError as error:
                yield source, error

    def hub_of(self, part: Split) -> HubSource | None:
        """The data set on the Hub that has the part; None if it stands in local files."""
        return self.hub

    def part_of(self, split: Split) -> Split:
        """The part whose files the split's rows stand in.

        Raises:
            NoSplitError: the data set lacks the split.
        """
        if split == "validation" and not self.validation_share:
            raise NoSplitError(
                f"tasks.{self.name}: no validation split; set tasks.{self.name}.validation_share, for example to 0.05"
            )
        return "test" if split == "test" else "train"

    def place(self, split: Split) -> Place:
        part = self.part_of(split)
        if part in self.on_hub.splits:
            if (hub := self.hub_of(part)) is not None:
                return Place(part, "hub", hub=hub, hub_splits=[self.on_hub.splits[part]])
            if files := self.own_files(part):
                return Place(part, "folder", files)
        raise NoSplitError(f"tasks.{self.name}: the data set has no {split} split")

    def finish(self, place: Place, rows: int, fields: Set[str]) -> None:
        if not rows:
            raise InputError(
                f"tasks.{self.name}.{place.field}: no row in {first_files(place)}; fetch the data set's files again"
            )


def row_id(row: Row, source: str, part: Split) -> str:
    """The row's id: its `idx` where it has one, else its number in the file, which `source` ends in."""
    return f"{part}-{row.whole('idx') if 'idx' in row.data else source.rpartition(' ')[2]}"


class FolderSection(TaskSection):
    """The options of a data set with a specific format. A subclass names the data set and may add options.

    Attributes:
        data_set: the class of the task.
    """

    data_set: ClassVar[type[FolderTask]]

    task: Any = Field(description=DATA_SET)  # each data set narrows it to its name; here for its place in the order
    folder: PathText | None = Field(
        None, description="Folder with the data set's own files. If None, they come from the Hugging Face Hub."
    )
    hub: HubId | None = Field(
        None,
        min_length=1,
        description="The data set's id on the Hub, or a local folder in the Hub's layout. If None, its "
        "usual id (docs/data.md).",
    )
    revision: str | None = Field(None, min_length=1, description="Branch, tag or commit on the Hub.")

    def build(self, name: str) -> FolderTask:
        """The data set's task."""
        return self.data_set(name, self.folder or Path(), validation_share=self.validation_share, hub=self.source(name))

    def source(self, name: str) -> HubSource | None:
        """The data set on the Hub, for the task of this name; None if the folder has the rows."""
        if self.folder is not None:
            return None
        usual = self.data_set.on_hub
        return HubSource(f"tasks.{name}.hub", self.hub or usual.id, usual.config, self.revision)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        for name, value in (("hub", self.hub), ("revision", self.revision)):
            if self.folder is not None and value is not None:
                raise InputError(
                    f"{name}: {value!r} has no effect beside folder, whose files are read; leave one of them out"
                )
        if self.folder is None and self.hub is None and not self.data_set.on_hub.id:
            raise InputError("folder: name the folder with the data set's files; it has no usual id on the Hub")
        return self
