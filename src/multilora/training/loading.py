"""What the trainer reads: batches of a mixture, of this process alone, padded or packed, encoded before or streamed."""

from __future__ import annotations

from typing import Any, Protocol

from torch.utils.data import DataLoader

from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.encoding import TaskCounts
from multilora.data.limits import ModelLimits
from multilora.data.streaming import StreamedMixture, counts_of_all
from multilora.recipe import Recipe
from multilora.training.batches import (
    Collator,
    MixtureSampler,
    PackedCollator,
    PackedRows,
    PackedSampler,
    ProcessBatches,
    StreamRows,
    as_dataset,
)
from multilora.training.processes import Processes


class Loading(Protocol):
    """The batches of a run."""

    def loader(self) -> DataLoader[Any]:
        """This process's batches from the beginning of the run."""
        ...

    def epochs(self, steps: int) -> float | None:
        """How many passes the first `steps` steps are, in examples over all tasks' rows; None: nobody knows."""
        ...

    def counts(self) -> dict[str, dict[str, Any]]:
        """By task, for results.json: what became of its rows."""
        ...


def loading_of(
    recipe: Recipe,
    mixture: EncodedMixture | StreamedMixture,
    limits: ModelLimits,
    steps: int,
    pad_id: int,
    processes: Processes,
) -> Loading:
    """The batches of a mixture.

    Args:
        recipe: the recipe.
        mixture: its data.
        limits: the model's.
        steps: optimizer steps of the whole run.
        pad_id: any id that the model has.
        processes: of the run.
    """
    training = recipe.training
    collator = PackedCollator(pad_id, training.row_length) if training.packing else Collator(pad_id)
    if isinstance(mixture, StreamedMixture):
        return _Streamed(recipe, mixture, limits, collator, processes)
    return _Encoded(recipe, mixture, steps, collator, processes)


class _Encoded:
    """The same batches in one process as in several together, in the same order."""

    def __init__(
        self,
        recipe: Recipe,
        mixture: EncodedMixture,
        steps: int,
        collator: Collator | PackedCollator,
        processes: Processes,
    ) -> None:
        training = recipe.training
        self._mixture, self._collator = mixture, collator
        self._rows_per_step = training.batch_size * training.gradient_accumulation * processes.count
        order = (mixture.sizes, mixture.rates, training.seed)
        length = steps * self._rows_per_step
        dataset = as_dataset(mixture.tasks)
        if training.packing:
            self._dataset = PackedRows(dataset)
            self._sampler = PackedSampler(*order, mixture.lengths, training.row_length, length)
        else:
            self._dataset = dataset
            self._sampler = MixtureSampler(*order, length)
        self._batches = ProcessBatches(self._sampler, training.batch_size, processes.index, processes.count)

    def loader(self) -> DataLoader[Any]:
        dataset: Any = self._dataset
        return DataLoader(dataset, batch_sampler=self._batches, collate_fn=self._collator)

    def epochs(self, steps: int) -> float | None:
        return self._sampler.examples_in(steps * self._rows_per_step) / sum(self._mixture.sizes)

    def counts(self) -> dict[str, dict[str, Any]]:
        return {task.name: vars(task.counts).copy() for task in self._mixture.tasks}


class _Streamed:
    """Each process reads and mixes rows of its own."""

    def __init__(
        self,
        recipe: Recipe,
        mixture: StreamedMixture,
        limits: ModelLimits,
        collator: Collator | PackedCollator,
        processes: Processes,
    ) -> None:
        self._training, self._mixture, self._limits = recipe.training, mixture, limits
        self._collator, self._processes = collator, processes

    def loader(self) -> DataLoader[Any]:
        self._stream = self._mixture.stream(self._limits)
        training = self._training

        def begin() -> Any:
            return self._stream.packed_rows(training.row_length) if training.packing else self._stream.rows()

        return DataLoader(StreamRows(begin), batch_size=training.batch_size, collate_fn=self._collator)

    def epochs(self, steps: int) -> float | None:
        return None

    def counts(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for task in self._stream.tasks:
            counts, passes, drawn = zip(*self._processes.gather((task.counts, task.passes, task.drawn)), strict=True)
            whole: TaskCounts = counts_of_all(counts)
            found[task.name] = {**vars(whole), "passes": max(passes), "drawn": sum(drawn)}
        return found
