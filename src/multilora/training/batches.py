"""Batches: examples in the mixture's order, padded or packed, with the number of each token's task beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from multilora.data.encoding import EncodedTask
from multilora.data.mixture import mixture_stream
from multilora.data.packing import packed_rows

IGNORED = -100  # the label that a loss leaves out, in torch and transformers
NO_TASK = -1  # the task of padding
TASK_IDS = "task_ids"  # beside the model's inputs in a batch; taken out before the model is called


def as_dataset(tasks: Sequence[EncodedTask]) -> datasets.Dataset:
    """All rows of all tasks, task after task, without a copy: `input_ids`, `loss_mask`, `task` (its number)."""
    tables = [
        pa.table(
            {
                "input_ids": pa.LargeListArray.from_arrays(pa.array(task.offsets), pa.array(task.input_ids)),
                "loss_mask": pa.LargeListArray.from_arrays(pa.array(task.offsets), pa.array(task.loss_mask)),
                "task": pa.array(np.full(len(task), number, dtype=np.int32)),
            }
        )
        for number, task in enumerate(tasks)
    ]
    # With a fingerprint of ours `datasets` need not hash the whole table.
    fingerprint = "-".join(task.fingerprint() for task in tasks)[:64]
    return datasets.Dataset(pa.concat_tables(tables), fingerprint=fingerprint).with_format("numpy")


class MixtureSampler(Sampler[int]):
    """Row numbers for the whole training, epoch after epoch (`mixture_order`).

    One sequence for all epochs, not one per epoch: then every batch is full, and resuming means skipping the batches
    that were used, with no epoch to be set on samplers inside samplers.

    Args:
        sizes: rows of each task.
        rates: sampling shares.
        seed: of the order.
        length: rows of the whole training: steps × batch size × accumulation × processes.
    """

    def __init__(self, sizes: Sequence[int], rates: Sequence[float], seed: int, length: int) -> None:
        self._sizes, self._rates, self._seed, self._length = list(sizes), list(rates), seed, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return islice(mixture_stream(self._sizes, self._rates, self._seed), self._length)

    def examples_in(self, rows: int) -> int:
        """How many examples the first `rows` rows hold: one each."""
        return rows


class PackedSampler(Sampler[tuple[int, ...]]):
    """Packed rows for the whole training: the examples of `MixtureSampler`, packed as they come (`packed_rows`).

    It makes the same rows each time, and resuming skips those that were used.

    Args:
        sizes, rates, seed: as for `MixtureSampler`.
        lengths: tokens of each example.
        row_length: tokens of a packed row.
        length: packed rows of the whole training.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float],
        seed: int,
        lengths: NDArray[np.int64],
        row_length: int,
        length: int,
    ) -> None:
        self._sizes, self._rates, self._seed, self._length = list(sizes), list(rates), seed, length
        self._lengths, self._row_length = lengths, row_length
        self._counted = (iter(self), 0, 0)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        stream = mixture_stream(self._sizes, self._rates, self._seed)
        return islice(packed_rows(stream, self._lengths, self._row_length), self._length)

    def examples_in(self, rows: int) -> int:
        """How many examples the first `rows` packed rows hold. Calls with growing numbers continue the count."""
        source, done, examples = self._counted
        if rows < done:
            source, done, examples = iter(self), 0, 0
        examples += sum(len(row) for row in islice(source, rows - done))
        self._counted = (source, rows, examples)
        return examples


class ProcessBatches(Sampler[list[Any]]):
    """The batches of one process: of a sampler's rows, cut into batches, every `count`-th one from `index` on.

    So the processes' batches number k make one batch of count × batch_size rows, those that one process would take.
    """

    def __init__(self, rows: MixtureSampler | PackedSampler, batch_size: int, index: int, count: int) -> None:
        self._rows, self._batch_size, self._index, self._count = rows, batch_size, index, count

    def __len__(self) -> int:
        return len(self._rows) // (self._batch_size * self._count)

    def __iter__(self) -> Iterator[list[Any]]:
        rows = iter(self._rows)
        for _ in range(len(self)):
            batch = list(islice(rows, self._batch_size * self._count))
            yield batch[self._index * self._batch_size : (self._index + 1) * self._batch_size]


class StreamRows(IterableDataset[Any]):
    """What an endless stream yields, from the beginning each time.

    Args:
        begin: begins the stream.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self._begin()


class PackedRows(Dataset[list[dict[str, Any]]]):
    """A data set of examples, read by packed rows: `rows[(3, 1)]` is the list of examples 3 and 1."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> list[dict[str, Any]]:
        return self._dataset.__getitems__(list(index))


@dataclass(frozen=True)
class Collator:
    """Rows to a batch, padded at the end to the longest row.

    Attributes:
        pad_id: any id that the model has; padding is masked in the attention and in the loss.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels`, `task_ids` (rows, longest), int64; the task of padding is −1."""
        batch = _empty(len(rows), max(len(row["input_ids"]) for row in rows), self.pad_id)
        for number, row in enumerate(rows):
            _put(batch, row, number, 0)
        return batch | {"attention_mask": (batch[TASK_IDS] != NO_TASK).long()}


@dataclass(frozen=True)
class PackedCollator:
    """Packed rows to a batch. There is no attention mask: with one, transformers would not look at the positions.

    Attributes:
        pad_id: any id that the model has; each padding token at a row's end is a separate segment, without
            loss. (One long segment could reach beyond the model's positions.)
        row_length: tokens of a row.
    """

    pad_id: int
    row_length: int

    def __call__(self, rows: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Tensor]:
        """`input_ids`, `position_ids` (restarting with every example), `labels`, `task_ids` (rows, row_length)."""
        batch = _empty(len(rows), self.row_length, self.pad_id)
        position_ids = torch.zeros_like(batch["input_ids"])
        for number, examples in enumerate(rows):
            start = 0
            for example in examples:
                end = _put(batch, example, number, start)
                position_ids[number, start:end] = torch.arange(end - start)
                start = end
        return batch | {"position_ids": position_ids}


def _empty(rows: int, length: int, pad_id: int) -> dict[str, Tensor]:
    return {
        name: torch.full((rows, length), value)
        for name, value in (("input_ids", pad_id), ("labels", IGNORED), (TASK_IDS, NO_TASK))
    }


def _put(batch: dict[str, Tensor], example: Mapping[str, Any], row: int, start: int) -> int:
    """Write an example into a row from `start` on. Returns where it ends."""
    ids = torch.as_tensor(example["input_ids"], dtype=torch.int64)
    end = start + len(ids)
    batch["input_ids"][row, start:end] = ids
    learnt = torch.as_tensor(np.array(example["loss_mask"]))
    learnt[0] = False  # nothing predicts a first token; the one before is not its own
    batch["labels"][row, start:end][learnt] = ids[learnt]
    batch[TASK_IDS][row, start:end] = int(example["task"])
    return end
