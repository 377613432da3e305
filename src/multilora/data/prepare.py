"""From a recipe to the data it trains on: tasks → encoded rows → rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.encoding import EncodedTask, encode_task
from multilora.data.limits import ModelLimits
from multilora.data.mixture import mixture_quotas, mixture_stream, rates_of
from multilora.data.packing import packed_rows
from multilora.data.streaming import StreamedMixture
from multilora.errors import InputError
from multilora.recipe import Recipe
from multilora.tasks.example import Task
from multilora.tasks.registry import build_task


@dataclass(frozen=True)
class EncodedMixture:
    """The encoded rows of all tasks, and how often each task is seen.

    Attributes:
        tasks: the tasks in the recipe's order.
        rates: sampling rate of each task, per example (`rates_of`).
    """

    SAME: ClassVar[str] = "fingerprint"  # the part of `record` that a resumed run must find again

    tasks: Sequence[EncodedTask]
    rates: Sequence[float]

    def record(self) -> dict[str, dict[str, Any]]:
        """By task: the fingerprint of its rows, and what became of them."""
        return {task.name: {"fingerprint": task.fingerprint(), **asdict(task.counts)} for task in self.tasks}

    def check(self, limits: ModelLimits) -> None:
        """Whether all rows fit the model.

        Raises:
            InputError: they do not.
        """
        limits.check(self.highest_id, self.longest)

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


def open_tasks(recipe: Recipe) -> list[Task]:
    """The recipe's tasks, whose training files can be opened.

    Raises:
        InputError: one message with the faults of all tasks.
    """
    tasks = [build_task(name, section) for name, section in recipe.tasks.items()]
    faults: list[str] = []
    for task in tasks:
        try:
            task.check()
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return tasks


def encode_mixture(recipe: Recipe, tasks: Sequence[Task], tokenizer: Any) -> EncodedMixture:
    """Read and encode the training rows of all tasks.

    Raises:
        InputError: as `encode_task`; a task whose share of an epoch is less than one row.
    """
    encoder, training = PromptCompletionEncoder(tokenizer), recipe.training
    encoded = [
        encode_task(task, encoder, training.max_length, recipe.tasks[task.name].on_bad_row, training.on_long_example)
        for task in tasks
    ]
    return EncodedMixture(encoded, _rates(recipe, encoded))


def prepare_mixture(
    recipe: Recipe, tasks: Sequence[Task], tokenizer: Any, shard: tuple[int, int] = (0, 1)
) -> EncodedMixture | StreamedMixture:
    """The data to train on: encoded here and now, or, as the recipe says, while training goes.

    Args:
        recipe: the recipe.
        tasks: its tasks.
        tokenizer: the model's.
        shard: (index, count) of this process; of a stream each process reads its own rows.

    Raises:
        InputError: as `encode_mixture`.
    """
    if not recipe.mixture.streaming:
        return encode_mixture(recipe, tasks, tokenizer)
    rates = [recipe.tasks[task.name].rate for task in tasks]  # all 1 where they are equal
    return StreamedMixture(recipe, tasks, PromptCompletionEncoder(tokenizer), rates, shard)


def steps_of(recipe: Recipe, mixture: EncodedMixture | StreamedMixture, processes: int = 1) -> int:
    """Optimizer steps of the whole run, as the recipe says or as its epochs make.

    Args:
        recipe: the recipe.
        mixture: its data.
        processes: each makes batches of `training.batch_size`.
    """
    training = recipe.training
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    assert isinstance(mixture, EncodedMixture)  # a recipe that streams has steps
    rows = math.ceil(training.epochs * sum(mixture.sizes))
    if training.packing:
        examples = islice(mixture_stream(mixture.sizes, mixture.rates, training.seed), rows)
        rows = sum(1 for _ in packed_rows(examples, mixture.lengths, training.row_length))
    return math.ceil(rows / (training.batch_size * training.gradient_accumulation * processes))


def _rates(recipe: Recipe, encoded: Sequence[EncodedTask]) -> list[float]:
    mixture, sizes = recipe.mixture, [len(task) for task in encoded]
    rates = rates_of(
        sizes,
        [len(task.input_ids) for task in encoded],
        mixture.rates,
        [task.rate for task in recipe.tasks.values()] if mixture.rates == "explicit" else None,
        mixture.temperature or 1.0,
        mixture.examples_cap,
        mixture.counted_by,
    )
    for task, quota in zip(encoded, next(mixture_quotas(rates, sum(sizes))), strict=True):
        if quota == 0:
            raise InputError(
                f"tasks.{task.name}{'.rate' if mixture.rates == 'explicit' else ''}: its share of an epoch of "
                f"{sum(sizes):,} rows is less than one row; raise the rate, or leave the task out"
            )
    return rates
