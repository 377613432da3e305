"""Measures by layer: a cell for each block and projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multilora.report.page_data import PageData
from multilora.spectral.findings import Measure


@dataclass(frozen=True)
class LayerGrid:
    """Means of a measure over the matrices and seeds of each place; None where there is none.

    Attributes:
        series: number of the method.
        values: (blocks, projections).
        mean: over all matrices.
    """

    series: int
    values: Sequence[Sequence[float | None]]
    mean: float

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        found = [value for row in self.values for value in row if value is not None]
        return min(found), max(found)


def layer_grids(page: PageData, measure: Measure) -> list[LayerGrid]:
    """One for each method that has the measure."""
    return [
        LayerGrid(
            series,
            [[page.mean(series, measure, block, of) for of in page.projections] for block in page.blocks],
            mean,
        )
        for series in page.series()
        if (mean := page.mean(series, measure)) is not None
    ]
