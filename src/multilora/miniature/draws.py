"""Random choices that are the same on every Python: everything is made of `random.Random.random()`, which Python
promises to keep (its `choice`, `sample` and `shuffle` may change)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


def number_of(*key: str | int) -> int:
    """A number below 2**64 that depends on the key alone."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


class Draws:
    """A stream of random choices; streams of different keys have nothing to do with one another.

    Args:
        key: a seed and what the stream is for.
    """

    def __init__(self, *key: str | int) -> None:
        self._random = random.Random(number_of(*key)).random

    def below(self, count: int) -> int:
        """0 … count − 1. One draw."""
        return int(self._random() * count)

    def between(self, low: int, high: int) -> int:
        """low … high, both included. One draw."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items. One draw."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order (the beginning of a Fisher–Yates shuffle). `count` draws."""
        pool = list(items)
        for i in range(count):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order. As many draws as there are items."""
        return self.sample(items, len(items))
