"""Tasks as token ids: rows read, encoded (`multilora.data.encoder`) and counted, with long and bad ones handled."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multilora.data.chat import ChatTemplateError
from multilora.data.counts import TaskCounts, why_nothing_left
from multilora.data.encoder import PromptCompletionEncoder, Segment
from multilora.errors import InputError
from multilora.tasks.example import BadRow, Conversation, Example, Split, Task
from multilora.tasks.rows import UnusableRowError

OnBadRow = Literal["fail", "skip"]
OnLongExample = Literal["drop", "truncate", "fail"]

_BATCH = 1000


@dataclass(frozen=True)
class RowRules:
    """What is done with the rows of several tasks that cannot be used as they are (`encoded_rows`).

    Attributes:
        max_length: tokens of the longest row.
        on_long_example: what to do with a row that is too long.
        on_bad_row: by task name, stop at a bad row, or skip and count it; a task that is not named stops.
    """

    max_length: int
    on_long_example: OnLongExample = "drop"
    on_bad_row: Mapping[str, OnBadRow] = field(default_factory=dict[str, OnBadRow])


@dataclass(frozen=True)
class EncodedTask:
    """A task's examples as token ids, end to end in one array.

    Attributes:
        name: the task's name.
        input_ids: (tokens,) int32, prompt and completion of all rows.
        offsets: (rows + 1,) int64: row i is input_ids[offsets[i]:offsets[i + 1]].
        loss_mask: (tokens,) bool: the tokens that the loss has, those of completions.
        counts: what became of the rows.
    """

    name: str
    input_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    counts: TaskCounts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) tokens of each row."""
        return np.diff(self.offsets)

    def fingerprint(self) -> str:
        """Hash of the ids and boundaries: equal if and only if training sees the same rows."""
        digest = hashlib.sha256()
        for part in (self.input_ids, self.offsets, self.loss_mask):
            digest.update(part.tobytes())
        return digest.hexdigest()[:16]


def encode_task(
    task: Task,
    encoder: PromptCompletionEncoder,
    max_length: int,
    on_bad_row: OnBadRow = "fail",
    on_long_example: OnLongExample = "drop",
    split: Split = "train",
    limit: int | None = None,
) -> EncodedTask:
    """Read and encode a task's rows, a thousand at a time. What is too long, and the arguments: as `encoded_rows`.

    Raises:
        InputError: a bad row or one that is too long, where the recipe says fail; no row is left.
    """
    counts = TaskCounts()
    flat, mask, lengths = array("i"), bytearray(), array("q")
    for segments in encoded_rows(task, encoder, max_length, counts, on_bad_row, on_long_example, split, limit):
        for ids, learnt in segments:
            flat.extend(ids)
            mask.extend(bytes([learnt]) * len(ids))
        lengths.append(sum(len(ids) for ids, _ in segments))
    if not counts.kept:
        raise InputError(f"tasks.{task.name}: {why_nothing_left(counts, max_length)}")
    return EncodedTask(
        task.name,
        np.frombuffer(flat, dtype=np.int32),
        np.concatenate(([0], np.cumsum(np.frombuffer(lengths, dtype=np.int64)))),
        np.frombuffer(mask, dtype=np.bool_),
        counts,
    )


def encode_tasks(
    tasks: Sequence[Task],
    encoder: PromptCompletionEncoder,
    rules: RowRules,
    split: Split = "train",
    limit: int | None = None,
) -> list[EncodedTask]:
    """Read and encode the rows of several tasks, task after task; arguments and errors as `encode_task`."""
    return [
        encode_task(
            task,
            encoder,
            rules.max_length,
            rules.on_bad_row.get(task.name, "fail"),
            rules.on_long_example,
            split,
            limit,
        )
        for task in tasks
    ]


def encoded_rows(
    task: Task,
    encoder: PromptCompletionEncoder,
    max_length: int,
    counts: TaskCounts,
    on_bad_row: OnBadRow = "fail",
    on_long_example: OnLongExample = "drop",
    split: Split = "train",
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[list[Segment]]:
    """A task's rows as token ids, read and encoded as they are asked for, a thousand at a time.

    A row is too long if prompt, completion and eos exceed `max_length` tokens. Truncation cuts its end; a row that has
    then nothing to learn from, because its prompt alone fills `max_length`, is dropped.

    Args:
        task: the task.
        encoder: made of the model's tokenizer.
        max_length: tokens of the longest row.
        counts: updated with the number of rows kept, skipped, dropped and truncated.
        on_bad_row: stop at a bad row, or skip and count it.
        on_long_example: what to do with a row that is too long.
        split: which rows.
        limit: read only this many rows, from the first; None for all.
        shard: (index, count): of all rows, bad ones too, only those numbered index, index + count, … are looked at.

    Raises:
        InputError: a bad row or one that is too long, where the recipe says fail.
    """
    rows = islice(_good_rows(task, encoder, split, on_bad_row, counts, shard), limit)
    for example, segments in _with_segments(rows, encoder):
        length = sum(len(ids) for ids, _ in segments)
        if length > max_length:
            if on_long_example == "fail":
                raise InputError(
                    f"tasks.{task.name}: {example.source} has {length:,} tokens, more than training.max_length = "
                    f"{max_length:,}; raise max_length, or set training.on_long_example to drop or truncate"
                )
            segments = _cut(segments, max_length)  # noqa: PLW2901
            if on_long_example == "drop" or not any(learnt for _, learnt in segments):
                counts.dropped += 1
                continue
            counts.truncated += 1
        counts.kept += 1
        counts.tokens += min(length, max_length)
        counts.completion_tokens += sum(len(ids) for ids, learnt in segments if learnt)
        yield segments


def _with_segments(
    examples: Iterator[Example], encoder: PromptCompletionEncoder
) -> Iterator[tuple[Example, list[Segment]]]:
    while batch := list(islice(examples, _BATCH)):
        yield from zip(batch, encoder.segments(batch), strict=True)


def _cut(segments: Sequence[Segment], length: int) -> list[Segment]:
    """The first `length` tokens of the segments; empty ones are left out."""
    kept: list[Segment] = []
    for ids, learnt in segments:
        if part := ids[:length]:
            kept.append((part, learnt))
        length -= len(part)
    return kept


def _good_rows(
    task: Task,
    encoder: PromptCompletionEncoder,
    split: Split,
    on_bad_row: OnBadRow,
    counts: TaskCounts,
    shard: tuple[int, int],
) -> Iterator[Example]:
    index, count = shard
    for row in islice(task.train_rows() if split == "train" else task.eval_rows(split), index, None, count):
        counts.rows += 1
        found = _rendered(task, encoder, row) if isinstance(row, Conversation) else row
        if isinstance(found, Example):
            yield found
            continue
        if on_bad_row == "fail":
            raise InputError(
                f"tasks.{task.name}: {found.source}: {found.why}. Mend the row, or set tasks.{task.name}.on_bad_row to "
                "skip"
            )
        counts.skip(found)


def _rendered(task: Task, encoder: PromptCompletionEncoder, row: Conversation) -> Example | BadRow:
    """Only the tokenizer's template shows whether a conversation can be rendered."""
    try:
        return encoder.rendered(row)
    except UnusableRowError as error:
        return BadRow(row.source, str(error))
    except ChatTemplateError as error:
        raise InputError(f"tasks.{task.name}.chat_template: {row.source}: {error}") from error
