"""The rows to evaluate on: read, and with a limit a fixed sample of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from multilora.data.counts import TaskCounts
from multilora.errors import InputError
from multilora.evaluation.results import OF_QUESTIONS, row_id
from multilora.tasks.example import EvalSplit, Example, Task

OnBadRow = Literal["fail", "skip"]


@dataclass(frozen=True)
class EvalRows:
    """A task's rows to evaluate on.

    Attributes:
        examples: in the order of the files.
        counts: of all rows read (`rows`, `kept`), and the bad ones (`skipped`).
    """

    examples: Sequence[Example]
    counts: TaskCounts


def read_rows(task: Task, split: EvalSplit, limit: int | None, on_bad_row: OnBadRow) -> EvalRows:
    """Read a task's rows and take the sample.

    The sample depends on the rows' ids alone: it is the same for every model, and one of 100 rows is part of one of
    200. Where a metric is one of questions, a question's rows are taken together, and the sample may be a few rows
    short of the limit.

    Args:
        task: whose rows have choices or a final number.
        split: which rows.
        limit: at most this many (of one question, if it has more rows than that); None: all.
        on_bad_row: stop at a bad row, or skip and count it.

    Raises:
        NoSplitError: the task has no such split.
        InputError: a bad row, where it is said to stop; a row that cannot be scored.
    """
    counts, examples = TaskCounts(), list[Example]()
    for row in task.eval_rows(split):
        counts.rows += 1
        if isinstance(row, Example):
            _check(task, row)
            examples.append(row)
        elif on_bad_row == "fail":
            raise InputError(
                f"tasks.{task.name}: {row.source}: {row.why}. Mend the row, or set tasks.{task.name}.on_bad_row to skip"
            )
        else:
            counts.skip(row)
    counts.kept = len(examples)
    if not examples:
        raise InputError(f"tasks.{task.name}: the {split} split has no row to evaluate on{_skipped(counts)}")
    return EvalRows(_sample(task, examples, limit), counts)


def in_hash_order(name: str, count: int) -> list[int]:
    """The numbers below `count` in an order that looks random and depends on them and the name alone."""
    return sorted(range(count), key=lambda number: _hash(f"{name} {number}"))


def unit_of(task: Task, example: Example) -> str:
    """What is sampled, and left out, as a whole: the row, or its question where the metrics are of questions."""
    return example.group if OF_QUESTIONS & set(task.scoring.metrics) else row_id(example)


def _sample(task: Task, examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    units: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        units.setdefault(unit_of(task, example), []).append(number)
    chosen: list[int] = []
    for unit in sorted(units, key=_hash):
        if chosen and len(chosen) + len(units[unit]) > limit:
            break
        chosen += units[unit]
    return [examples[number] for number in sorted(chosen)]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _check(task: Task, row: Example) -> None:
    if not row.answers or (task.scoring.kind == "choices" and len(row.choices) < 2):
        raise InputError(
            f"tasks.{task.name}: {row.source} has {len(row.choices)} choices and {len(row.answers)} right answers; to "
            "be scored a row needs a right answer, and where there are choices two or more"
        )


def _skipped(counts: TaskCounts) -> str:
    return f": all {counts.rows:,} were skipped: {counts.skipped_text()}" if counts.skipped else ""
