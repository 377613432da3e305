"""The rules by which numbers become a verdict: over matrices and seeds, and of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from multilora.comparison.record import AVERAGE, RegimeResults
from multilora.comparison.statistics import mean_over_seeds
from multilora.report.numbers import counted, listed
from multilora.report.pairing import Values

Verdict = Literal["held", "not held", "not measured"]
Outcome = tuple[Verdict, str]

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Claim:
    """A claim and its verdict for these runs.

    Attributes:
        id: unique among the claims.
        text: the claim, and when it counts as held.
        source: who makes it.
        verdict: held, not held, or not measured.
        evidence: the numbers behind the verdict; where it is not measured, what is missing.
    """

    id: str
    text: str
    source: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Tally:
    """How many matrices agree with a claim.

    Attributes:
        means: of the values over all matrices of all trainings.
        mean_agrees: these means agree.
        agreeing, matrices: how many matrices agree, of all trainings, and how many there are.
        seeds_agreeing, seeds: in how many trainings more than half of the matrices agree, and how many there are.
    """

    means: Values
    mean_agrees: bool
    agreeing: int
    matrices: int
    seeds_agreeing: int
    seeds: int

    @property
    def verdict(self) -> Verdict:
        """Held: the means agree, and so do most matrices, of most trainings."""
        return "held" if self.mean_agrees and 2 * self.seeds_agreeing > self.seeds else "not held"

    def where(self) -> str:
        """In how many matrices, of how many seeds."""
        matrices = counted(self.matrices, "matrix", "matrices")
        return f"in {self.agreeing:,} of {matrices}{self._split()}, {counted(self.seeds, 'seed')}"

    def agree(self) -> str:
        """How many matrices agree."""
        return f"{self.agreeing:,} of {counted(self.matrices, 'matrix agrees', 'matrices agree')}{self._split()}"

    def _split(self) -> str:
        split = 0 < self.seeds_agreeing < self.seeds
        return f" (most of them in {self.seeds_agreeing:,} of {self.seeds:,} seeds)" if split else ""


def tally(seeds: Sequence[Sequence[Values]], agrees: Callable[..., bool]) -> Tally | None:
    """Count; None: no matrix has the values.

    Args:
        seeds: of each training, of each matrix the values.
        agrees: do these values agree with the claim?
    """
    counts = [(sum(agrees(*values) for values in matrices), len(matrices)) for matrices in seeds if matrices]
    if not counts:
        return None
    means = tuple(fmean(column) for column in zip(*(values for matrices in seeds for values in matrices), strict=True))
    return Tally(
        means,
        agrees(*means),
        sum(agreeing for agreeing, _ in counts),
        sum(count for _, count in counts),
        sum(2 * agreeing > count for agreeing, count in counts),
        len(counts),
    )


@dataclass(frozen=True)
class Gap:
    """The difference of two methods' averages over tasks, paired by seed, as a share.

    Attributes:
        mean: over the seeds.
        low, high: 95 % interval; None: one seed, and the comparison has no interval.
        seeds: how many.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def words(self) -> str:
        """In percentage points, with its interval."""
        if self.low is None or self.high is None:
            return f"{signed_points(self.mean)} points, 1 seed and so no interval"
        alone = ", which is about the test's examples alone" if self.seeds == 1 else ""
        return (
            f"{signed_points(self.mean)} points, 95 % interval {signed_points(self.low)} to "
            f"{signed_points(self.high)}, {counted(self.seeds, 'seed')}{alone}"
        )


def gap(regime: RegimeResults, method: str, other: str) -> Gap | str:
    """The difference of two methods in a comparison; or why there is none.

    Its own paired difference where it has one, which is about seeds and examples; else, of the seeds' averages, the
    mean difference with Student's interval.

    Args:
        regime: of the comparison.
        method, other: names; the difference is that of `method` minus that of `other`.
    """
    for entry in regime.differences:
        if (entry.method, entry.minus) in ((method, other), (other, method)):
            found, sign = entry.tasks[AVERAGE], 1 if entry.method == method else -1
            low, high = sorted((sign * found.low, sign * found.high))
            return Gap(sign * found.mean, low, high, entry.seeds)
    averages = [regime.scores.get(name, {}).get(AVERAGE) for name in (method, other)]
    values = [average.values if average else () for average in averages]
    if empty := [name for name, of in zip((method, other), values, strict=True) if not of]:
        return f"{listed(empty)} {'has' if len(empty) == 1 else 'have'} no scores"
    if len(values[0]) != len(values[1]):
        return f"{method} and {other} have {len(values[0])} and {len(values[1])} seeds, which do not pair"
    found = mean_over_seeds([one - two for one, two in zip(*values, strict=True)])
    return Gap(found.mean, found.low, found.high, len(found.values))


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Combines the outcomes of several comparisons: a claim holds if it holds in all that measure it."""
    if not outcomes:
        return "not measured", "no results of a comparison"
    measured = [(number, outcome) for number, outcome in enumerate(outcomes, 1) if outcome[0] != "not measured"]
    if not measured:
        return "not measured", "; ".join(dict.fromkeys(evidence for _, evidence in outcomes))
    verdict = "held" if all(verdict == "held" for _, (verdict, _) in measured) else "not held"
    several = len(outcomes) > 1
    return verdict, "; ".join(
        f"comparison {number:,}: {evidence}" if several else evidence for number, (_, evidence) in measured
    )


def against(parts: Sequence[str]) -> str:
    """a against b; a, b and c."""
    return " against ".join(parts) if len(parts) == 2 else listed(parts)


def signed_points(value: float) -> str:
    """A share in percentage points with its sign; zero has none."""
    text = f"{abs(100 * value):,.1f}"
    sign = "+" if value > 0 else MINUS
    return text if text == "0.0" else f"{sign}{text}"


def ratio(value: float | None, other: float | None) -> float | None:
    """None where one is missing or the other is zero."""
    return value / other if value is not None and other else None
