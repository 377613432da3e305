"""How a question of MMLU reads: its prompt, its lettered choices, its key."""

from __future__ import annotations

import re
from collections.abc import Sequence

from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.example import Example
from multilora.tasks.keys import normalised
from multilora.tasks.rows import Row, UnusableRowError

_LETTERS = "ABCDE"
# The auxiliary sources as instruction data: the question, then `Answer1: … Answer2: …` in one line.
_AUXILIARY = re.compile(
    r"Please choose the correct answer to the question: (?P<question>.*?)\n\n"
    r"Answer1: (?P<options>.*)\n\nAnswer format: answer1(?:/answer\d)*\s*",
    re.DOTALL,
)


def introduction(subject: str) -> str:
    """The sentence before the questions of a subject; of none, if it is empty."""
    about = f" about {subject.replace('_', ' ')}" if subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def _question(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer:"])


def question_example(
    head: str, question: str, options: Sequence[str], right: int, source: str, id: str, subject: str = ""
) -> Example:
    """A question with its lettered options as an example; equal for equal options in any order, by its key."""
    choices = tuple(f" {letter}" for letter in _LETTERS[: len(options)])
    completion = choices[right]
    key = "\n".join([question, *sorted(options, key=normalised)])  # in any order the same question
    return Example(head + _question(question, options), completion, source, id, choices, (completion,), subject, key)


def own_example(row: Row, source: str, prefix: str) -> Example:
    """A row of MMLU's own splits.

    Raises:
        UnusableRowError: the row is not as MMLU's are.
    """
    subject = row.label("subject", {name: name for name in SUBJECTS})
    right = row.label("answer", {letter: number for number, letter in enumerate("ABCD")})
    question, options = row.text("question"), [row.text(letter) for letter in "ABCD"]
    id = f"{prefix}-{subject}-{source.rpartition(' ')[2]}"
    return question_example(introduction(subject), question, options, right, source, id, subject)


def auxiliary_question(row: Row) -> tuple[str, list[str], int]:
    """Question, options and number of the right one, of a training row.

    Raises:
        UnusableRowError: the row is not as the auxiliary sources' are.
    """
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
