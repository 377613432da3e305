"""What the trainer reads: batches of a mixture, of this process alone, padded or packed, encoded before or streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader

from multilora.data.counts import TaskCounts, counts_of_all
from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.limits import ModelLimits
from multilora.data.streaming import StreamedMixture
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
        """How many passes the first `steps` steps are, in examples over all tasks' rows; None if unknown."""
        ...

    def counts(self) -> dict[str, dict[str, Any]]:
        """Row counts by task, for results.json."""
        ...


@dataclass(frozen=True)
class BatchShape:
    """The rows of batches.

    Attributes:
        rows: of a batch of one process.
        accumulated: batches of each process that make one optimizer step.
        row_length: tokens of a packed row; None if each example is a row, padded to the longest of its batch.
    """

    rows: int
    accumulated: int = 1
    row_length: int | None = None


def loading_of(
    mixture: EncodedMixture | StreamedMixture,
    shape: BatchShape,
    limits: ModelLimits,
    steps: int,
    seed: int,
    pad_id: int,
    processes: Processes,
) -> Loading:
    """The batches of a mixture.

    Args:
        mixture: the data.
        shape: of the batches.
        limits: the model's.
        steps: optimizer steps of the whole run.
        seed: of the order.
        pad_id: any id that the model has.
        processes: of the run.
    """
    collator = Collator(pad_id) if shape.row_length is None else PackedCollator(pad_id, shape.row_length)
    if isinstance(mixture, StreamedMixture):
        return _Streamed(mixture, shape, limits, collator, processes)
    return _Encoded(mixture, shape, steps, seed, collator, processes)


class _Encoded:
    """The same batches in one process as in several together, in the same order."""

    def __init__(
        self,
        mixture: EncodedMixture,
        shape: BatchShape,
        steps: int,
        seed: int,
        collator: Collator | PackedCollator,
        processes: Processes,
    ) -> None:
        self._mixture, self._collator = mixture, collator
        self._rows_per_step = shape.rows * shape.accumulated * processes.count
        order = (mixture.sizes, mixture.rates, seed)
        length = steps * self._rows_per_step
        dataset = as_dataset(mixture.tasks)
        if shape.row_length is not None:
            self._dataset = PackedRows(dataset)
            self._sampler = PackedSampler(*order, mixture.lengths, shape.row_length, length)
        else:
            self._dataset = dataset
            self._sampler = MixtureSampler(*order, length)
        self._batches = ProcessBatches(self._sampler, shape.rows, processes.index, processes.count)

    def loader(self) -> DataLoader[Any]:
        dataset: Any = self._dataset
        return DataLoader(dataset, batch_sampler=self._batches, collate_fn=self._collator)

    def epochs(self, steps: int) -> float | None:
        return self._sampler.examples_in(steps * self._rows_per_step) / sum(self._mixture.sizes)

    def counts(self) -> dict[str, dict[str, Any]]:
        return {task.name: vars(task.counts).copy() for task in self._mixture.tasks}


class _Streamed:
    """Each process reads and mixes different rows."""

    def __init__(
        self,
        mixture: StreamedMixture,
        shape: BatchShape,
        limits: ModelLimits,
        collator: Collator | PackedCollator,
        processes: Processes,
    ) -> None:
        self._mixture, self._shape, self._limits = mixture, shape, limits
        self._collator, self._processes = collator, processes

    def loader(self) -> DataLoader[Any]:
        self._stream = self._mixture.stream(self._limits)
        length = self._shape.row_length

        def begin() -> Any:
            return self._stream.rows() if length is None else self._stream.packed_rows(length)

        return DataLoader(StreamRows(begin), batch_size=self._shape.rows, collate_fn=self._collator)

    def epochs(self, steps: int) -> float | None:
        return None

    def counts(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for task in self._stream.tasks:
            counts, passes, drawn = zip(*self._processes.gather((task.counts, task.passes, task.drawn)), strict=True)
            whole: TaskCounts = counts_of_all(counts)
            found[task.name] = {**vars(whole), "passes": max(passes), "drawn": sum(drawn)}
        return found
