"""Packing: whole examples into rows of fixed length. A pure function of the examples' order and lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

LOOKAHEAD = 64


def packed_rows(
    examples: Iterable[int],
    lengths: NDArray[np.int64] | Mapping[int, int],
    row_length: int,
    lookahead: int = LOOKAHEAD,
) -> Iterator[tuple[int, ...]]:
    """Pack examples into rows of at most `row_length` tokens, as they come.

    The next `lookahead` examples of the order wait in a buffer. A row takes the one that has waited longest and, of the
    others, those that fill it best; where several choices fill it equally, the one that reaches least far ahead. So
    each example comes once, none waits for more than `lookahead` rows, and a row's examples are never more than
    `lookahead` places ahead of the oldest that waits: the mixture's shares are kept but for the buffer.

    Args:
        examples: numbers of the examples in the mixture's order; may be endless, and is read only as far as needed.
        lengths: tokens of each example by its number, in 1 … row_length.
        row_length: tokens of a row.
        lookahead: examples in the buffer, at least 1.

    Yields:
        the numbers of a row's examples, in the mixture's order.
    """
    source = iter(examples)
    waiting = list(islice(source, lookahead))
    while waiting:
        oldest, *others = waiting
        sizes = [int(lengths[example]) for example in others]
        chosen = set(_best_fill(sizes, row_length - int(lengths[oldest])))
        yield (oldest, *(example for place, example in enumerate(others) if place in chosen))
        waiting = [example for place, example in enumerate(others) if place not in chosen]
        waiting += islice(source, lookahead - len(waiting))


def _best_fill(sizes: Sequence[int], room: int) -> Iterator[int]:
    """Places of the sizes whose sum is largest but at most `room`, by dynamic programming over sums.

    The sums that are possible are the bits of an integer, so a step is a shift.
    """
    mask = (1 << (room + 1)) - 1
    possible = [1]  # possible[i]: the sums of choices among the first i sizes
    for size in sizes:
        if possible[-1] >> room:  # full
            break
        possible.append(possible[-1] | (possible[-1] << size & mask))
    total = possible[-1].bit_length() - 1
    for place in range(len(possible) - 2, -1, -1):
        if not possible[place] >> total & 1:
            yield place
            total -= sizes[place]
