from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multilora.data.encoding import EncodedTask, TaskCounts
from multilora.data.mixture import mixture_order
from multilora.training.batches import IGNORED, TASK_IDS, Collator, MixtureSampler, as_dataset


def encoded(name: str, *rows: tuple[list[int], int]) -> EncodedTask:
    ids = np.array([token for row, _ in rows for token in row], dtype=np.int32)
    offsets = np.cumsum([0, *(len(row) for row, _ in rows)]).astype(np.int64)
    return EncodedTask(name, ids, offsets, np.array([length for _, length in rows], dtype=np.int32), TaskCounts())


def test_rows_of_all_tasks_in_one_data_set() -> None:
    dataset = as_dataset([encoded("a", ([1, 2, 3], 1), ([4, 5], 1)), encoded("b", ([6, 7, 8, 9], 3))])
    assert [row["input_ids"].tolist() for row in dataset] == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert [int(row["prompt_length"]) for row in dataset] == [1, 1, 3]
    assert [int(row["task"]) for row in dataset] == [0, 0, 1]


ROWS = st.lists(
    st.integers(1, 8).flatmap(lambda prompt: st.tuples(st.just(prompt), st.integers(1, 8))), min_size=1, max_size=6
)


@settings(deadline=None)
@given(ROWS)
def test_a_batch_learns_the_completions_and_nothing_else(shapes: list[tuple[int, int]]) -> None:
    rows = [
        {"input_ids": np.arange(10 * n + 1, 10 * n + 1 + prompt + completion), "prompt_length": prompt, "task": n}
        for n, (prompt, completion) in enumerate(shapes)
    ]
    batch = Collator(pad_id=0)(rows)
    longest = max(prompt + completion for prompt, completion in shapes)
    assert batch["input_ids"].shape == (len(rows), longest)
    for n, (prompt, completion) in enumerate(shapes):
        length = prompt + completion
        assert batch["input_ids"][n, :length].tolist() == rows[n]["input_ids"].tolist()
        assert batch["attention_mask"][n].tolist() == [1] * length + [0] * (longest - length)
        assert batch["labels"][n, :prompt].eq(IGNORED).all()
        assert batch["labels"][n, prompt:length].tolist() == rows[n]["input_ids"][prompt:].tolist()
        assert batch["labels"][n, length:].eq(IGNORED).all()
    assert batch[TASK_IDS].tolist() == list(range(len(rows)))
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_padding_token_in_the_text_is_learnt_all_the_same() -> None:
    # eos often stands for padding; a mask by token id would leave it out of the loss.
    batch = Collator(pad_id=2)([{"input_ids": np.array([5, 6, 2]), "prompt_length": 1, "task": 0}])
    assert batch["labels"].tolist() == [[IGNORED, 6, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 1000))
def test_the_sampler_is_the_mixtures_epochs_end_to_end(length: int, seed: int) -> None:
    sizes, rates = [13, 8], [1.0, 3.0]
    sampler = MixtureSampler(sizes, rates, seed, length)
    order = list(sampler)
    assert len(order) == len(sampler) == length
    epochs = [row for epoch in range(length // 21 + 1) for row in mixture_order(sizes, rates, seed, epoch).tolist()]
    assert order == epochs[:length]
    assert order == list(sampler)  # the same each time


def test_the_sampler_makes_no_epoch_before_it_is_needed() -> None:
    assert len(list(islice(MixtureSampler([10], [1.0], 0, 10**12), 25))) == 25
