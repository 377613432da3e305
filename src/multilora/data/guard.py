"""Before training: no row of an evaluation split is trained on. Training rows are compared while they are read."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from multilora.data.leakage import EvaluationRows, Pair, RowName, by_pair
from multilora.errors import InputError
from multilora.tasks.example import BadRow, Example, Task, TaskWrapper

OnLeak = Literal["fail", "drop"]

_NAMED = 3


@dataclass
class LeakedRows:
    """The training rows of one task that equal evaluation rows, each with these. They are not trained on."""

    rows: dict[RowName, Sequence[RowName]] = field(default_factory=dict[RowName, Sequence[RowName]])

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: RowName, equal: Sequence[RowName]) -> None:
        """Enter a row; one that is read again, such as in a stream's next pass, counts once."""
        self.rows.setdefault(row, equal)

    def notes(self, name: str) -> list[str]:
        """One line with the count and the first rows, if there are any."""
        if not self.rows:
            return []
        first = [(row, equal[0]) for row, equal in self.rows.items()]
        return [f"{name}: {len(self):,} rows left out of training: {_named(first)}"]


class _Reading(Iterator[Example | BadRow]):
    """One reading of a task's training rows; it can be continued where it stopped.

    Attributes:
        failed: the rows could not be read.
    """

    def __init__(self, rows: Iterator[Example | BadRow]) -> None:
        self._rows, self.failed = rows, False

    def __next__(self) -> Example | BadRow:
        try:
            return next(self._rows)
        except InputError:
            self.failed = True
            raise


@dataclass(frozen=True)
class WithoutLeaks(TaskWrapper):
    """A task without the training rows that equal evaluation rows; otherwise the task itself.

    Attributes:
        evaluation: the rows that may not be trained on.
        leaked: gets the rows that are left out, as they are read.
    """

    evaluation: EvaluationRows
    leaked: LeakedRows
    _last: list[_Reading] = field(default_factory=list[_Reading])  # the last reading, if there is one

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The task's training rows without those that equal evaluation rows.

        Raises:
            InputError: as the task's; no other row is there.
        """
        left_out, others = 0, False
        for row in self._begin():
            if self._leaks(row):
                left_out += 1
            else:
                others = True
                yield row
        if left_out and not others:
            raise InputError(
                f"tasks.{self.name}: all {left_out:,} training rows equal evaluation rows, so on_leak: drop leaves "
                "none; train on other rows"
            )

    def compare_rest(self) -> None:
        """Compare the rows after the place where the last reading stopped, or all if there was none.

        Raises:
            InputError: as the task's `train_rows`.
        """
        for row in self._last[0] if self._last else self._begin():
            self._leaks(row)

    @property
    def failed(self) -> bool:
        """Whether the last reading failed."""
        return any(reading.failed for reading in self._last)

    def _begin(self) -> _Reading:
        self._last[:] = [_Reading(self.task.train_rows())]
        return self._last[0]

    def _leaks(self, row: Example | BadRow) -> bool:
        equal = self.evaluation.equal_to(row) if isinstance(row, Example) else ()
        if isinstance(row, Example) and equal:
            self.leaked.add(RowName(self.name, "train", row.source, row.id), equal)
        return bool(equal)


@dataclass(frozen=True)
class Guard:
    """Keeps evaluation rows out of training.

    Attributes:
        tasks: the tasks to train on: no row that equals an evaluation row is among theirs.
        on_leak: stop if a row was left out, or only count it.
        leaked: by task name: what was left out, complete once the task's training rows have been read.
        notes: evaluation files that could not be compared, one line per task.
    """

    tasks: list[Task]
    on_leak: OnLeak
    leaked: dict[str, LeakedRows]
    notes: list[str]

    @classmethod
    def of(cls, tasks: Sequence[Task], on_leak: OnLeak = "fail") -> Guard:
        """Read the evaluation rows of all tasks, and none to train on.

        Args:
            tasks: the tasks.
            on_leak: what to do with a training row that equals an evaluation row of any of the tasks.
        """
        evaluation = EvaluationRows.of(tasks)
        leaked = {task.name: LeakedRows() for task in tasks}
        notes = [f"not checked for leaks: {line}" for line in evaluation.unread]
        guarded: list[Task] = list(tasks)
        if evaluation.by_key:
            guarded = [WithoutLeaks(task, evaluation, leaked[task.name]) for task in tasks]
        return cls(guarded, on_leak, leaked, notes)

    @contextmanager
    def reading(self) -> Generator[None]:
        """A block that reads the training rows of `tasks` once.

        Raises:
            InputError: on_leak is fail and rows leak: one message with their number, the first ones and what to do. It
                comes before any other fault but that rows cannot be read, and has the rows of all tasks.
        """
        try:
            yield
        except InputError:
            if not any(task.failed for task in self._compared):
                self.compare_rest()
            raise
        self.compare_rest()

    def compare_rest(self) -> None:
        """Where on_leak is fail, compare the training rows that have not been read.

        Raises:
            InputError: rows leak; the rest cannot be read.
        """
        if self.on_leak == "drop":
            return
        for task in self._compared:
            task.compare_rest()
        matches = [match for leaked in self.leaked.values() for match in leaked.rows.items()]
        if matches:
            raise InputError(_leaks_text(len(matches), by_pair(self.tasks, matches)))

    @property
    def _compared(self) -> list[WithoutLeaks]:
        return [task for task in self.tasks if isinstance(task, WithoutLeaks)]


def _leaks_text(rows: int, pairs: Sequence[Pair]) -> str:
    head = (
        f"mixture.on_leak: training rows that equal evaluation rows: {rows:,}. Set mixture.on_leak to "
        "drop to leave them out of training; `multilora data check RECIPE` lists them"
    )
    lines = [f"  {pair.first} → {pair.second}: {pair.first_rows:,}: {_named(pair.matches)}" for pair in pairs]
    return "\n".join([head, *lines])


def _named(matches: Sequence[tuple[RowName, RowName]]) -> str:
    """The first matches by name, and how many more there are."""
    first = ", ".join(f"{row} = {other.split} {other}" for row, other in matches[:_NAMED])
    return first + (f", and {len(matches) - _NAMED:,} more" if len(matches) > _NAMED else "")
