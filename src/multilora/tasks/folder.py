"""What the built-in tasks share: files in a folder or the Hub, ids, and a validation split out of the training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from multilora.errors import InputError
from multilora.tasks.example import BadRow, EvalSplit, Example, NoSplitError, Scoring, Split
from multilora.tasks.hub import HubSource, OnHub
from multilora.tasks.rows import Row, UnusableRowError, check_texts, is_held_out, json_lines, near_file

# The files a row stands in. The validation split has files of its own in few data sets.
Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Drafted:
    """An example with what decides on which side of the validation split it falls.

    Attributes:
        example: the example.
        together: rows with equal text here (`normalised`: punctuation and case do not count) fall on the same side:
            the passage where several rows share one, so that validation asks about unseen passages, and otherwise the
            question, so that equal rows stay together.
    """

    example: Example
    together: str


@dataclass(frozen=True)
class FolderTask(ABC):
    """A data set in a local folder, in its own format, or on the Hugging Face Hub.

    A data set's class says which files it has, how a row reads, how it is scored, and how a row of the Hub becomes a
    row of the files; order, ids, splits and faults are handled here.

    Attributes:
        name: the task's name in the recipe.
        folder: where its own files are; of no account where there is a `hub`.
        validation_share: this share of the training rows is held out for validation, chosen by a hash of their text:
            the same rows whatever their order, the seed and the other rows.
        hub: where its rows are instead of in the folder.
    """

    name: str
    folder: Path
    validation_share: float = 0.0
    hub: HubSource | None = field(default=None, kw_only=True)

    scoring_kind: ClassVar[Scoring] = Scoring("none")
    on_hub: ClassVar[OnHub]

    @property
    def scoring(self) -> Scoring:
        """How answers are scored."""
        return self.scoring_kind

    @abstractmethod
    def own_files(self, part: Part) -> Sequence[Path]:
        """The data set's own files of the part, in order, whether they exist or not; none: there is no such part."""

    @abstractmethod
    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        """The examples of one row of a file.

        Raises:
            UnusableRowError: the row is not as the data set's rows are.
        """

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub's row as a row of the data set's own files; here the same.

        Raises:
            UnusableRowError: the row is not as the Hub's rows are.
        """
        return dict(row.data)

    def files(self, split: Split) -> Sequence[Path]:
        """The files that the split's rows are read from.

        Raises:
            NoSplitError: the task has no such split.
            InputError: the Hub has them, and they cannot be had.
        """
        return self._files(self.part_of(split))

    def _files(self, part: Part) -> Sequence[Path]:
        hub = self.hub_of(part)
        return self.own_files(part) if hub is None else hub.files(self.on_hub.splits[part])

    def read(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        """The file's rows with their place in it.

        Raises:
            OSError: the file cannot be read.
            InputError: the file as a whole makes no sense.
        """
        for number, row in json_lines(file):
            yield f"{file.name} line {number}", row

    def read_hub(self, hub: HubSource, split: str) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        """The rows of a split of the Hub, as rows of the data set's own files, with their place.

        Raises:
            InputError: the split cannot be had.
        """
        for source, row in hub.rows(split, self.on_hub.columns):
            try:
                yield source, self.from_hub(Row(row))
            except UnusableRowError as error:
                yield source, error

    def hub_of(self, part: Part) -> HubSource | None:
        """Where on the Hub the part is; None: in files of its own."""
        return self.hub

    def check(self, split: Split = "train") -> None:
        """Every file of the split can be opened. The Hub is not asked.

        Raises:
            InputError: one message that names all files that cannot.
        """
        part = self.part_of(split)
        if (hub := self.hub_of(part)) is not None:
            hub.check([self.on_hub.splits[part]])
            return
        faults: list[str] = []
        for file in self.own_files(part):
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                near = "" if file.exists() else near_file(file)
                faults.append(f"tasks.{self.name}.folder: cannot read {str(file)!r}: {error.strerror}{near}")
        if faults:
            raise InputError("\n".join(faults))

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The rows of the training files that are not held out, and all bad rows of these files."""
        for draft in self._drafts("train"):
            if isinstance(draft, BadRow):
                yield draft
            elif not self._held_out(draft):
                yield draft.example

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        """The rows held out of the training files, or those of the evaluation files, with the files' bad rows.

        Raises:
            InputError: the task has no such split.
        """
        part = self.part_of(split)
        for draft in self._drafts(part):
            if isinstance(draft, BadRow):
                yield draft
            elif part != "train" or self._held_out(draft):
                yield draft.example

    def shown_rows(self) -> Iterator[Example | BadRow]:
        """None."""
        return iter(())

    def groups(self, example: Example) -> Mapping[str, str]:
        """None."""
        return {}

    def part_of(self, split: Split) -> Part:
        """Whose files the split's rows stand in.

        Raises:
            NoSplitError: there are none.
        """
        if split == "validation" and not self.validation_share:
            raise NoSplitError(
                f"tasks.{self.name}: no validation split; set tasks.{self.name}.validation_share, for example to 0.05"
            )
        part: Part = "test" if split == "test" else "train"
        if part not in self.on_hub.splits:
            raise NoSplitError(f"tasks.{self.name}: the data set has no {split} split")
        return part

    def _held_out(self, draft: Drafted) -> bool:
        return is_held_out(draft.together, self.validation_share)

    def _drafts(self, part: Part) -> Iterator[Drafted | BadRow]:
        seen: dict[str, str] = {}
        empty = True
        for source, row in self._rows(part):
            empty = False
            try:
                if isinstance(row, UnusableRowError):
                    raise row
                drafts = self.drafts(Row(row), source, part)
                _check(drafts, seen)
            except UnusableRowError as error:
                yield BadRow(source, str(error))
            else:
                yield from drafts
        if empty:
            named = ", ".join(repr(str(file)) for file in self._files(part)[:3])
            place = "folder" if self.hub_of(part) is None else "hub"
            raise InputError(f"tasks.{self.name}.{place}: no row in {named}; fetch the data set's files again")

    def _rows(self, part: Part) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        if (hub := self.hub_of(part)) is not None:
            yield from self.read_hub(hub, self.on_hub.splits[part])
            return
        for file in self.own_files(part):
            try:
                yield from self.read(file)
            except OSError as error:
                raise InputError(f"tasks.{self.name}.folder: cannot read {str(file)!r}: {error.strerror}") from error


def _check(drafts: Sequence[Drafted], seen: dict[str, str]) -> None:
    """The texts hold, and no id comes twice; enters the ids in `seen`."""
    for draft in drafts:
        example = draft.example
        check_texts(example.prompt, example.completion)
        if example.id in seen:
            raise UnusableRowError(f"the id {example.id!r} stands in {seen[example.id]} already")
        seen[example.id] = example.source


def row_id(row: Row, source: str, part: Part) -> str:
    """The row's id: its `idx` where it has one, else its number in the file, which `source` ends in."""
    return f"{part}-{row.whole('idx') if 'idx' in row.data else source.rpartition(' ')[2]}"
