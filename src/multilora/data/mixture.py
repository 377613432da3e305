"""The order of a mixture: which row comes when. A pure function of (sizes, rates, seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# What a permutation is for; first part of its key, so that no two uses share random numbers. streaming.py has 2 and 3.
_ROWS_OF_TASK, _ORDER_OF_EPOCH = 0, 1


RateRule = Literal["explicit", "proportional", "equal", "temperature"]
CountedBy = Literal["examples", "tokens"]


def rates_of(
    sizes: Sequence[int],
    tokens: Sequence[int],
    rule: RateRule = "explicit",
    explicit: Sequence[float] | None = None,
    temperature: float = 1.0,
    examples_cap: int | None = None,
    counted_by: CountedBy = "examples",
) -> list[float]:
    """The tasks' sampling rates per example, as `mixture_order` takes them.

    The rule gives each task's share p of the training: p ∝ n (proportional), n^(1/temperature) (temperature), 1
    (equal) or the given rates (explicit). n is the number of the task's examples, or of its tokens; at most
    `examples_cap`, as in T5 (arXiv 1910.10683, section 3.5.2). Counted by tokens, shares are shares of the tokens that
    training sees, so a task's rate per example is its share over the mean length of its examples.

    Args:
        sizes: examples of each task, at least 1.
        tokens: tokens of each task, prompts and completions, at least 1.
        rule: how shares come about.
        explicit: positive shares, for the rule explicit; equal if None.
        temperature: at least 1; 1 is proportional, a large one nearly equal.
        examples_cap: the largest n that counts (in tokens, if counted by tokens); None for no limit.
        counted_by: what shares and n are measured in.

    Raises:
        ValueError: an argument out of range.
    """
    if len(sizes) != len(tokens) or (explicit is not None and len(explicit) != len(sizes)):
        raise ValueError(f"as many tokens and explicit rates as sizes; got {len(tokens)}, {explicit}, {len(sizes)}")
    if temperature < 1 or (examples_cap is not None and examples_cap < 1):
        raise ValueError(f"temperature and examples_cap must be at least 1; got {temperature}, {examples_cap}")
    counts = [
        n if examples_cap is None else min(n, examples_cap) for n in (tokens if counted_by == "tokens" else sizes)
    ]
    match rule:
        case "explicit":
            shares = [1.0] * len(sizes) if explicit is None else list(explicit)
        case "equal":
            shares = [1.0] * len(sizes)
        case "proportional":
            shares = [float(n) for n in counts]
        case "temperature":
            shares = [n ** (1 / temperature) for n in counts]
    if counted_by == "examples":
        return shares
    return [share * size / length for share, size, length in zip(shares, sizes, tokens, strict=True)]


def mixture_quotas(rates: Sequence[float], length: int) -> Iterator[list[int]]:
    """How many rows each task gives to each epoch, epoch after epoch, without end.

    An epoch's quotas sum to `length` exactly: shares by largest remainder (of equal remainders the earlier task's comes
    first). What rounding gave or took is carried into the next epoch, so after any number of epochs every task is
    within one row of its exact share, or within the number of tasks where shares are less than one row.

    Args:
        rates: sampling shares, positive; they need not sum to 1.
        length: rows in an epoch.
    """
    exact = [Fraction(rate) for rate in rates]  # of floats, without rounding: quotas must not depend on summation
    total = sum(exact)
    shares = [rate * length / total for rate in exact]
    carried = [Fraction(0)] * len(shares)
    while True:
        wanted = [share + carry for share, carry in zip(shares, carried, strict=True)]
        quotas = [max(int(amount), 0) for amount in wanted]
        while (missing := length - sum(quotas)) != 0:
            step = 1 if missing > 0 else -1
            by_need = sorted(range(len(wanted)), key=lambda i: (step * (quotas[i] - wanted[i]), i))
            for i in [i for i in by_need if quotas[i] + step >= 0][: abs(missing)]:
                quotas[i] += step
        carried = [amount - quota for amount, quota in zip(wanted, quotas, strict=True)]
        yield quotas


def mixture_order(
    sizes: Sequence[int], rates: Sequence[float], seed: int, epoch: int, length: int | None = None
) -> NDArray[np.int64]:
    """The rows of one epoch, in the order in which training sees them.

    Each task gives its quota (`mixture_quotas`). Its rows are drawn without repeats until all have been seen, across
    epochs too: epoch e begins where epoch e − 1 stopped, and every pass over the task has a different order.

    Args:
        sizes: rows of each task, at least 1.
        rates: sampling shares, positive; they need not sum to 1.
        seed: not negative.
        epoch: not negative.
        length: rows in an epoch; sum(sizes) if None.

    Returns:
        (length,) row numbers, where task i has the rows sum(sizes[:i]) … sum(sizes[:i + 1]) − 1.

    Raises:
        ValueError: an argument out of range.
    """
    _check(sizes, rates, seed, epoch, length)
    return next(islice(_epochs(sizes, rates, seed, length), epoch, None))()


def mixture_stream(sizes: Sequence[int], rates: Sequence[float], seed: int) -> Iterator[int]:
    """The epochs of `mixture_order` end to end, without end; an epoch is made when its first row is asked for."""
    _check(sizes, rates, seed, 0, None)
    for order in _epochs(sizes, rates, seed, None):
        yield from order().tolist()


def _epochs(
    sizes: Sequence[int], rates: Sequence[float], seed: int, length: int | None
) -> Iterator[Callable[[], NDArray[np.int64]]]:
    """The epochs one after the other, each as a function that makes its order."""
    starts = [0] * len(sizes)
    for epoch, quotas in enumerate(mixture_quotas(rates, sum(sizes) if length is None else length)):
        yield partial(_order, list(sizes), quotas, tuple(starts), seed, epoch)
        starts = [start + quota for start, quota in zip(starts, quotas, strict=True)]


def _order(
    sizes: Sequence[int], quotas: Sequence[int], starts: Sequence[int], seed: int, epoch: int
) -> NDArray[np.int64]:
    """An epoch's rows; each task continues at its place in `starts`."""
    first_row, parts = 0, list[NDArray[np.int64]]()
    for task, (size, quota, start) in enumerate(zip(sizes, quotas, starts, strict=True)):
        parts.append(first_row + _task_rows(task, size, seed, start, quota))
        first_row += size
    # What is shuffled is whose turn it is; each task's rows keep their order, or passes would overlap.
    turns = np.repeat(np.arange(len(sizes)), quotas)
    turns = turns[permutation(len(turns), seed, _ORDER_OF_EPOCH, epoch)]
    rows = np.empty(len(turns), dtype=np.int64)
    for task, part in enumerate(parts):
        rows[turns == task] = part
    return rows


def _task_rows(task: int, size: int, seed: int, start: int, count: int) -> NDArray[np.int64]:
    """Positions start … start + count − 1 of the task's endless sequence of passes."""
    parts = [np.empty(0, dtype=np.int64)]
    while count > 0:
        number, offset = divmod(start, size)
        part = permutation(size, seed, _ROWS_OF_TASK, task, number)[offset : offset + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return np.concatenate(parts)


def permutation(size: int, seed: int, *key: int) -> NDArray[np.int64]:
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
