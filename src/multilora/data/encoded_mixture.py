"""The encoded rows of all tasks, all in memory, and how often each task is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from multilora.data.encoding import EncodedTask
from multilora.data.limits import ModelLimits
from multilora.data.mixture import CountedBy, RateRule, mixture_quotas, mixture_stream, rates_of
from multilora.data.packing import packed_rows
from multilora.errors import InputError


@dataclass(frozen=True)
class EncodedMixture:
    """The encoded rows of all tasks, and how often each task is seen.

    Attributes:
        tasks: the tasks, in the order of their numbers.
        rates: sampling rate of each task, per example (`rates_of`).
    """

    RESUME_KEY: ClassVar[str] = "fingerprint"  # the part of `record` that a resumed run must find again

    tasks: Sequence[EncodedTask]
    rates: Sequence[float]

    @classmethod
    def of(
        cls,
        tasks: Sequence[EncodedTask],
        rule: RateRule = "explicit",
        explicit: Sequence[float] | None = None,
        temperature: float = 1.0,
        examples_cap: int | None = None,
        counted_by: CountedBy = "examples",
    ) -> EncodedMixture:
        """The tasks with rates by a rule; its arguments as for `rates_of`.

        Raises:
            InputError: a task's share of an epoch is less than one row.
        """
        sizes, tokens = [len(task) for task in tasks], [len(task.input_ids) for task in tasks]
        rates = rates_of(sizes, tokens, rule, explicit, temperature, examples_cap, counted_by)
        for task, quota in zip(tasks, next(mixture_quotas(rates, sum(sizes))), strict=True):
            if quota == 0:
                raise InputError(
                    f"tasks.{task.name}{'.rate' if rule == 'explicit' else ''}: its share of an epoch of "
                    f"{sum(sizes):,} rows is less than one row; raise the rate, or leave the task out"
                )
        return cls(tasks, rates)

    def record(self) -> dict[str, dict[str, Any]]:
        """Fingerprint and counts of the rows, by task."""
        return {task.name: {"fingerprint": task.fingerprint(), **asdict(task.counts)} for task in self.tasks}

    def check(self, limits: ModelLimits) -> None:
        """Whether all rows fit the model.

        Raises:
            InputError: they do not.
        """
        limits.check(self.highest_id, self.longest)

    def batch_rows(self, epochs: float, seed: int, row_length: int | None = None) -> int:
        """Rows of batches that some epochs make.

        Args:
            epochs: passes over as many examples as there are.
            seed: of the order, on which packing depends.
            row_length: tokens of a packed row; None if each example is a row.
        """
        examples = math.ceil(epochs * sum(self.sizes))
        if row_length is None:
            return examples
        order = islice(mixture_stream(self.sizes, self.rates, seed), examples)
        return sum(1 for _ in packed_rows(order, self.lengths, row_length))

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each task."""
        return [len(task) for task in self.tasks]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) tokens of every row of all tasks, task after task."""
        return np.concatenate([task.lengths for task in self.tasks])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max())

    @property
    def highest_id(self) -> int:
        """The highest token id of all rows."""
        return max(int(task.input_ids.max()) for task in self.tasks)
