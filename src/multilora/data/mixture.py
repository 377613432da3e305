"""The order of a mixture: which row comes when. A pure function of (sizes, rates, seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# What a permutation is for; first part of its key, so that no two uses share random numbers.
_ROWS_OF_TASK, _ORDER_OF_EPOCH = 0, 1


def mixture_quotas(rates: Sequence[float], length: int) -> list[int]:
    """How many rows of an epoch each task gives: shares of `length` by largest remainder, so they sum to it exactly.

    Of equal remainders the earlier task's comes first. Every task gives within one row of its exact share.

    Args:
        rates: sampling shares, positive; they need not sum to 1.
        length: rows in an epoch.
    """
    exact = [Fraction(rate) for rate in rates]  # of floats, without rounding: quotas must not depend on summation
    total = sum(exact)
    shares = [rate * length / total for rate in exact]
    quotas = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (quotas[i] - shares[i], i))
    for i in by_remainder[: length - sum(quotas)]:
        quotas[i] += 1
    return quotas


def mixture_order(
    sizes: Sequence[int], rates: Sequence[float], seed: int, epoch: int, length: int | None = None
) -> NDArray[np.int64]:
    """The rows of one epoch, in the order in which training sees them.

    Each task gives its quota (`mixture_quotas`). Its rows are drawn without repeats until all have been seen, across
    epochs too: epoch e begins where epoch e − 1 stopped, and every pass over the task has an order of its own.

    Args:
        sizes: rows of each task, at least 1.
        rates: sampling shares, positive; they need not sum to 1.
        seed: not negative.
        epoch: not negative.
        length: rows in an epoch; None: sum(sizes).

    Returns:
        (length,) row numbers, where task i has the rows sum(sizes[:i]) … sum(sizes[:i + 1]) − 1.

    Raises:
        ValueError: an argument out of range.
    """
    _check(sizes, rates, seed, epoch, length)
    quotas = mixture_quotas(rates, sum(sizes) if length is None else length)
    first_row, parts = 0, list[NDArray[np.int64]]()
    for task, (size, quota) in enumerate(zip(sizes, quotas, strict=True)):
        parts.append(first_row + _task_rows(task, size, seed, start=epoch * quota, count=quota))
        first_row += size
    rows = np.concatenate(parts)
    return rows[_permutation(len(rows), seed, _ORDER_OF_EPOCH, epoch)]


def _task_rows(task: int, size: int, seed: int, start: int, count: int) -> NDArray[np.int64]:
    """Positions start … start + count − 1 of the task's endless sequence of passes."""
    parts = [np.empty(0, dtype=np.int64)]
    while count > 0:
        number, offset = divmod(start, size)
        part = _permutation(size, seed, _ROWS_OF_TASK, task, number)[offset : offset + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return np.concatenate(parts)


def _permutation(size: int, seed: int, *key: int) -> NDArray[np.int64]:
    """A random permutation of 0 … size − 1 for this seed and key.

    Sorts raw draws instead of calling `Generator.permutation`: NumPy promises that the former stay the same in every
    version, and not the latter.
    """
    draws = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(size)
    return np.argsort(draws, kind="stable").astype(np.int64, copy=False)


def _check(sizes: Sequence[int], rates: Sequence[float], seed: int, epoch: int, length: int | None) -> None:
    if not sizes or len(sizes) != len(rates):
        raise ValueError(f"as many rates as sizes, at least one; got sizes {list(sizes)} and rates {list(rates)}")
    if min(sizes) < 1:
        raise ValueError(f"sizes must be at least 1; got {list(sizes)}")
    if not all(0 < rate < float("inf") for rate in rates):
        raise ValueError(f"rates must be positive and finite; got {list(rates)}")
    if seed < 0 or epoch < 0 or (length is not None and length < 1):
        raise ValueError(f"seed and epoch must be at least 0 and length at least 1; got {seed}, {epoch}, {length}")
