"""Streaming: rows are read, encoded and mixed as training goes, for data larger than memory.

What is held per task does not grow with the data: one block of `shuffle_buffer` encoded rows. The order is a pure
function of (files, rates, seed, processes). To resume in the middle, the stream is read again up to that point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from multilora.data.counts import TaskCounts, why_nothing_left
from multilora.data.encoder import PromptCompletionEncoder, Segment
from multilora.data.encoding import RowRules, encoded_rows
from multilora.data.limits import ModelLimits
from multilora.data.mixture import mixture_quotas, permutation
from multilora.data.packing import packed_rows
from multilora.errors import InputError
from multilora.tasks.example import Task

# An encoded row as the collators take it: `input_ids`, `loss_mask`, `task` (its number).
Row = Mapping[str, Any]

_ROWS_OF_BLOCK, _TURNS = 2, 3  # first parts of permutations' keys, beside those of mixture.py
_WINDOW = 1000  # turns whose quotas are exact; what rounding gave is carried into the next


@dataclass(frozen=True)
class StreamedMixture:
    """Tasks to be read while training goes, each process its own rows.

    Attributes:
        tasks: the tasks, in the order of their numbers.
        encoder: made of the model's tokenizer.
        rules: for rows that cannot be used as they are.
        rates: sampling rate of each task, per example.
        buffer: rows of a task are shuffled within blocks of this many, which are held in memory.
        seed: of the order.
        shard: (index, count) of the process: of each task's rows it takes those numbered index, index + count, …
    """

    RESUME_KEY: ClassVar[str] = "files"  # the part of `record` that a resumed run must find again

    tasks: Sequence[Task]
    encoder: PromptCompletionEncoder
    rules: RowRules
    rates: Sequence[float]
    buffer: int
    seed: int
    shard: tuple[int, int] = (0, 1)

    def record(self) -> dict[str, dict[str, Any]]:
        """Names, sizes and times of the training files, by task. The rows have not been read yet."""
        return {task.name: {"files": [_file_record(file) for file in task.files("train")]} for task in self.tasks}

    def check(self, limits: ModelLimits) -> None:
        """Look at the first rows of each task; the others are checked as they come.

        Raises:
            InputError: a task has no row that can be trained on, or one of the first is bad or does not fit the model.
        """
        for task in self.stream(limits).tasks:
            next(iter(replace(task, buffer=1)))

    def stream(self, limits: ModelLimits) -> MixtureStream:
        """The rows from the beginning."""
        rules = self.rules
        tasks = [
            TaskStream(
                task.name,
                number,
                partial(
                    encoded_rows,
                    task,
                    self.encoder,
                    rules.max_length,
                    on_bad_row=rules.on_bad_row.get(task.name, "fail"),
                    on_long_example=rules.on_long_example,
                    shard=self.shard,
                ),
                limits,
                partial(why_nothing_left, max_length=rules.max_length),
                self.buffer,
                self.seed,
                self.shard,
            )
            for number, task in enumerate(self.tasks)
        ]
        return MixtureStream(tasks, self.rates, self.seed, self.shard)


@dataclass
class TaskStream:
    """One task's rows without end: pass after pass, each row once in a pass, shuffled within blocks.

    Attributes:
        name: the task's name.
        number: the task's number in the mixture.
        source: called with the counts to keep, reads the process's rows from the beginning.
        limits: the model's; every row must fit.
        why_nothing: says what became of the rows, where none is left.
        buffer: rows of a block.
        seed, shard: of the order.
        counts: what became of the rows, in the first pass as far as it has been read.
        passes: passes that have begun.
        drawn: rows that were given out.
    """

    name: str
    number: int
    source: Callable[[TaskCounts], Iterator[list[Segment]]]
    limits: ModelLimits
    why_nothing: Callable[[TaskCounts], str]
    buffer: int
    seed: int
    shard: tuple[int, int]
    counts: TaskCounts = field(default_factory=TaskCounts)
    passes: int = 0
    drawn: int = 0

    def __iter__(self) -> Iterator[Row]:
        for number in count():
            counts = self.counts if number == 0 else TaskCounts()
            self.passes = number + 1
            rows = map(self._row, self.source(counts))
            for block_number in count():
                block = list(islice(rows, self.buffer))
                if not block:
                    break
                key = (_ROWS_OF_BLOCK, self.number, number, block_number, *self.shard)
                for place in permutation(len(block), self.seed, *key).tolist():
                    self.drawn += 1
                    yield block[place]
                block.clear()  # or it would be held while the next one is read
            if not counts.kept:
                index, processes = self.shard
                share = f" (one row in {processes}, for process {index})" if processes > 1 else ""
                raise InputError(f"tasks.{self.name}{share}: {self.why_nothing(counts)}")

    def _row(self, segments: list[Segment]) -> Row:
        ids = np.fromiter(chain.from_iterable(part for part, _ in segments), dtype=np.int32)
        mask = np.repeat([learnt for _, learnt in segments], [len(part) for part, _ in segments])
        self.limits.check(int(ids.max()), len(ids))
        return {"input_ids": ids, "loss_mask": mask, "task": self.number}


@dataclass
class MixtureStream:
    """The rows of several tasks, mixed. To be read once: the counts are those of this reading.

    Attributes:
        tasks: the tasks.
        rates: sampling rate of each.
        seed, shard: of the order.
    """

    tasks: Sequence[TaskStream]
    rates: Sequence[float]
    seed: int
    shard: tuple[int, int]

    def rows(self) -> Iterator[Row]:
        """The rows, without end.

        Raises:
            InputError: in the middle of it, a row is bad or does not fit the model.
        """
        sources = [iter(task) for task in self.tasks]
        for turn in turns(self.rates, self.seed, self.shard):
            yield next(sources[turn])

    def packed_rows(self, row_length: int) -> Iterator[list[Row]]:
        """The rows packed as they come, without end (`multilora.data.packing`); errors as `rows`."""
        waiting, lengths = dict[int, Row](), dict[int, int]()

        def numbers() -> Iterator[int]:
            for number, row in enumerate(self.rows()):
                waiting[number], lengths[number] = row, len(row["input_ids"])
                yield number

        for chosen in packed_rows(numbers(), lengths, row_length):
            yield [waiting.pop(number) for number in chosen]
            for number in chosen:
                del lengths[number]


def turns(rates: Sequence[float], seed: int, shard: tuple[int, int] = (0, 1)) -> Iterator[int]:
    """The next task, without end, in windows of 1,000 turns: their quotas are exact (`mixture_quotas`)."""
    for window, quotas in enumerate(mixture_quotas(rates, _WINDOW)):
        order: NDArray[np.int64] = np.repeat(np.arange(len(rates)), quotas)
        yield from order[permutation(_WINDOW, seed, _TURNS, window, *shard)].tolist()


def _file_record(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"name": file.name, "bytes": status.st_size, "modified": status.st_mtime_ns}
