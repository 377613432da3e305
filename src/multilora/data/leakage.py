"""Leakage: questions that are evaluated on and trained on too.

Rows are the same question if their keys are equal (`multilora.tasks.keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from multilora.errors import InputError
from multilora.tasks.example import BadRow, EvalSplit, Example, NoSplitError, Task
from multilora.tasks.keys import key_of, text_key_of

# Splits as a report names them. Shown: worked questions in a prompt, such as MMLU's dev rows.
Place = Literal["train", "shown", "validation", "test"]

_PLACES: Sequence[Place] = ("train", "shown", "validation", "test")
_EVAL_SPLITS: Sequence[EvalSplit] = ("validation", "test")


# Rows and where they stand ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowName:
    """A row of a recipe's tasks.

    Attributes:
        task, place: the task's name and the split.
        source: where the row stands in the task's files.
        id: the row's id; empty: the task has no ids.
    """

    task: str
    place: Place
    source: str
    id: str

    @property
    def split(self) -> str:
        """The split as `TASK/SPLIT`, such as `mmlu/test`."""
        return f"{self.task}/{self.place}"

    def __str__(self) -> str:
        return f"{self.source} ({self.id})" if self.id else self.source


@dataclass
class Pair:
    """The rows that two splits share: each match is a row of the first and an equal one of the second."""

    first: str
    second: str
    matches: list[tuple[RowName, RowName]] = field(default_factory=list[tuple[RowName, RowName]])

    @property
    def first_rows(self) -> int:
        """Rows of the first split that the second one has too."""
        return len({row for row, _ in self.matches})

    @property
    def second_rows(self) -> int:
        """Rows of the second split that the first one has too."""
        return len({row for _, row in self.matches})


@dataclass
class EvaluationRows:
    """The keys of evaluation rows with the rows' names. Memory per row is constant: no text is kept.

    Attributes:
        by_key: the rows of each key.
        by_text: the rows of each whole prompt, where it has another key than the question in it.
        read: rows of each split that was read, such as {"mmlu/test": 14042}.
        unread: why a split was not read, one line per task.
    """

    by_key: dict[bytes, list[RowName]] = field(default_factory=dict[bytes, list[RowName]])
    by_text: dict[bytes, list[RowName]] = field(default_factory=dict[bytes, list[RowName]])
    read: dict[str, int] = field(default_factory=dict[str, int])
    unread: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, tasks: Sequence[Task], shown: bool = False) -> EvaluationRows:
        """Read the validation and test rows of all tasks; a task without the split contributes no rows.

        A split whose files are missing or broken is left out, and named in `unread`.

        Args:
            tasks: the tasks.
            shown: also the rows that tasks show in prompts (`Task.shown_rows`).
        """
        rows = cls()
        for task in tasks:
            faults: list[str] = []
            if shown:
                rows._read(task, "shown", task.shown_rows, faults)
            for split in _EVAL_SPLITS:
                rows._read(task, split, lambda task=task, split=split: _checked(task, split), faults)
            if faults:
                rows.unread.append(f"{task.name}: {'; '.join(faults)}")
        return rows

    def _read(
        self, task: Task, place: Place, rows: Callable[[], Iterable[Example | BadRow]], faults: list[str]
    ) -> None:
        count = 0
        try:
            for row in rows():
                if isinstance(row, Example):
                    count += 1
                    name, key, text = RowName(task.name, place, row.source, row.id), key_of(row), text_key_of(row)
                    self.by_key.setdefault(key, []).append(name)
                    if text != key:
                        self.by_text.setdefault(text, []).append(name)
        except NoSplitError:
            return
        except InputError as error:  # training needs no evaluation file; what is compared is said
            first, *others = str(error).splitlines()
            more = f" (and {len(others)} more)" if others else ""
            faults.append(f"{place} rows are not all compared: {first}{more}")
        if count:
            self.read[f"{task.name}/{place}"] = count

    def equal_to(self, row: Example) -> Sequence[RowName]:
        """The evaluation rows with this row's key, or whose whole prompt this row asks ready-made."""
        key, text = key_of(row), text_key_of(row)
        found = (self.by_key.get(key, ()), self.by_text.get(key, ()), self.by_text.get(text, ()))
        return list(dict.fromkeys(name for names in found for name in names))


def _checked(task: Task, split: EvalSplit) -> Iterator[Example | BadRow]:
    task.check(split)
    yield from task.eval_rows(split)


# Finding leaks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeakReport:
    """The rows that splits of a recipe's tasks share.

    Attributes:
        leaks: training rows that equal evaluation rows.
        shared: rows that evaluation splits share with one another, or with rows shown in prompts.
        read: rows of each split.
        unread: why a split was not compared, one line per task.
    """

    leaks: list[Pair]
    shared: list[Pair]
    read: dict[str, int]
    unread: list[str]

    @property
    def leaked_rows(self) -> int:
        """Training rows that equal an evaluation row, each counted once."""
        return len({row for pair in self.leaks for row, _ in pair.matches})


def find_leaks(tasks: Sequence[Task]) -> LeakReport:
    """Compare all training rows with all evaluation rows of some tasks, those shown in prompts too.

    Raises:
        InputError: a training file is missing or makes no sense.
    """
    evaluation = EvaluationRows.of(tasks, shown=True)
    matches, read = list[tuple[RowName, Sequence[RowName]]](), dict[str, int]()
    for task in tasks:
        count = 0
        for row in task.train_rows():
            if isinstance(row, Example):
                count += 1
                equal = [other for other in evaluation.equal_to(row) if other.place != "shown"]
                if equal:
                    matches.append((RowName(task.name, "train", row.source, row.id), equal))
        read[f"{task.name}/train"] = count
    shared = _shared(evaluation).sorted(tasks)
    return LeakReport(by_pair(tasks, matches), shared, read | evaluation.read, evaluation.unread)


def by_pair(tasks: Sequence[Task], matches: Iterable[tuple[RowName, Sequence[RowName]]]) -> list[Pair]:
    """Matches of rows with the rows that they equal, by the splits of both, in the order of the tasks."""
    pairs = _Pairs()
    for row, equal in matches:
        pairs.add((row, other) for other in equal)
    return pairs.sorted(tasks)


class _Pairs(dict[tuple[str, str], Pair]):
    """Pairs by the names of their splits."""

    def add(self, matches: Iterable[tuple[RowName, RowName]]) -> None:
        for first, second in matches:
            names = first.split, second.split
            self.setdefault(names, Pair(*names)).matches.append((first, second))

    def sorted(self, tasks: Sequence[Task]) -> list[Pair]:
        """The pairs in the order of the tasks and their splits."""
        order = {f"{task.name}/{place}": (i, j) for i, task in enumerate(tasks) for j, place in enumerate(_PLACES)}
        return sorted(self.values(), key=lambda pair: (order[pair.first], order[pair.second]))


def _shared(evaluation: EvaluationRows) -> _Pairs:
    """Equal rows of different splits, the one that is nearer to the test first."""
    pairs = _Pairs()
    for rows in evaluation.by_key.values():
        for i, one in enumerate(rows):
            for other in rows[i + 1 :]:
                if one.split != other.split and (one.place, other.place) != ("shown", "shown"):
                    ordered = sorted((one, other), key=lambda row: _PLACES.index(row.place))
                    pairs.add([(ordered[0], ordered[1])])
    return pairs
