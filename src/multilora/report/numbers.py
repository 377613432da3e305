"""Numbers as a reader takes them, and lists of them as a plot does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from multilora.spectral.findings import Measure

NONE = "–"
_PLOT_DIGITS = 4


def short(value: float | None, digits: int = 3) -> str:
    """Three digits that count, without an exponent where that stays readable."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def percent(value: float | None, decimals: int = 1) -> str:
    """A share as a percentage, without the sign."""
    return NONE if value is None else f"{100 * value:.{decimals}f}"


def written(measure: Measure, value: float | None) -> str:
    """A measure's value in its format, without the unit."""
    return percent(value) if measure.format == "share" else short(value)


def with_unit(measure: Measure, value: float | None) -> str:
    """A measure's value in its format, with the unit."""
    return f"{written(measure, value)} {measure.unit}".strip()


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return NONE if value is None else f"{100 * value:+.1f}"


def whole(value: float | None) -> str:
    """A count."""
    return NONE if value is None else f"{value:,.0f}"


def mean(values: Iterable[float]) -> float | None:
    """None if no number is given."""
    found = list(values)
    return fmean(found) if found else None


def rounded(value: Any) -> Any:
    """The same data with as many digits as a plot shows; what is not finite is None."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in cast(dict[str, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in cast(Sequence[Any], value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        digits = float(f"{value:.{_PLOT_DIGITS}g}")
        return int(digits) if digits.is_integer() and abs(digits) < 1e15 else digits
    return value


def array_of(values: Sequence[float | None] | Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """A record's values as an array; NaN for None."""
    return np.array(values, dtype=np.float64)


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """1 seed, 2 seeds."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
