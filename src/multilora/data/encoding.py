"""From examples to token ids, with an exact boundary between prompt and completion.

The prompt is encoded alone, with the special tokens that the tokenizer adds at inference: training sees the ids that a
caller of `generate` sees. The completion is encoded as the continuation of a text, without special tokens, and ends in
one end-of-sequence token. No token spans the boundary, so the loss covers the completion and nothing else, and
prompt + completion decodes to the text of both (sentencepiece-like tokenizers put a space before a text that is
encoded alone; here they do not).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multilora.data.example import BadRow, Example, Split, Task
from multilora.errors import InputError

# Token ids, and whether the loss has them.
Segment = tuple[list[int], bool]

_BATCH = 1000
_NAMED = 5
# Characters put before a completion so that it is encoded as a continuation, then cut off again. Several, because a
# tokenizer may join one of them with what follows ("\n" with "\n").
_PROBES = ("\n", "|", "a", "0")


@dataclass
class TaskCounts:
    """What became of a task's rows: `rows` = `kept` + `skipped` + `dropped`; `truncated` rows are kept ones.

    `skipped_named` has the first skipped rows, by the reason why.
    """

    rows: int = 0
    kept: int = 0
    skipped: int = 0
    dropped: int = 0
    truncated: int = 0
    tokens: int = 0
    completion_tokens: int = 0
    skipped_named: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def notes(self, name: str) -> list[str]:
        """One line for each kind of row that was not used as it is."""
        lines: list[str] = []
        if self.skipped:
            lines.append(f"{name}: {self.skipped:,} of {self.rows:,} rows skipped: {self.skipped_text()}")
        if self.dropped:
            lines.append(f"{name}: {self.dropped:,} of {self.rows:,} rows dropped: longer than max_length")
        if self.truncated:
            lines.append(f"{name}: {self.truncated:,} of {self.rows:,} rows truncated to max_length")
        return lines

    def skip(self, row: BadRow) -> None:
        """Count a skipped row, and keep its name if it is among the first."""
        self.skipped += 1
        if self.skipped <= _NAMED:
            self.skipped_named.setdefault(row.why, []).append(row.source)

    def skipped_text(self) -> str:
        """The skipped rows with the reasons: all of them, or the first few and a number."""
        reasons = [f"{', '.join(sources)} ({why})" for why, sources in self.skipped_named.items()]
        return "; ".join(reasons) + (f"; and {self.skipped - _NAMED:,} more" if self.skipped > _NAMED else "")


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


class PromptCompletionEncoder:
    """A tokenizer for prompts and completions, as the module's text says.

    Raises:
        InputError: the tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise InputError(
                "model: the tokenizer has no eos token, so a completion would have no end; set `eos_token` in the "
                "model folder's tokenizer_config.json"
            )
        self.eos: int = tokenizer.eos_token_id
        self._bos: int | None = tokenizer.bos_token_id
        plain, full = self._ids(["a"])[0], self._ids(["a"], special=True)[0]
        # What the tokenizer adds at the end (some add eos) ends a text; a prompt goes on.
        self._suffix = full[_find(plain, full) + len(plain) :]
        self._prefixes_alone = plain != self._continuation("a", _PROBES[:1])

    def segments(self, examples: Sequence[Example]) -> list[list[Segment]]:
        """Each example's token ids, cut where the loss begins or ends: prompt, completion."""
        prompts = self.prompts([example.prompt for example in examples])
        completions = self.completions([example.completion for example in examples])
        return [[(prompt, False), (completion, True)] for prompt, completion in zip(prompts, completions, strict=True)]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt as inference sees it, with one bos where the tokenizer adds it."""
        return [self._as_beginning(ids) for ids in self._ids(texts, special=True)]

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each completion as a continuation, with one eos at the end."""
        encoded = self._continuations(texts) if self._prefixes_alone else self._ids(texts)
        return [ids if ids[-1:] == [self.eos] else [*ids, self.eos] for ids in encoded]

    def _ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return encoded["input_ids"]

    def _as_beginning(self, ids: list[int]) -> list[int]:
        if self._suffix and ids[-len(self._suffix) :] == self._suffix:
            ids = ids[: -len(self._suffix)]
        if self._bos is not None and ids[:2] == [self._bos, self._bos]:  # one of the tokenizer, one of the template
            ids = ids[1:]
        return ids

    def _continuations(self, texts: Sequence[str]) -> list[list[int]]:
        probe = self._ids(_PROBES[:1])[0]
        encoded = self._ids([_PROBES[0] + text for text in texts])
        return [
            ids[len(probe) :] if ids[: len(probe)] == probe else self._continuation(text, _PROBES[1:])
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _continuation(self, text: str, probes: Sequence[str]) -> list[int]:
        for probe in probes:
            head, ids = self._ids([probe, probe + text])
            if ids[: len(head)] == head:
                return ids[len(head) :]
        return self._ids([text])[0]


def encode_task(
    task: Task,
    encoder: PromptCompletionEncoder,
    max_length: int,
    on_bad_row: Literal["fail", "skip"] = "fail",
    on_long_example: Literal["drop", "truncate", "fail"] = "drop",
    split: Split = "train",
    limit: int | None = None,
) -> EncodedTask:
    """Read and encode a task's rows, a thousand at a time.

    A row is too long if prompt, completion and eos exceed `max_length` tokens. Truncation cuts its end; a row that has
    then nothing to learn from, because its prompt alone fills `max_length`, is dropped.

    Args:
        task: the task.
        encoder: made of the model's tokenizer.
        max_length: tokens of the longest row.
        on_bad_row: stop at a bad row, or skip and count it.
        on_long_example: what to do with a row that is too long.
        split: which rows.
        limit: read only the first rows, this many; None: all.

    Raises:
        InputError: a bad row or one that is too long, where the recipe says fail; no row is left.
    """
    counts = TaskCounts()
    flat, mask, lengths = array("i"), bytearray(), array("q")
    for example, segments in _encoded_rows(islice(_good_rows(task, split, on_bad_row, counts), limit), encoder):
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
        for ids, learnt in segments:
            flat.extend(ids)
            mask.extend(bytes([learnt]) * len(ids))
            counts.completion_tokens += len(ids) * learnt
        lengths.append(min(length, max_length))
    counts.kept, counts.tokens = len(lengths), len(flat)
    if not counts.kept:
        raise InputError(f"tasks.{task.name}: {_why_nothing_left(counts, max_length)}")
    return EncodedTask(
        task.name,
        np.frombuffer(flat, dtype=np.int32),
        np.concatenate(([0], np.cumsum(np.frombuffer(lengths, dtype=np.int64)))),
        np.frombuffer(mask, dtype=np.bool_),
        counts,
    )


def _encoded_rows(
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


def _good_rows(task: Task, split: Split, on_bad_row: Literal["fail", "skip"], counts: TaskCounts) -> Iterator[Example]:
    for row in task.train_rows() if split == "train" else task.eval_rows(split):
        counts.rows += 1
        if isinstance(row, Example):
            yield row
            continue
        if on_bad_row == "fail":
            raise InputError(
                f"tasks.{task.name}: {row.source}: {row.why}. Mend the row, or set tasks.{task.name}.on_bad_row to skip"
            )
        counts.skip(row)


def _why_nothing_left(counts: TaskCounts, max_length: int) -> str:
    if not counts.rows:
        return "the files have no rows"
    if counts.skipped == counts.rows:
        return f"all {counts.rows:,} rows were skipped: {counts.skipped_text()}"
    return (
        f"no row of {counts.rows:,} is left: {counts.dropped:,} are longer than training.max_length = {max_length:,}, "
        f"{counts.skipped:,} were skipped"
    )


def _find(part: list[int], whole: list[int]) -> int:
    """Where `part` begins in `whole`."""
    return next((i for i in range(len(whole)) if whole[i : i + len(part)] == part), 0)
