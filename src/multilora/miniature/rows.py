"""What a generated task is made of: rows, and the split that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from multilora.miniature.draws import Draws, number_of
from multilora.tasks.example import Split

T = TypeVar("T")
SPLITS: Sequence[Split] = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One generated row.

    Attributes:
        prompt, completion: the model's input and its target, which begins with a space.
        answer: what is right, in short: the words, the choice, or the final number.
        choices: each may stand in the completion's place; empty: free text.
    """

    prompt: str
    completion: str
    answer: str
    choices: tuple[str, ...] = ()


def split_of(seed: int, *content: str | int) -> Split:
    """The split of a combination: 70 of 100 are for training, 10 for validation, 20 for the test."""
    place = number_of(seed, "split", *content) % 100
    return "train" if place < 70 else "validation" if place < 80 else "test"


def divided(seed: int, name: str, items: Sequence[T], validation: int, test: int) -> dict[Split, list[T]]:
    """Items dealt out to the splits: so many for validation and the test, the others for training."""
    order = Draws(seed, "divided", name).shuffled(items)
    return {
        "validation": order[:validation],
        "test": order[validation : validation + test],
        "train": order[validation + test :],
    }
