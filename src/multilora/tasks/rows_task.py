"""Common code of tasks with rows in files or on the Hub: ids, bad rows, and a validation split of training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multilora.errors import InputError
from multilora.tasks.example import BadRow, EvalSplit, Example, Scoring, Split
from multilora.tasks.hub import HubSource
from multilora.tasks.rows import Row, UnusableRowError, check_texts, is_held_out, json_lines, near_file


@dataclass(frozen=True, slots=True)
class Drafted:
    """An example with what decides on which side of the validation split it falls.

    Attributes:
        example: the example.
        split_key: rows with equal text here (`normalised`: punctuation and case do not count) fall on the same side:
            the passage where several rows share one, so that validation asks about unseen passages, and otherwise the
            question, so that equal rows stay together.
    """

    example: Example
    split_key: str


@dataclass(frozen=True, slots=True)
class Place:
    """Location of the rows of a split.

    Attributes:
        part: the split that the files belong to; train for a validation split that is held out of the training rows.
        field: the field of the task's section that names the files, for messages.
        files: the files, in order.
        hub: the data set on the Hub that has the rows instead of the files.
        hub_splits: its splits, in order.
    """

    part: Split
    field: str
    files: Sequence[Path] = ()
    hub: HubSource | None = None
    hub_splits: Sequence[str] = ()


@dataclass(frozen=True)
class RowsTask(ABC):
    """A task that reads its rows one at a time, from files or from the Hugging Face Hub.

    A kind of task says where each split stands and how a row reads; order, ids, the validation split and faults are
    handled here.

    Attributes:
        name: the task's name in the recipe.
        validation_share: this share of the training rows is held out for validation, chosen by a hash of their text:
            the same rows whatever their order, the seed and the other rows.
        hub: where its rows are instead of in files.
    """

    name: str
    validation_share: float = field(default=0.0, kw_only=True)
    hub: HubSource | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def scoring(self) -> Scoring:
        """How answers are scored."""

    @abstractmethod
    def place(self, split: Split) -> Place:
        """The location of the split's rows.

        Raises:
            NoSplitError: the task has no such split.
        """

    @abstractmethod
    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        """The examples of one row.

        Args:
            row: the row as `read` or `read_hub` gives it.
            source: where it stands, such as `train.jsonl line 3`.
            part: the split that its file belongs to.

        Raises:
            UnusableRowError: the row makes none.
        """

    def read(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        """The file's rows with their place in it; here a JSON-lines file's.

        Raises:
            OSError: the file cannot be read.
            InputError: the file as a whole makes no sense.
        """
        for number, row in json_lines(file):
            yield f"{file.name} line {number}", row

    def read_hub(self, hub: HubSource, split: str) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        """The rows of a split of the Hub with their place, in the form that `read` gives them.

        Raises:
            InputError: the split cannot be loaded.
        """
        yield from hub.rows(split)

    def finish(self, place: Place, rows: int, fields: Set[str]) -> None:  # noqa: B027 - most tasks have no such fault
        """Check the rows as a whole, after the last one. The default checks nothing.

        Args:
            place: where they stood.
            rows: how many there were.
            fields: the fields that any of them had.

        Raises:
            InputError: something is wrong.
        """

    def groups(self, example: Example) -> Mapping[str, str]:
        """What the example's score is also reported by (`Task.groups`); here nothing."""
        return {}

    def shown_rows(self) -> Iterator[Example | BadRow]:
        """Rows that are shown in the prompts of others; here none."""
        return iter(())

    def check(self, split: Split = "train") -> None:
        """Check that every file of the split can be opened. Makes no network request.

        Raises:
            InputError: one message that names all files that cannot.
        """
        place = self.place(split)
        if place.hub is not None:
            place.hub.check(place.hub_splits)
            return
        faults: list[str] = []
        for file in place.files:
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                near = "" if file.exists() else near_file(file)
                faults.append(f"tasks.{self.name}.{place.field}: cannot read {str(file)!r}: {error.strerror}{near}")
        if faults:
            raise InputError("\n".join(faults))

    def files(self, split: Split) -> Sequence[Path]:
        """The files that the split's rows are read from.

        Raises:
            NoSplitError: the task has no such split.
            InputError: the Hub has them, and they cannot be loaded.
        """
        return _files(self.place(split))

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The rows of the training files that are not held out, and all bad rows of these files."""
        return self._side(self.place("train"), held_out=False)

    def eval_rows(self, split: EvalSplit) -> Iterator[Example | BadRow]:
        """The rows held out of the training files, or those of the split's own files, with the files' bad rows.

        Raises:
            NoSplitError: the task has no such split.
        """
        place = self.place(split)
        return self._side(place, held_out=True if place.part == "train" else None)

    def _side(self, place: Place, held_out: bool | None) -> Iterator[Example | BadRow]:
        """The rows on one side of the validation split; of both, if None."""
        for draft in self._drafts(place):
            if isinstance(draft, BadRow):
                yield draft
            elif held_out is None or is_held_out(draft.split_key, self.validation_share) == held_out:
                yield draft.example

    def _drafts(self, place: Place) -> Iterator[Drafted | BadRow]:
        sources: dict[str, str] = {}  # of each id
        fields, count = set[str](), 0
        for source, row in self._rows(place):
            count += 1
            try:
                if isinstance(row, UnusableRowError):
                    raise row
                fields |= row.keys()
                drafts = self.drafts(Row(row), source, place.part)
                _check(drafts, sources)
            except UnusableRowError as error:
                yield BadRow(source, str(error))
            else:
                yield from drafts
        self.finish(place, count, fields)

    def _rows(self, place: Place) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        if place.hub is not None:
            for split in place.hub_splits:
                yield from self.read_hub(place.hub, split)
            return
        for file in place.files:
            try:
                yield from self.read(file)
            except OSError as error:
                raise InputError(
                    f"tasks.{self.name}.{place.field}: cannot read {str(file)!r}: {error.strerror}"
                ) from error


def _files(place: Place) -> Sequence[Path]:
    if place.hub is None:
        return place.files
    return [file for split in place.hub_splits for file in place.hub.files(split)]


def first_files(place: Place) -> str:
    """The first files of a place, for a message."""
    return ", ".join(repr(str(file)) for file in _files(place)[:3])


def _check(drafts: Sequence[Drafted], sources: dict[str, str]) -> None:
    """Check that texts are valid and ids unique; enters the ids in `sources`."""
    for draft in drafts:
        example = draft.example
        check_texts(example.prompt, example.completion)
        if not example.id:
            continue
        if example.id in sources:
            raise UnusableRowError(f"the id {example.id!r} stands in {sources[example.id]} already")
        sources[example.id] = example.source
