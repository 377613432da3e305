"""Dots with intervals: a row for each thing measured, a dot for each method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from multilora.report.markup import plot_text

_ROW_PIXELS, _DOT_PIXELS, _MARGIN_PIXELS = 10, 12, 64


@dataclass(frozen=True)
class Dot:
    """A value.

    Attributes:
        row: number of its row.
        value: on the axis.
        says: shown on hover.
        low, high: ends of its interval; None: it has none.
    """

    row: int
    value: float
    says: str
    low: float | None = None
    high: float | None = None


def dot_traces(dots: Sequence[tuple[int, Sequence[Dot]]]) -> list[dict[str, Any]]:
    """Traces of a plot.

    Args:
        dots: number of the series (−1 and less: one without a colour) and its dots, from top to bottom in a row.
    """
    spread = 0.72 / max(len(dots), 1)
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "s": series,
            "x": [dot.value for dot in own],
            "y": [dot.row + (place - (len(dots) - 1) / 2) * spread for dot in own],
            "text": [plot_text(dot.says, 120) for dot in own],
            "hoverinfo": "text",
            **({"error_x": _bars(own)} if any(dot.low is not None for dot in own) else {}),
        }
        for place, (series, own) in enumerate(dots)
        if own
    ]


def dot_layout(
    rows: Sequence[str],
    series: int,
    title: str,
    log: bool = False,
    zero: bool = False,
    ends: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Layout of the plot.

    Args:
        rows: labels.
        series: how many dots a row has at most.
        title: of the axis, with its unit.
        log: the axis is logarithmic.
        zero: zero is marked.
        ends: of the axis; None: as the dots ask.
    """
    return {
        "height": _MARGIN_PIXELS + len(rows) * (_ROW_PIXELS + _DOT_PIXELS * series),
        "xaxis": {
            "title": {"text": title},
            "type": "log" if log else "linear",
            "zeroline": zero,
            **({"range": list(ends)} if ends else {}),
        },
        "yaxis": {
            "tickvals": list(range(len(rows))),
            "ticktext": [plot_text(row) for row in rows],
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "minor": {"tickvals": [row + 0.5 for row in range(len(rows) - 1)], "showgrid": True, "ticks": ""},
        },
    }


def share_range(dots: Iterable[Dot]) -> list[float]:
    """Ends of an axis in percent that shows all dots, and their intervals as far as shares can go."""
    ends = [end for dot in dots for end in (dot.low, dot.value, dot.high) if end is not None]
    low, high = max(0.0, min(ends)), min(100.0, max(ends))
    pad = max(1.0, 0.04 * (high - low))
    return [low - pad, high + pad]


def _bars(dots: Sequence[Dot]) -> dict[str, Any]:
    def size(dot: Dot, end: float | None, sign: int) -> float:
        return 0.0 if end is None else max(0.0, sign * (end - dot.value))

    return {
        "type": "data",
        "symmetric": False,
        "array": [size(dot, dot.high, 1) for dot in dots],
        "arrayminus": [size(dot, dot.low, -1) for dot in dots],
        "thickness": 1.5,
        "width": 3,
    }
