"""MMLU: multiple-choice questions of 57 subjects; training rows come from auxiliary sources."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from multilora.errors import InputError
from multilora.tasks.example import BadRow, Example, NoSplitError, Scoring, Split
from multilora.tasks.folder import Drafted, FolderTask, Part
from multilora.tasks.hub import HubSource, OnHub
from multilora.tasks.keys import key_of, normalised
from multilora.tasks.rows import Row, UnusableRowError, json_array

_LETTERS = "ABCDE"
_PREFIXES: Mapping[Part, str] = MappingProxyType({"validation": "val", "test": "test"})  # of ids
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
    """`dev/`, `val/` and `test/` with one CSV file per subject and no header: question, four options, letter.

    An example's group is its subject; `CATEGORIES` has the subject's category. Training rows come from another
    folder: MMLU has no training split of its own. Its validation split is `val/`, or, where a `validation_share` is
    set, that share of the training rows.

    MMLU itself repeats questions: 5 dev and 28 val rows equal test rows (33 in all), and one dev row a val row, as
    `multilora data check` tells. They stay in their splits, so that scores compare with everybody else's. Only from the
    shots of its own question is a dev row left out, or the prompt would hold the answer: that one val row has a shot
    less; the other dev rows are shown to other subjects than those they equal rows of.

    Attributes:
        auxiliary: folder with the training sources, JSON files of instruction rows; None: `auxiliary_train` in the
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

    def own_files(self, part: Part) -> Sequence[Path]:
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

    def drafts(self, row: Row, source: str, part: Part) -> Sequence[Drafted]:
        if part != "train":
            example = self._with_shots(_own_example(row, source, _PREFIXES[part]))
            return [Drafted(example, together=example.key)]
        file, _, number = source.rpartition(" row ")
        question, options, right = _auxiliary_question(row)
        id = f"train-{file.removesuffix('.json').rpartition('/')[2].replace(' ', '-')}-{number}"
        return [Drafted(_example(_introduction(""), question, options, right, source, id), together=question)]

    def from_hub(self, row: Row) -> dict[str, Any]:
        """The Hub has the options in a list, and the letter as a class."""
        letter = row.data.get("answer")
        if type(letter) is int and 0 <= letter < 4:
            letter = _LETTERS[letter]
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

    def hub_of(self, part: Part) -> HubSource | None:
        return None if part == "train" and self.auxiliary else self.hub

    def part_of(self, split: Split) -> Part:
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
                example = _own_example(Row(row), source, "dev")
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
        head, key = _introduction(example.group), key_of(example)
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
            question = row.prompt.removeprefix(_introduction(row.group))
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


def _introduction(subject: str) -> str:
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def _question(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer:"])


def _example(
    head: str, question: str, options: Sequence[str], right: int, source: str, id: str, subject: str = ""
) -> Example:
    choices = tuple(f" {letter}" for letter in _LETTERS[: len(options)])
    completion = choices[right]
    key = "\n".join([question, *sorted(options, key=normalised)])  # in any order the same question
    return Example(head + _question(question, options), completion, source, id, choices, (completion,), subject, key)


def _own_example(row: Row, source: str, prefix: str) -> Example:
    """A row of MMLU's own splits."""
    subject = row.label("subject", {name: name for name in SUBJECTS})
    right = row.label("answer", {letter: number for number, letter in enumerate("ABCD")})
    question, options = row.text("question"), [row.text(letter) for letter in "ABCD"]
    id = f"{prefix}-{subject}-{source.rpartition(' ')[2]}"
    return _example(_introduction(subject), question, options, right, source, id, subject)


def _auxiliary_question(row: Row) -> tuple[str, list[str], int]:
    if "question" in row.data:  # of the Hub
        right = row.label("answer", {letter: number for number, letter in enumerate("ABCD")})
        return row.text("question"), [row.text(letter) for letter in "ABCD"], right
    match = _AUXILIARY.fullmatch(row.text("instruction"))
    if match is None:
        raise UnusableRowError("field 'instruction' is not a question with `Answer1: …` to `Answer format: …`")
    options = re.split(r" Answer\d: ", match["options"])
    if not 2 <= len(options) <= len(_LETTERS):
        raise UnusableRowError(f"field 'instruction' has {len(options)} options where 2 to {len(_LETTERS)} are needed")
    return match["question"], options, row.label("answer", {f"answer{i + 1}": i for i in range(len(options))})
