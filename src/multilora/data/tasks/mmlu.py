"""MMLU: multiple-choice questions of 57 subjects; training rows come from auxiliary sources."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from multilora.data.example import Example, Scoring
from multilora.data.tasks.folder import Drafted, FolderTask, Part
from multilora.data.tasks.rows import Row, UnusableRowError, json_array
from multilora.errors import InputError

_LETTERS = "ABCDE"
_COLUMNS = ("question", "A", "B", "C", "D", "answer")
# The auxiliary sources as instruction data: the question, then `Answer1: … Answer2: …` in one line.
_AUXILIARY = re.compile(
    r"Please choose the correct answer to the question: (?P<question>.*?)\n\n"
    r"Answer1: (?P<options>.*)\n\nAnswer format: answer1(?:/answer\d)*\s*",
    re.DOTALL,
)

_BY_CATEGORY = {
    "STEM": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
    "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
}
# The category of each subject, as lm-evaluation-harness has them (anatomy, for one, is elsewhere in the paper).
CATEGORIES: Mapping[str, str] = MappingProxyType(
    {subject: category for category, subjects in sorted(_BY_CATEGORY.items()) for subject in subjects.split()}
)
SUBJECTS: tuple[str, ...] = tuple(sorted(CATEGORIES))


@dataclass(frozen=True)
class MMLU(FolderTask):
    """`dev/` and `test/` with one CSV file per subject and no header: question, four options, letter.

    An example's group is its subject; `CATEGORIES` has the subject's category. Training rows come from another
    folder: MMLU has no training split of its own.

    Attributes:
        auxiliary: folder with the training sources, JSON files of instruction rows; None: `auxiliary_train` in the
            folder.
        shots: worked questions of the subject from `dev/` before each test question; 0 to 5.
    """

    auxiliary: Path | None = None
    shots: int = 0

    scoring_kind: ClassVar[Scoring] = Scoring("choices", ("accuracy",))

    def files(self, part: Part) -> Sequence[Path]:
        if part == "test":
            return [self._file("test", subject) for subject in SUBJECTS]
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

    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        file, _, number = source.partition(" row ")
        if part == "train":
            question, options, right = _auxiliary_question(row)
            prompt = _introduction("") + _question(question, options)
            subject, id, together = "", f"train-{file.removesuffix('.json')}-{number}", question
        else:
            subject = file.removesuffix("_test.csv")
            question, options, right = _own_question(row)
            prompt = _introduction(subject) + self._shots_of(subject) + _question(question, options)
            id, together = f"test-{subject}-{number}", question
        choices = tuple(f" {letter}" for letter in _LETTERS[: len(options)])
        completion = choices[right]
        return [Drafted(Example(prompt, completion, source, id, choices, (completion,), subject), together)]

    def _file(self, split: str, subject: str) -> Path:
        return self.folder / split / f"{subject}_{split}.csv"

    def _shots_of(self, subject: str) -> str:
        return "".join(self._worked[subject][: self.shots]) if self.shots else ""

    @cached_property
    def _worked(self) -> dict[str, list[str]]:
        """The dev questions of each subject with their answers."""
        worked: dict[str, list[str]] = {}
        for subject in SUBJECTS:
            file = self._file("dev", subject)
            worked[subject] = []
            try:
                for source, row in self._csv_rows(file):
                    if isinstance(row, UnusableRowError):
                        raise InputError(f"tasks.{self.name}.folder: {source}: {row}")
                    question, options, right = _own_question(Row(row))
                    worked[subject].append(f"{_question(question, options)} {_LETTERS[right]}\n\n")
            except OSError as error:
                raise InputError(f"tasks.{self.name}.folder: cannot read {str(file)!r}: {error.strerror}") from error
            except UnusableRowError as error:
                raise InputError(f"tasks.{self.name}.folder: {file.name}: {error}") from error
            if len(worked[subject]) < self.shots:
                raise InputError(
                    f"tasks.{self.name}: {file.name} has {len(worked[subject])} rows, fewer than shots = {self.shots}"
                )
        return worked

    def _csv_rows(self, file: Path) -> Iterator[tuple[str, dict[str, Any] | UnusableRowError]]:
        with file.open(encoding="utf-8", newline="") as text:
            try:
                for number, values in enumerate(csv.reader(text, strict=True), start=1):
                    source = f"{file.name} row {number}"
                    if len(values) == len(_COLUMNS):
                        yield source, dict(zip(_COLUMNS, values, strict=True))
                    else:
                        yield source, UnusableRowError(f"{len(values)} columns where {len(_COLUMNS)} are needed")
            except (csv.Error, UnicodeDecodeError) as error:
                raise InputError(
                    f"tasks.{self.name}.folder: {str(file)!r} is not CSV: {error}; is it cut off?"
                ) from error


def _introduction(subject: str) -> str:
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def _question(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer:"])


def _own_question(row: Row) -> tuple[str, list[str], int]:
    right = row.label("answer", {letter: number for number, letter in enumerate("ABCD")})
    return row.text("question"), [row.text(letter) for letter in "ABCD"], right


def _auxiliary_question(row: Row) -> tuple[str, list[str], int]:
    match = _AUXILIARY.fullmatch(row.text("instruction"))
    if match is None:
        raise UnusableRowError("field 'instruction' is not a question with `Answer1: …` to `Answer format: …`")
    options = re.split(r" Answer\d: ", match["options"])
    if not 2 <= len(options) <= len(_LETTERS):
        raise UnusableRowError(f"field 'instruction' has {len(options)} options where 2 to {len(_LETTERS)} are needed")
    return match["question"], options, row.label("answer", {f"answer{i + 1}": i for i in range(len(options))})
