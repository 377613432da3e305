"""What the built-in tasks share: files in a folder, ids, and a validation split out of the training rows."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from multilora.data.example import BadRow, EvalSplit, Example, Scoring, Split
from multilora.data.tasks.rows import Row, UnusableRowError, check_texts, json_lines, near_file
from multilora.errors import InputError

# The files a row stands in. The validation split has none of its own.
Part = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Drafted:
    """An example with what decides on which side of the validation split it falls.

    Attributes:
        example: the example.
        together: rows with equal text here fall on the same side: the passage where several rows share one, so that
            validation asks about unseen passages, and otherwise the question, so that equal rows stay together.
    """

    example: Example
    together: str


@dataclass(frozen=True)
class FolderTask(ABC):
    """A data set in a local folder, in its own format.

    A data set's class says which files it has, how a row reads, and how it is scored; order, ids, splits and faults
    are handled here.

    Attributes:
        name: the task's name in the recipe.
        folder: where its files are.
        validation_share: this share of the training rows is held out for validation, chosen by a hash of their text:
            the same rows whatever their order, the seed and the other rows.
    """

    name: str
    folder: Path
    validation_share: float = 0.0

    scoring_kind: ClassVar[Scoring] = Scoring("none")

    @property
    def scoring(self) -> Scoring:
        """How answers are scored."""
        return self.scoring_kind

    @abstractmethod
    def files(self, part: Part) -> Sequence[Path]:
        """The files of the part, in order, whether they exist or not; none: the data set has no such part."""

    @abstractmethod
    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        """The examples of one row of a file.

        Raises:
            UnusableRowError: the row is not as the data set's rows are.
        """

    def read(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        """The file's rows with their place in it.

        Raises:
            OSError: the file cannot be read.
            InputError: the file as a whole makes no sense.
        """
        for number, row in json_lines(file):
            yield f"{file.name} line {number}", row

    def check(self, split: Split = "train") -> None:
        """Every file of the split can be opened.

        Raises:
            InputError: one message that names all files that cannot.
        """
        faults: list[str] = []
        for file in self._files(split):
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
        for draft in self._drafts(split):
            if isinstance(draft, BadRow):
                yield draft
            elif split == "test" or self._held_out(draft):
                yield draft.example

    def _files(self, split: Split) -> Sequence[Path]:
        if split == "validation" and not self.validation_share:
            raise InputError(
                f"tasks.{self.name}: no validation split; set tasks.{self.name}.validation_share, for example to 0.05"
            )
        files = self.files("test" if split == "test" else "train")
        if not files:
            raise InputError(f"tasks.{self.name}: the data set has no {split} split")
        return files

    def _held_out(self, draft: Drafted) -> bool:
        digest = hashlib.sha256(draft.together.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) < self.validation_share * 2**64

    def _drafts(self, split: Split) -> Iterator[Drafted | BadRow]:
        part: Part = "test" if split == "test" else "train"
        seen: dict[str, str] = {}
        empty = True
        for file in self._files(split):
            try:
                for source, row in self.read(file):
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
            except OSError as error:
                raise InputError(f"tasks.{self.name}.folder: cannot read {str(file)!r}: {error.strerror}") from error
        if empty:
            named = ", ".join(repr(str(file)) for file in self._files(split)[:3])
            raise InputError(f"tasks.{self.name}.folder: no row in {named}; fetch the data set's files again")


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
