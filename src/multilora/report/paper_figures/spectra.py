"""Spectra: curves, histograms, and where the energy lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from multilora.report.page_data import PageData
from multilora.report.paper_figures.style import (
    GREY,
    above,
    averaged,
    block_names,
    colour_bar,
    cut,
    decades,
    grid_of,
    heat,
    is_wide,
    label,
    label_lowest,
    legend,
    line,
    seeds,
    ticks,
)
from multilora.report.series.layers import layer_grids
from multilora.report.series.spectra import bin_edges, mean_curve, mean_histogram, percentages
from multilora.spectral.findings import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def spectra_curves(page: PageData, width: float) -> Figure | None:
    """σ_i over i on a logarithmic scale, for each projection: the geometric mean over blocks and seeds."""
    if not page.projections:
        return None
    columns = 4 if is_wide(width) else 2
    figure, panels = grid_of(width, len(page.projections), columns, 1.35, sharey=True)
    for projection, axes in zip(page.projections, panels, strict=True):
        axes.set_yscale("log")
        if _is_long(page):
            axes.set_xscale("log")
        for series in page.series():
            index, sigma = mean_curve(page.records(series, projection))
            if len(index):
                axes.plot(index + 1, sigma, **line(series), markevery=0.14)
        if _is_long(page):
            decades(axes, "x")
        axes.set_title(cut(projection, 22))
    decades(panels[0])
    label_lowest(panels, columns, "index i")
    figure.supylabel("singular value σᵢ of ΔW", size="medium")
    legend(figure, page, page.series(), width)
    above(figure, f"Singular values of ΔW, geometric mean over {averaged(page)}")
    return figure


def _is_long(page: PageData) -> bool:
    """Some spectra are so much longer than others that a linear index would hide those."""
    ranks = [rank for record in page.matrices if (rank := record.spectrum.rank)]
    return bool(ranks) and max(ranks) > 8 * min(ranks)


def spectra_histograms(page: PageData, width: float) -> Figure | None:
    """Shares of σ > 0 by tenths of decades, for each projection, over blocks and seeds; and the mean count of zeros."""
    if not page.projections:
        return None
    columns = 4 if is_wide(width) else 2
    figure, panels = grid_of(width, len(page.projections), columns, 1.35, sharex=True)
    for projection, axes in zip(page.projections, panels, strict=True):
        axes.set_xscale("log")
        zeros: list[tuple[int, float]] = []
        for series in page.series():
            if not (found := page.records(series, projection)):
                continue
            zeros.append((series, sum(record.histogram.zeros for record in found) / len(found)))
            first, counts = mean_histogram(found)
            if len(counts):
                shares, edges = percentages(counts.tolist()), bin_edges(first, len(counts))
                style = line(series)
                axes.stairs(shares, edges, fill=True, color=style["color"], alpha=0.15)
                axes.stairs(shares, edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.1)
        axes.set_title(cut(projection, 22))
        _write_zeros(axes, zeros)
    decades(panels[0], "x")
    label_lowest(panels, columns, "singular value σ of ΔW")
    figure.supylabel("share of the values above 0 / %", size="medium")
    legend(figure, page, page.series(), width, marker="none")
    above(figure, f"Singular values of ΔW by tenths of decades, {averaged(page)}")
    return figure


def _write_zeros(axes: Axes, zeros: Sequence[tuple[int, float]]) -> None:
    """The zeros, which a logarithmic axis has no place for, in the order of the key."""
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    style: dict[str, Any] = {"size": 6, "va": "bottom", "annotation_clip": False}
    last = axes.annotate("zeros", (0.03, 0.91), xycoords="axes fraction", color=GREY, **style)
    for series, count in zeros:
        text, colour = f"{count:,.0f}", line(series)["color"]
        last = axes.annotate(text, (1, 0), (4, 0), xycoords=last, textcoords="offset points", color=colour, **style)


def layer_map(measure: Measure, page: PageData, width: float) -> Figure | None:
    """A measure block by block and projection by projection, for each method."""
    assert measure.layer_map is not None
    if not (grids := layer_grids(page, measure)):
        return None
    scale, unit = (100, " / %") if measure.unit else (1, "")
    columns = 3 if is_wide(width) else 1
    figure, panels = grid_of(width, len(grids), columns, 0.13 * len(page.projections) + 0.35)
    meshes = []
    for number, (grid, axes) in enumerate(zip(grids, panels, strict=True)):
        values = np.array([[math.nan if value is None else value for value in row] for row in grid.values])
        meshes.append(heat(axes, scale * values.T, (0, scale * measure.layer_map.top)))
        axes.set_title(label(page, grid.series))
        ticks(axes, "x", block_names(page), 8 if is_wide(width) else 16)
        ticks(axes, "y", page.projections if number % columns == 0 else [""] * len(page.projections))
        axes.invert_yaxis()
    label_lowest(panels, columns, "block")
    colour_bar(figure, meshes[0], panels, f"{measure.name}{unit}")
    above(figure, f"ΔW by layer: {measure.name}, {seeds(page)}")
    return figure
