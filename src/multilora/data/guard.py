"""Before training: no row of an evaluation split is trained on, as `mixture.on_leak` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from multilora.data.leakage import EvaluationRows, LeakReport, RowName, find_leaks
from multilora.errors import InputError
from multilora.tasks.example import BadRow, Example, Task, TaskWrapper

OnLeak = Literal["fail", "drop"]

_NAMED = 3


@dataclass(frozen=True)
class WithoutLeaks(TaskWrapper):
    """A task without the training rows that equal evaluation rows; otherwise the task itself.

    Attributes:
        evaluation: the rows that may not be trained on.
        on_found: is called with each row that is left out, and with an equal evaluation row, as the rows are read.
    """

    evaluation: EvaluationRows
    on_found: Callable[[RowName, RowName], None]

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The task's, but for rows that equal evaluation rows.

        Raises:
            InputError: as the task's; no other row is there.
        """
        left_out, others = 0, False
        for row in self.task.train_rows():
            equal = self.evaluation.equal_to(row) if isinstance(row, Example) else ()
            if equal:
                left_out += 1
                self.on_found(RowName(self.name, "train", row.source, getattr(row, "id", "")), equal[0])
            else:
                others = True
                yield row
        if left_out and not others:
            raise InputError(
                f"tasks.{self.name}: all {left_out:,} training rows equal evaluation rows, so on_leak: drop leaves "
                "none; train on other rows"
            )


@dataclass
class LeftOut:
    """The training rows of one task that were left out, each with an evaluation row that it equals."""

    rows: dict[RowName, RowName] = field(default_factory=dict[RowName, RowName])

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: RowName, evaluated: RowName) -> None:
        """Enter a row; one that is read again, such as in a stream's next pass, counts once."""
        self.rows.setdefault(row, evaluated)

    def notes(self, name: str) -> list[str]:
        """One line with the count and the first rows, if there are any."""
        if not self.rows:
            return []
        return [f"{name}: {len(self):,} rows left out of training: {_named(list(self.rows.items()))}"]


@dataclass(frozen=True)
class Guarded:
    """What `guard_training` returns.

    Attributes:
        tasks: the tasks to train on.
        left_out: by task name: what was left out, complete once the task's training rows have been read.
        notes: evaluation files that could not be compared, one line per task.
    """

    tasks: list[Task]
    left_out: dict[str, LeftOut]
    notes: list[str]


def guard_training(tasks: Sequence[Task], on_leak: OnLeak = "fail") -> Guarded:
    """Keep evaluation rows out of training.

    With fail, every training row is read once, and not a single one may leak. With drop, rows are left out as they are
    read, so that streams stay streams.

    Args:
        tasks: the tasks.
        on_leak: what to do with a training row that equals an evaluation row of any of the tasks.

    Raises:
        InputError: with fail, rows leak: one message with their number, the first ones and what to do.
    """
    evaluation = EvaluationRows.of(tasks)
    notes = [f"not checked for leaks: {line}" for line in evaluation.unread]
    left_out = {task.name: LeftOut() for task in tasks}
    if on_leak == "drop":
        return Guarded([WithoutLeaks(task, evaluation, left_out[task.name].add) for task in tasks], left_out, notes)
    report = find_leaks(tasks, evaluation) if evaluation.by_key else None
    if report and report.leaks:
        raise InputError(_leaks_text(report))
    return Guarded(list(tasks), left_out, notes)


def _leaks_text(report: LeakReport) -> str:
    head = (
        f"mixture.on_leak: training rows that equal evaluation rows: {report.leaked_rows:,}. Set mixture.on_leak to "
        "drop to leave them out of training; `multilora data check RECIPE` lists them"
    )
    pairs = [f"  {pair.first} → {pair.second}: {pair.first_rows:,}: {_named(pair.matches)}" for pair in report.leaks]
    return "\n".join([head, *pairs])


def _named(matches: Sequence[tuple[RowName, RowName]]) -> str:
    """The first matches by name, and how many more there are."""
    first = ", ".join(f"{row} = {other.split} {other}" for row, other in matches[:_NAMED])
    return first + (f", and {len(matches) - _NAMED:,} more" if len(matches) > _NAMED else "")
