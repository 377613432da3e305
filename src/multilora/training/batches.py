"""Batches: rows in the mixture's order, padded, with the numbers of their tasks beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Sampler

from multilora.data.encoding import EncodedTask
from multilora.data.mixture import mixture_order

IGNORED = -100  # the label that a loss leaves out, in torch and transformers
TASK_IDS = "task_ids"  # beside the model's inputs in a batch; taken out before the model is called


def as_dataset(tasks: Sequence[EncodedTask]) -> datasets.Dataset:
    """All rows of all tasks, task after task, without a copy: `input_ids`, `prompt_length`, `task` (its number)."""
    tables = [
        pa.table(
            {
                "input_ids": pa.LargeListArray.from_arrays(pa.array(task.offsets), pa.array(task.input_ids)),
                "prompt_length": pa.array(task.prompt_lengths),
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
        left, epoch = self._length, 0
        while left > 0:
            order = mixture_order(self._sizes, self._rates, self._seed, epoch)[:left]
            yield from order.tolist()
            left, epoch = left - len(order), epoch + 1


@dataclass(frozen=True)
class Collator:
    """Rows to a batch, padded at the end to the longest row.

    Attributes:
        pad_id: any id that the model has; padding is masked in the attention and in the loss.
    """

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels` (rows, longest), int64, and `task_ids` (rows,)."""
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), longest), self.pad_id)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED)
        for number, row in enumerate(rows):
            ids = torch.as_tensor(row["input_ids"], dtype=torch.int64)
            prompt_length, length = int(row["prompt_length"]), len(ids)
            input_ids[number, :length] = ids
            attention_mask[number, :length] = 1
            labels[number, prompt_length:length] = ids[prompt_length:]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            TASK_IDS: torch.tensor([int(row["task"]) for row in rows]),
        }
