"""MMLU: multiple-choice questions of 57 subjects; training rows come from auxiliary sources."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from multilora.errors import InputError
from multilora.fields import Integer, PathText
from multilora.tasks.data_sets.mmlu_questions import (
    auxiliary_question,
    introduction,
    own_example,
    question_example,
)
from multilora.tasks.data_sets.mmlu_subjects import CATEGORIES, SUBJECTS
from multilora.tasks.example import BadRow, Example, NoSplitError, Scoring, Split
from multilora.tasks.folder import DATA_SET, FolderSection, FolderTask
from multilora.tasks.hub import HubSource, OnHub
from multilora.tasks.keys import key_of
from multilora.tasks.rows import Row, UnusableRowError, json_array
from multilora.tasks.rows_task import Drafted

_PREFIXES: Mapping[Split, str] = MappingProxyType({"validation": "val", "test": "test"})  # of ids
_COLUMNS = ("question", "A", "B", "C", "D", "answer")


@dataclass(frozen=True)
class MMLU(FolderTask):
    """`dev/`, `val/` and `test/` with one CSV file per subject and no header: question, four options, letter.

    An example's group is its subject; `CATEGORIES` has the subject's category. Training rows come from another
    folder: MMLU has no training split. Its validation split is `val/`, or, where a `validation_share` is
    set, that share of the training rows.

    MMLU itself repeats questions: 5 dev and 28 val rows equal test rows (33 in all), and one dev row a val row, as
    `multilora data check` reports. They stay in their splits, so that scores compare with published ones. Only from the
    shots of its own question is a dev row left out, or the prompt would hold the answer: that one val row has a shot
    less; the other dev rows are shown to other subjects than those they equal rows of.

    Attributes:
        auxiliary: folder with the training sources, JSON files of instruction rows; if None, `auxiliary_train` in the
            folder or on the Hub.
        shots: worked questions of the subject from `dev/` before each question to evaluate on; 0 to 5. Training rows
            have none.
    """

    auxiliary: Path | None = None
    shots: int = 0

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("accuracy",))
    on_hub: ClassVar[OnHub] = OnHub(
        "cais/mmlu",
        "all",
        {"train": "auxiliary_train", "validation": "validation", "test": "test"},
        ("question", "subject", "choices", "answer"),
    )

    def own_files(self, part: Split) -> Sequence[Path]:
        if part == "test":
            return [self._file("test", subject) for subject in SUBJECTS]
        if part == "validation":
            return [self._file("val", subject) for subject in SUBJECTS]
        folder = self.auxiliary or self.folder / "auxiliary_train"
        found = sorted(folder.glob("*.json"))
        if not found:
            raise InputError(
                f"tasks.{self.name}.auxiliary: no JSON file in {str(folder)!r}; name the folder with MMLU's auxiliary "
                "training sources, such as arc_easy.json"
            )
        return found

    def read(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        if file.suffix == ".csv":
            yield from self._csv_rows(file)
        else:
            for number, row in json_array(file, f"tasks.{self.name}.auxiliary"):
                yield f"{file.name} row {number}", row

    def drafts(self, row: Row, source: str, part: Split) -> Sequence[Drafted]:
        if part != "train":
            example = self._with_shots(own_example(row, source, _PREFIXES[part]))
            return [Drafted(example, example.key)]
        file, _, number = source.rpartition(" row ")
        question, options, right = auxiliary_question(row)
        id = f"train-{file.removesuffix('.json').rpartition('/')[2].replace(' ', '-')}-{number}"
        return [Drafted(question_example(introduction(""), question, options, right, source, id), question)]

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub has the options in a list, and the letter as a class."""
        letter = row.data.get("answer")
        if type(letter) is int and 0 <= letter < 4:
            letter = "ABCD"[letter]
        options = row.texts("choices")
        if len(options) != 4:
            raise UnusableRowError(f"{len(options)} choices where 4 are needed")
        question = {"question": row.text("question"), **dict(zip("ABCD", options, strict=True)), "answer": letter}
        return {"subject": row.maybe_empty("subject"), **question}

    def read_hub(self, hub: HubSource, split: str) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        numbers: Counter[str] = Counter()
        for source, row in super().read_hub(hub, split):
            if isinstance(row, UnusableRowError) or not row["subject"]:
                yield source, row
                continue
            numbers[row["subject"]] += 1  # as in the subject's own file, for equal ids
            yield f"{source.rpartition(' row ')[0]} {row['subject']} row {numbers[row['subject']]}", row

    def hub_of(self, part: Split) -> HubSource | None:
        return None if part == "train" and self.auxiliary else self.hub

    def part_of(self, split: Split) -> Split:
        if split != "validation" or self.validation_share:
            return super().part_of(split)
        if self.hub is None and not (self.folder / "val").is_dir():
            raise NoSplitError(
                f"tasks.{self.name}: no validation split: {str(self.folder)!r} has no folder val; fetch it, or set "
                f"tasks.{self.name}.validation_share to hold out training rows"
            )
        return "validation"

    def groups(self, example: Example) -> Mapping[str, str]:
        """The subject and its category."""
        return {"category": CATEGORIES[example.group], "subject": example.group} if example.group else {}

    def shown_rows(self) -> Iterator[Example | BadRow]:
        """The rows of `dev/`, which are shown with their answers before a question (`shots`).

        Raises:
            InputError: a file is missing, or is not CSV.
        """
        for source, row in self._dev_rows():
            try:
                if isinstance(row, UnusableRowError):
                    raise row
                example = own_example(Row(row), source, "dev")
            except UnusableRowError as error:
                yield BadRow(source, str(error))
            else:
                yield example

    def _dev_rows(self) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        if self.hub is not None:
            yield from self.read_hub(self.hub, "dev")
            return
        for subject in SUBJECTS:
            file = self._file("dev", subject)
            try:
                yield from self._csv_rows(file)
            except OSError as error:
                raise InputError(f"tasks.{self.name}.folder: cannot read {str(file)!r}: {error.strerror}") from error

    def _file(self, split: str, subject: str) -> Path:
        return self.folder / split / f"{subject}_{split}.csv"

    def _with_shots(self, example: Example) -> Example:
        if not self.shots:
            return example
        head, key = introduction(example.group), key_of(example)
        shots = [shot for other, shot in self._worked[example.group][: self.shots] if other != key]
        return replace(example, prompt="".join([head, *shots, example.prompt.removeprefix(head)]))

    @cached_property
    def _worked(self) -> dict[str, list[tuple[bytes, str]]]:
        """The dev questions of each subject, with their answers, after their keys."""
        worked: dict[str, list[tuple[bytes, str]]] = {subject: [] for subject in SUBJECTS}
        for row in self.shown_rows():
            if isinstance(row, BadRow):
                place = "folder" if self.hub is None else "hub"
                raise InputError(f"tasks.{self.name}.{place}: {row.source}: {row.why}")
            question = row.prompt.removeprefix(introduction(row.group))
            worked[row.group].append((key_of(row), f"{question}{row.completion}\n\n"))
        for subject, questions in worked.items():
            if len(questions) < self.shots:
                where = self._file("dev", subject).name if self.hub is None else f"{self.hub.id} dev, {subject},"
                raise InputError(
                    f"tasks.{self.name}.shots: {where} has {len(questions)} rows, fewer than shots = {self.shots}; "
                    f"set shots to {len(questions)} or less"
                )
        return worked

    def _csv_rows(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        subject = file.stem.rpartition("_")[0]
        with file.open(encoding="utf-8", newline="") as text:
            try:
                for number, values in enumerate(csv.reader(text, strict=True), start=1):
                    source = f"{file.name} row {number}"
                    if len(values) == len(_COLUMNS):
                        yield source, {"subject": subject, **dict(zip(_COLUMNS, values, strict=True))}
                    else:
                        yield source, UnusableRowError(f"{len(values)} columns where {len(_COLUMNS)} are needed")
            except (csv.Error, UnicodeDecodeError) as error:
                raise InputError(
                    f"tasks.{self.name}.folder: {str(file)!r} is not CSV: {error}; is it cut off?"
                ) from error


class MMLUSection(FolderSection):
    """MMLU: multiple-choice questions of 57 subjects."""

    task: Literal["mmlu"] = Field(description=DATA_SET)
    data_set = MMLU
    auxiliary: PathText | None = Field(
        None,
        description="For mmlu: folder with the training sources, as MMLU has no training split. If None, "
        "auxiliary_train in the folder or on the Hub.",
    )
    shots: Integer = Field(
        0,
        ge=0,
        le=5,
        description="For mmlu: worked questions of the subject, from dev, before each question to evaluate on. "
        "Training rows have none.",
    )

    def build(self, name: str) -> MMLU:
        """MMLU with its training sources and shots."""
        return MMLU(
            name,
            self.folder or Path(),
            self.auxiliary,
            self.shots,
            validation_share=self.validation_share,
            hub=self.source(name),
        )
