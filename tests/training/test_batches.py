from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from effort import examples
from multilora.data.encoding import EncodedTask, TaskCounts
from multilora.data.mixture import mixture_order
from multilora.training.batches import (
    IGNORED,
    NO_TASK,
    TASK_IDS,
    Collator,
    MixtureSampler,
    PackedCollator,
    PackedRows,
    PackedSampler,
    ProcessBatches,
    as_dataset,
)


def encoded(name: str, *rows: tuple[list[int], int]) -> EncodedTask:
    ids = np.array([token for row, _ in rows for token in row], dtype=np.int32)
    offsets = np.cumsum([0, *(len(row) for row, _ in rows)]).astype(np.int64)
    mask = np.concatenate([np.arange(len(row)) >= prompt for row, prompt in rows])
    return EncodedTask(name, ids, offsets, mask, TaskCounts())


def example(ids: Sequence[int], prompt: int, task: int = 0) -> dict[str, Any]:
    """A row whose first `prompt` tokens the loss has not."""
    return {"input_ids": np.array(ids), "loss_mask": np.arange(len(ids)) >= prompt, "task": task}


def test_rows_of_all_tasks_in_one_data_set() -> None:
    dataset = as_dataset([encoded("a", ([1, 2, 3], 1), ([4, 5], 1)), encoded("b", ([6, 7, 8, 9], 3))])
    assert [row["input_ids"].tolist() for row in dataset] == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert [row["loss_mask"].tolist() for row in dataset] == [[False, True, True], [False, True], [False] * 3 + [True]]
    assert [int(row["task"]) for row in dataset] == [0, 0, 1]


ROWS = st.lists(
    st.integers(1, 8).flatmap(lambda prompt: st.tuples(st.just(prompt), st.integers(1, 8))), min_size=1, max_size=6
)


@settings(deadline=None)
@given(ROWS)
def test_a_batch_learns_the_completions_and_nothing_else(shapes: list[tuple[int, int]]) -> None:
    rows = [
        example(range(10 * n + 1, 10 * n + 1 + prompt + completion), prompt, n)
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
        assert batch[TASK_IDS][n].tolist() == [n] * length + [NO_TASK] * (longest - length)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_padding_token_in_the_text_is_learnt_all_the_same() -> None:
    # eos often stands for padding; a mask by token id would leave it out of the loss.
    batch = Collator(pad_id=2)([example([5, 6, 2], 1)])
    assert batch["labels"].tolist() == [[IGNORED, 6, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1]]


@settings(max_examples=examples(30), deadline=None)
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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("processes", "batch_size"), [(2, 3), (3, 2), (6, 1)])
def test_processes_take_the_batches_of_one(packed: bool, processes: int, batch_size: int) -> None:
    order = ([17, 9], [1.0, 2.0], 5)
    rows = PackedSampler(*order, np.arange(2, 28) % 11 + 1, 16, 24) if packed else MixtureSampler(*order, 24)
    one = list(ProcessBatches(rows, batch_size * processes, 0, 1))
    several = [list(ProcessBatches(rows, batch_size, index, processes)) for index in range(processes)]
    assert [row for batch in one for row in batch] == list(rows)
    assert all(len(batches) == len(one) == 4 for batches in several)
    assert [[row for batch in batches for row in batch] for batches in zip(*several, strict=True)] == one


# Packed -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_a_packed_batch_learns_what_its_examples_learn_alone(shapes: list[list[tuple[int, int]]]) -> None:
    rows = [
        [
            example(range(10 * n + 1, 10 * n + 1 + prompt + completion), prompt, n)
            for n, (prompt, completion) in enumerate(row)
        ]
        for row in shapes
    ]
    batch = PackedCollator(pad_id=0, row_length=100)(rows)
    assert "attention_mask" not in batch  # with one, transformers would not look at the positions
    assert all(tensor.shape == (len(rows), 100) and tensor.dtype == torch.int64 for tensor in batch.values())
    for number, row in enumerate(rows):
        start = 0
        for packed_example in row:
            end = start + len(packed_example["input_ids"])
            alone = Collator(0)([packed_example])
            assert batch["position_ids"][number, start:end].tolist() == list(range(end - start))
            for name in ("input_ids", "labels", TASK_IDS):
                assert torch.equal(batch[name][number, start:end], alone[name][0])
            start = end
        assert batch["position_ids"][number, start:].eq(0).all()
        assert batch["labels"][number, start:].eq(IGNORED).all()
        assert batch[TASK_IDS][number, start:].eq(NO_TASK).all()


def test_a_first_token_is_never_learnt() -> None:
    # A prompt may be empty; in a packed row the token before it belongs to another example.
    row = example([5, 6], 0)
    assert PackedCollator(0, 4)([[row, row]])["labels"].tolist() == [[IGNORED, 6, IGNORED, 6]]
    assert Collator(0)([row])["labels"].tolist() == [[IGNORED, 6]]


EXAMPLES = [([3, 1, 4, 1, 5], 2), ([9, 2, 6], 1), ([5, 3, 5, 8, 9, 7, 9], 3), ([3, 2, 3, 8], 1)]


def packed(*numbers: int, row_length: int = 20) -> dict[str, torch.Tensor]:
    return PackedCollator(0, row_length)([[example(*EXAMPLES[n], n % 2) for n in numbers]])


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_no_example_sees_another_one(make_llama: Callable[..., PreTrainedModel], attention: str, changed: int) -> None:
    model = make_llama()
    model.set_attn_implementation(attention)
    batch = packed(0, 1, 2)
    ends = [0, 5, 8, 15, 20]
    other = {name: tensor.clone() for name, tensor in batch.items()}
    start, end = ends[changed], ends[changed + 1]
    other["input_ids"][0, start:end] = (batch["input_ids"][0, start:end] + 11) % 67
    one, two = logits(model, batch)[0], logits(model, other)[0]
    for segment in range(4):
        same = torch.equal(one[ends[segment] : ends[segment + 1]], two[ends[segment] : ends[segment + 1]])
        assert same == (segment != changed)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_logits_are_those_of_the_example_alone(
    make_llama: Callable[..., PreTrainedModel], attention: str
) -> None:
    model = make_llama()
    model.set_attn_implementation(attention)
    row = logits(model, packed(0, 1, 2, 3))[0]
    start = 0
    for ids, _ in EXAMPLES:
        alone = logits(model, {"input_ids": torch.tensor([ids])})[0]
        torch.testing.assert_close(row[start : start + len(ids)], alone, atol=1e-5, rtol=1e-5)
        start += len(ids)


def packed_loader(batch_size: int = 3, length: int = 24) -> DataLoader:
    rng = np.random.default_rng(0)
    tasks = [
        encoded(name, *((rng.integers(1, 60, rng.integers(2, 12)).tolist(), 1) for _ in range(size)))
        for name, size in (("a", 17), ("b", 9))
    ]
    lengths = np.concatenate([np.diff(task.offsets) for task in tasks])
    sampler = PackedSampler([17, 9], [1.0, 2.0], 5, lengths, 16, length)
    return DataLoader(
        PackedRows(as_dataset(tasks)), batch_size=batch_size, sampler=sampler, collate_fn=PackedCollator(0, 16)
    )


@pytest.mark.parametrize("skipped", [0, 1, 5, 7])
def test_skipped_batches_leave_the_others_as_they_are(skipped: int) -> None:
    whole = list(packed_loader())
    assert len(whole) == 8
    left = list(skip_first_batches(Accelerator(cpu=True).prepare(packed_loader()), skipped))
    assert len(left) == 8 - skipped
    for batch, expected in zip(left, whole[skipped:], strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


@given(st.lists(st.integers(0, 30), max_size=6))
def test_the_examples_in_packed_rows_are_counted(asked: list[int]) -> None:
    sampler = PackedSampler([5, 8], [1.0, 1.0], 0, np.arange(1, 14), 20, 30)
    rows = list(sampler)
    assert [sampler.examples_in(count) for count in asked] == [sum(map(len, rows[:count])) for count in asked]
