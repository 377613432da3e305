"""The inputs in the order in which sections ask for them: matrices by run and place, means over matrices and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from multilora.report.inputs import ReportInputs
from multilora.report.lineup import Lineup
from multilora.report.numbers import mean
from multilora.spectral.findings import Measure
from multilora.spectral.record import MatrixRecord

# The order of the data flow in a block, as far as names are known; others follow in theirs.
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OUTSIDE = "outside the blocks"


class PageData:
    """What sections and figures draw from.

    Args:
        inputs: of the page.

    Attributes:
        inputs: of the page.
        lineup: series and groups.
        matrices: all that were analysed.
        blocks: labels of the blocks, in order.
        projections: labels of the projections, in order.
    """

    def __init__(self, inputs: ReportInputs) -> None:
        self.inputs, self.lineup = inputs, Lineup(inputs)
        self.matrices: Sequence[MatrixRecord] = inputs.data.matrices if inputs.data else ()
        self._projections = _projection_labels(self.matrices)
        numbers = {matrix.block for matrix in self.matrices}
        self.blocks = [str(number) for number in sorted(number for number in numbers if number is not None)]
        self.blocks += [_OUTSIDE] if None in numbers else []
        found = dict.fromkeys(self._projections.values())
        self.projections = sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
        self._by_run: dict[str, dict[tuple[str, str], MatrixRecord]] = {}
        for matrix in self.matrices:
            self._by_run.setdefault(matrix.run, {})[self.place(matrix)] = matrix

    def place(self, matrix: MatrixRecord) -> tuple[str, str]:
        """Labels of the matrix's block and projection."""
        block = _OUTSIDE if matrix.block is None else str(matrix.block)
        return block, self._projections[matrix.layer]

    def of_run(self, run: str) -> Mapping[tuple[str, str], MatrixRecord]:
        """The matrices of a run by their places."""
        return self._by_run.get(run, {})

    def series(self) -> list[int]:
        """The series that were analysed."""
        return sorted({m.series for name, m in self.lineup.members.items() if name in self._by_run})

    def values(
        self, series: int, measure: Measure, block: str | None = None, projection: str | None = None
    ) -> list[float]:
        """A measure of the series' matrices, of all its averaged runs, as far as they have it."""
        records = self.records(series, projection, block)
        return [value for record in records if (value := measure.value(record)) is not None]

    def records(self, series: int, projection: str | None = None, block: str | None = None) -> list[MatrixRecord]:
        """The series' matrices, of all its averaged runs."""
        return [
            matrix
            for run in self.lineup.averaged(series)
            for place, matrix in self.of_run(run).items()
            if block in (None, place[0]) and projection in (None, place[1])
        ]

    def mean(
        self, series: int, measure: Measure, block: str | None = None, projection: str | None = None
    ) -> float | None:
        """The mean of `values`; None where there is none."""
        return mean(self.values(series, measure, block, projection))

    def means_over(self, things: str) -> str:
        """How averages over matrices came about."""
        runs = max((len(self.lineup.averaged(series)) for series in self.series()), default=0)
        return f"means over {things} and {runs} seeds" if runs > 1 else f"means over {things}, one run each"


def _projection_labels(matrices: Sequence[MatrixRecord]) -> dict[str, str]:
    """By layer: the last part of its name, or all that follows the block's number where that would name two."""
    layers = {matrix.layer: matrix for matrix in matrices}
    counts = Counter((matrix.block, matrix.projection) for matrix in layers.values())
    twice = {projection for (_, projection), count in counts.items() if count > 1}
    return {
        layer: _after_block(layer, matrix.block) if matrix.projection in twice else matrix.projection
        for layer, matrix in layers.items()
    }


def _after_block(layer: str, block: int | None) -> str:
    return layer if block is None else layer.partition(f".{block}.")[2] or layer
