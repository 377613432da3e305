"""What a task yields: one `Example` per row, or a `BadRow` that says where and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task: the model's input and its target.

    Attributes:
        prompt: the model's input.
        completion: the target; never blank.
        source: where the row stands, such as `train.jsonl line 3`, for messages.
    """

    prompt: str
    completion: str
    source: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that makes no example. Whether the run stops or skips the row is the reader's choice (`on_bad_row`)."""

    source: str
    why: str


class Task(Protocol):
    """A data set with its prompts. Training reads it through this alone, whatever its files look like."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Find what is wrong before any row is read, such as a missing file.

        Raises:
            InputError: one message with every fault.
        """
        ...

    def train_rows(self) -> Iterator[Example | BadRow]:
        """The training rows in the order of the files, one at a time, the same ones at every call.

        Raises:
            InputError: what no row can be blamed for, such as a field of the template that no row has.
        """
        ...
