"""Grids of numbers as coloured cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multilora.report.markup import plot_text

_CELLS_WITH_NUMBERS = 10  # rows; with more there is no room for them


def heat_trace(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    top: float = 1.0,
    digits: int = 2,
) -> dict[str, Any]:
    """The trace of a grid whose colours go from 0 to `top`.

    Args:
        rows, columns: their labels.
        values: of the cells; None for an empty cell.
        top: the value of the last colour.
        digits: behind the point, of the numbers in the cells where there is room for them.
    """
    numbers = {"texttemplate": f"%{{z:.{digits}f}}"} if len(rows) <= _CELLS_WITH_NUMBERS else {}
    return {
        "type": "heatmap",
        "x": [plot_text(column) for column in columns],
        "y": [plot_text(row) for row in rows],
        "z": [list(row) for row in values],
        "zmin": 0,
        "zmax": top,
        "colorscale": "Cividis",
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
        **numbers,
    }


def heat_layout(rows: int, y_title: str, x_title: str, pixels: int = 26) -> dict[str, Any]:
    """The layout of a grid.

    Args:
        rows: how many.
        y_title, x_title: of the axes.
        pixels: height of a row.
    """
    return {
        "height": 90 + rows * (pixels if rows <= _CELLS_WITH_NUMBERS else 12),
        "xaxis": {"title": {"text": x_title}, "type": "category", "showgrid": False, "fixedrange": True},
        "yaxis": {
            "title": {"text": y_title},
            "type": "category",
            "autorange": "reversed",
            "showgrid": False,
            "fixedrange": True,
        },
    }
