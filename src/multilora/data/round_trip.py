"""Check that a tokenizer restores texts. A model can neither read nor write text that it loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from multilora.data.encoder import PromptCompletionEncoder
from multilora.tasks.example import Conversation, Example, Task
from multilora.tasks.rows import UnusableRowError

_ROUND_TRIPS = 2000


@dataclass(frozen=True)
class RoundTrip:
    """Whether a tokenizer restores texts: decode(encode(text)) = text, but for the special tokens that it adds.

    Attributes:
        rows: that were tried, spread evenly over the task's rows.
        differing: those that came back as another text.
        lost: characters of these that did not come back, the most frequent first.
    """

    rows: int
    differing: int
    lost: str

    @property
    def share(self) -> float:
        """Share of the rows whose decoded text differs."""
        return self.differing / self.rows if self.rows else 0.0


def round_trip(task: Task, rows: int, encoder: PromptCompletionEncoder, tokenizer: Any) -> RoundTrip:
    """Encode and decode a task's training rows, up to 2,000 of them, enough to distinguish 1 % from 0 %.

    Args:
        task: the task.
        rows: how many rows it has, bad ones too; of a stream, how many to look at.
        encoder: made of the tokenizer.
        tokenizer: the tokenizer.
    """
    tried, differing, lost = 0, 0, dict[str, int]()
    chosen = set(spread(rows, _ROUND_TRIPS))
    read = islice(task.train_rows(), rows)
    examples = (row for i, row in enumerate(read) if i in chosen and isinstance(row, Example))
    for text, ids in _encoded(examples, encoder):
        tried += 1
        back = _back(ids, tokenizer)
        # A template may spell bos and eos out; the encoder does not double them.
        if back not in (text, text.removeprefix(tokenizer.bos_token or "").removesuffix(tokenizer.eos_token)):
            differing += 1
            for character in set(text) - set(back):
                lost[character] = lost.get(character, 0) + 1
    most = sorted(lost, key=lambda character: (-lost[character], character))
    return RoundTrip(tried, differing, "".join(most))


def _encoded(examples: Iterator[Example], encoder: PromptCompletionEncoder) -> Iterator[tuple[str, list[int]]]:
    """Texts with their ids. A conversation that the chat template refuses is a bad row, which is counted elsewhere."""
    rendered = (row for example in examples if (row := _rendered(example, encoder)) is not None)
    while batch := list(islice(rendered, 500)):
        for example, segments in zip(batch, encoder.segments(batch), strict=True):
            yield _text(example), [token for ids, _ in segments for token in ids]


def _rendered(example: Example, encoder: PromptCompletionEncoder) -> Example | None:
    if not isinstance(example, Conversation):
        return example
    try:
        return encoder.rendered(example)
    except UnusableRowError:
        return None


def _text(example: Example) -> str:
    if isinstance(example, Conversation):
        return "".join(text for text, _ in example.pieces)
    return example.prompt + example.completion


def _back(ids: Sequence[int], tokenizer: Any) -> str:
    """The text of the ids without what the tokenizer added at the ends."""
    first = 1 if ids[0] == tokenizer.bos_token_id else 0
    last = len(ids) - (ids[-1] == tokenizer.eos_token_id)
    return decoded(tokenizer, list(ids[first:last]))


def decoded(tokenizer: Any, ids: list[int]) -> str:
    """The text of the ids, special tokens too."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def spread(size: int, count: int) -> list[int]:
    """Up to `count` numbers below `size`, evenly spread."""
    count = min(size, count)
    return [i * size // count for i in range(count)]
