"""Means over seeds with intervals, and paired differences by a hierarchical bootstrap over seeds and examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Sums over units (..., k) to the metric's value (...).
Metric = Callable[[Floats], Floats]

SEEDS_FOR_P_VALUE = 5


@dataclass(frozen=True)
class MeanOverSeeds:
    """A figure over seeds.

    Attributes:
        mean: over the seeds.
        low, high: 95 % interval of the mean by Student's t; None: there is one seed.
        values: of each seed.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


def mean_over_seeds(values: Sequence[float]) -> MeanOverSeeds:
    """The mean over seeds with its 95 % interval."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return MeanOverSeeds(mean, None, None, tuple(values))
    half = float(t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return MeanOverSeeds(mean, mean - half, mean + half, tuple(values))


@dataclass(frozen=True)
class PairedTask:
    """What two methods did on the same test units with the same seeds.

    Attributes:
        first, second: (seeds, units, k) counts whose sums over units the metric takes. A unit is what is drawn
            together: an example, or all answers to a question.
        metric: its sums to the metric's value.
    """

    first: Floats
    second: Floats
    metric: Metric


@dataclass(frozen=True)
class Difference:
    """First minus second, mean over tasks and seeds.

    Attributes:
        mean: as observed.
        low, high: 95 % interval by percentiles of the bootstrap, widened for few seeds.
        p_value: two-sided, of no difference; None: fewer than five seeds, of which none can speak of seeds at large.
    """

    mean: float
    low: float
    high: float
    p_value: float | None


def paired_difference(
    tasks: Sequence[PairedTask], seed: int = 0, draws: int = 10_000, *, held: int = 2**24
) -> Difference:
    """The difference of the mean over tasks, by a hierarchical paired bootstrap.

    A draw takes seeds with replacement, the same for both methods and all tasks, and of each task units with
    replacement, the same for both methods and all seeds: what the methods share cancels, and both sources of chance,
    the training's and the test's, are in the interval.

    The percentiles of a bootstrap over a handful of seeds are too near to one another: a resample of n seeds has only
    (n - 1)/n of their variance, and that variance is itself uncertain. So distances from the mean are stretched: to the
    unbiased variance, and from the normal distribution's quantile to Student's, with the degrees of freedom of Welch
    and Satterthwaite for a variance that comes from seeds in part and from examples for the rest. With one seed, the
    interval is about the test's examples alone.

    Args:
        tasks: all with the same number of seeds.
        seed: of the bootstrap.
        draws: of the bootstrap.
        held: random numbers in memory at a time.
    """
    rng = np.random.default_rng(seed)
    seeds = tasks[0].first.shape[0]
    weights = _drawn(rng, seeds, draws) / seeds  # (draws, seeds)
    observed, drawn, of_seeds = 0.0, np.zeros(draws), np.zeros(seeds)
    for task in tasks:
        counts = np.stack([task.first, task.second])  # (2, seeds, units, k)
        first, second = task.metric(counts.sum(axis=2))  # (seeds,) each
        of_seeds += (first - second) / len(tasks)
        observed += float(np.mean(first - second)) / len(tasks)
        done = 0
        for units in _drawn_in_chunks(rng, counts.shape[2], draws, held):
            sums = np.einsum("du,msuk->dmsk", units, counts, optimize=True)
            values = task.metric(sums)  # (chunk, 2, seeds)
            part = slice(done, done + len(units))
            drawn[part] += ((values[:, 0] - values[:, 1]) * weights[part]).sum(axis=1) / len(tasks)
            done += len(units)
    spread, freedom = _spread(drawn, of_seeds)
    stretch = spread * _quantile(0.975, freedom) / _quantile(0.975, math.inf)
    low, high = (observed + stretch * (float(value) - observed) for value in np.percentile(drawn, [2.5, 97.5]))
    return Difference(observed, low, high, _p_value(drawn, spread, freedom) if seeds >= SEEDS_FOR_P_VALUE else None)


def _spread(drawn: Floats, of_seeds: Floats) -> tuple[float, float]:
    """How much wider the mean spreads than the bootstrap's draws of it, and the degrees of freedom of that estimate."""
    seeds, variance = len(of_seeds), float(drawn.var())
    if seeds < 2 or variance == 0:
        return 1.0, math.inf
    from_seeds = float(of_seeds.var(ddof=1)) / seeds
    whole = variance + from_seeds / seeds
    freedom = (seeds - 1) * (whole / from_seeds) ** 2 if from_seeds else math.inf
    return math.sqrt(whole / variance), freedom


def _p_value(drawn: Floats, spread: float, freedom: float) -> float:
    """Twice the smaller tail, its distance from the mean shrunk as intervals are stretched. Never 0, which no finite
    number of draws can show.
    """
    from scipy.stats import norm, t

    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    share = min(0.5, (tail + 1) / (len(drawn) + 1))
    return min(1.0, 2 * float(t.cdf(float(norm.ppf(share)) / spread, freedom)))


def _quantile(level: float, freedom: float) -> float:
    """Student's; with infinite freedom the normal distribution's."""
    from scipy.stats import norm, t

    return float(norm.ppf(level)) if math.isinf(freedom) else float(t.ppf(level, freedom))


def _drawn(rng: np.random.Generator, count: int, draws: int) -> Floats:
    """(draws, count) how often each of `count` things is drawn, when `count` are drawn with replacement."""
    places = rng.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def _drawn_in_chunks(rng: np.random.Generator, count: int, draws: int, held: int) -> Iterator[Floats]:
    size = max(1, held // count)
    for start in range(0, draws, size):
        yield _drawn(rng, count, min(size, draws - start))
