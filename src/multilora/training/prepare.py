"""The data of a recipe: its sections become the plain arguments of `multilora.data`, here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.encoding import OnBadRow, RowRules, encode_tasks
from multilora.data.guard import Guard, LeakedRows
from multilora.data.streaming import StreamedMixture
from multilora.errors import InputError
from multilora.recipe import Recipe
from multilora.tasks.example import Task
from multilora.training.loading import BatchShape
from multilora.training.processes import Processes

Mixture = EncodedMixture | StreamedMixture


def open_tasks(recipe: Recipe) -> list[Task]:
    """The recipe's tasks, whose training files can be opened.

    Raises:
        InputError: one message with the faults of all tasks.
    """
    tasks = [section.build(name) for name, section in recipe.tasks.items()]
    faults: list[str] = []
    for task in tasks:
        try:
            task.check()
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return tasks


def row_rules(recipe: Recipe) -> RowRules:
    """What the recipe does with rows that cannot be used as they are."""
    training = recipe.training
    on_bad_row: dict[str, OnBadRow] = {name: section.on_bad_row for name, section in recipe.tasks.items()}
    return RowRules(training.max_length, training.on_long_example, on_bad_row)


def batch_shape(recipe: Recipe) -> BatchShape:
    """The rows of the recipe's batches."""
    training = recipe.training
    row_length = training.row_length if training.packing else None
    return BatchShape(training.batch_size, training.gradient_accumulation, row_length)


def encode_mixture(recipe: Recipe, tasks: Sequence[Task], encoder: PromptCompletionEncoder) -> EncodedMixture:
    """Read and encode the training rows of all tasks.

    Args:
        recipe: the recipe.
        tasks: its tasks.
        encoder: made of the model's tokenizer.

    Raises:
        InputError: as `encode_task` and `EncodedMixture.of` say.
    """
    mixture = recipe.mixture
    return EncodedMixture.of(
        encode_tasks(tasks, encoder, row_rules(recipe)),
        mixture.rates,
        [task.rate for task in recipe.tasks.values()] if mixture.rates == "explicit" else None,
        mixture.temperature or 1.0,
        mixture.examples_cap,
        mixture.counted_by,
    )


def streamed_mixture(
    recipe: Recipe, tasks: Sequence[Task], encoder: PromptCompletionEncoder, shard: tuple[int, int] = (0, 1)
) -> StreamedMixture:
    """The training rows of all tasks, to be read while training goes.

    Args:
        recipe: the recipe.
        tasks: its tasks.
        encoder: made of the model's tokenizer.
        shard: (index, count) of this process, which reads its own rows.
    """
    rates = [recipe.tasks[task.name].rate for task in tasks]  # all 1 where they are equal
    buffer, seed = recipe.mixture.buffer, recipe.training.seed
    return StreamedMixture(tasks, encoder, row_rules(recipe), rates, buffer, seed, shard)


@dataclass(frozen=True)
class TrainingData:
    """What a recipe trains on.

    Attributes:
        mixture: the rows, encoded or to be streamed.
        leaked: by task name: the rows that are left out because they equal evaluation rows; of a stream, as far as it
            has been read.
        unread: evaluation files that could not be compared, one line per task.
        steps: optimizer steps of the whole run.
    """

    mixture: Mixture
    leaked: Mapping[str, LeakedRows]
    unread: Sequence[str]
    steps: int

    def notes(self) -> list[str]:
        """What became of the rows, as far as it is known: one line for each kind that was not used as it is."""
        lines = list(self.unread)
        for task in self.mixture.tasks if isinstance(self.mixture, EncodedMixture) else ():
            lines += [*self.leaked[task.name].notes(task.name), *task.counts.notes(task.name)]
        return lines


def prepare_data(
    recipe: Recipe,
    tasks: Sequence[Task],
    encoder: PromptCompletionEncoder,
    shard: tuple[int, int] = (0, 1),
    note: Callable[[str], None] = lambda _: None,
) -> TrainingData:
    """The data to train on: encoded here and now, or, as the recipe says, while training goes.

    Args:
        recipe: the recipe.
        tasks: its tasks (`open_tasks`).
        encoder: made of the model's tokenizer.
        shard: (index, count) of this process; of a stream each process reads its own rows.
        note: called with lines for the user.

    Raises:
        InputError: rows leak and the recipe says fail; as `encode_mixture`.
    """
    note(f"{'streaming' if recipe.mixture.streaming else 'reading'} {', '.join(recipe.tasks)}")
    guard = Guard.of(tasks, recipe.mixture.on_leak)
    if recipe.mixture.streaming:
        guard.compare_rest()  # with fail, each row once before training; what is streamed then need not be compared
        mixture = streamed_mixture(recipe, tasks if guard.on_leak == "fail" else guard.tasks, encoder, shard)
    else:
        with guard.reading():
            mixture = encode_mixture(recipe, guard.tasks, encoder)
        for task in mixture.tasks:
            task.counts.leaked = len(guard.leaked[task.name])
    data = TrainingData(mixture, guard.leaked, guard.notes, steps_of(recipe, mixture, shard[1]))
    for line in data.notes():
        note(line)
    return data


def steps_of(recipe: Recipe, mixture: Mixture, processes: int = 1) -> int:
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
    shape = batch_shape(recipe)
    rows = mixture.batch_rows(training.epochs, training.seed, shape.row_length)
    return math.ceil(rows / (shape.rows * shape.accumulated * processes))


def check_same_data(mixture: Mixture, processes: Processes) -> None:
    """All processes call this.

    Raises:
        InputError: they do not all read the same data.
    """
    if processes.count == 1:
        return
    records = [
        {name: task[mixture.RESUME_KEY] for name, task in record.items()}
        for record in processes.gather(mixture.record())
    ]
    if differing := [name for name, record in records[0].items() if any(r[name] != record for r in records)]:
        raise InputError(
            f"the rows of {', '.join(differing)} are not the same in all processes; give all machines the same files"
        )
