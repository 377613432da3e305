"""Spectra: curves, histograms, and where the energy lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from multilora.report.material import Material
from multilora.report.paper_figures.style import (
    GREY,
    Facts,
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
    records_of,
    seeds,
    ticks,
)
from multilora.spectral.measures import ENERGY_SHARES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP = 8  # singular values, of the energy's heat map


def spectra_curves(material: Material, width: float) -> Figure | None:
    """σ_i over i on a logarithmic scale, for each projection: the geometric mean over blocks and seeds."""
    if not material.projections:
        return None
    columns = 4 if is_wide(width) else 2
    figure, panels = grid_of(width, len(material.projections), columns, 1.35, sharey=True)
    for projection, axes in zip(material.projections, panels, strict=True):
        axes.set_yscale("log")
        if _is_long(material):
            axes.set_xscale("log")
        for series in material.series():
            index, sigma = mean_curve(records_of(material, series, projection))
            if len(index):
                axes.plot(index + 1, sigma, **line(series), markevery=0.14)
        if _is_long(material):
            decades(axes, "x")
        axes.set_title(cut(projection, 22))
    decades(panels[0])
    label_lowest(panels, columns, "index i")
    figure.supylabel("singular value σᵢ of ΔW", size="medium")
    legend(figure, material, material.series(), width)
    above(figure, f"Singular values of ΔW, geometric mean over {averaged(material)}")
    return figure


def _is_long(material: Material) -> bool:
    """Some spectra are so much longer than others that a linear index would hide those."""
    ranks = [rank for record in material.matrices if (rank := record["spectrum"]["rank"])]
    return bool(ranks) and max(ranks) > 8 * min(ranks)


def spectra_histograms(material: Material, width: float) -> Figure | None:
    """Shares of σ > 0 by tenths of decades, for each projection, over blocks and seeds; and the mean count of zeros."""
    if not material.projections:
        return None
    columns = 4 if is_wide(width) else 2
    figure, panels = grid_of(width, len(material.projections), columns, 1.35, sharex=True)
    for projection, axes in zip(material.projections, panels, strict=True):
        axes.set_xscale("log")
        zeros: list[tuple[int, float]] = []
        for series in material.series():
            if not (found := records_of(material, series, projection)):
                continue
            zeros.append((series, sum(record["histogram"]["zeros"] for record in found) / len(found)))
            first, counts = mean_histogram(found)
            if len(counts):
                shares = 100 * counts / counts.sum()
                edges = 10 ** (np.arange(first, first + len(counts) + 1) / 10)
                style = line(series)
                axes.stairs(shares, edges, fill=True, color=style["color"], alpha=0.15)
                axes.stairs(shares, edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.1)
        axes.set_title(cut(projection, 22))
        _write_zeros(axes, zeros)
    decades(panels[0], "x")
    label_lowest(panels, columns, "singular value σ of ΔW")
    figure.supylabel("share of the values above 0 / %", size="medium")
    legend(figure, material, material.series(), width, marker="none")
    above(figure, f"Singular values of ΔW by tenths of decades, {averaged(material)}")
    return figure


def _write_zeros(axes: Axes, zeros: Sequence[tuple[int, float]]) -> None:
    """The zeros, which a logarithmic axis has no place for, in the order of the key."""
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    style: dict[str, Any] = {"size": 6, "va": "bottom", "annotation_clip": False}
    last = axes.annotate("zeros", (0.03, 0.91), xycoords="axes fraction", color=GREY, **style)
    for series, count in zeros:
        text, colour = f"{count:,.0f}", line(series)["color"]
        last = axes.annotate(text, (1, 0), (4, 0), xycoords=last, textcoords="offset points", color=colour, **style)


def energy_by_layer(material: Material, width: float) -> Figure | None:
    """The energy share of the top singular values, block by block and projection by projection, for each method."""
    shown = material.series()
    if not shown:
        return None
    columns = 3 if is_wide(width) else 1
    figure, panels = grid_of(width, len(shown), columns, 0.13 * len(material.projections) + 0.35)
    meshes = []
    for number, (series, axes) in enumerate(zip(shown, panels, strict=True)):
        found = [
            [material.mean(series, ENERGY_SHARES[TOP], block, projection) for block in material.blocks]
            for projection in material.projections
        ]
        values = np.array([[math.nan if value is None else 100 * value for value in row] for row in found])
        meshes.append(heat(axes, values, (0, 100)))
        axes.set_title(label(material, series))
        ticks(axes, "x", block_names(material), 8 if is_wide(width) else 16)
        ticks(axes, "y", material.projections if number % columns == 0 else [""] * len(material.projections))
        axes.invert_yaxis()
    label_lowest(panels, columns, "block")
    colour_bar(figure, meshes[0], panels, f"energy in the top {TOP} / %")
    above(figure, f"ΔW's energy in its {TOP} largest singular values, {seeds(material)}")
    return figure


def mean_curve(records: Sequence[Facts]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The geometric mean of spectra, at the indices (from 0) at which all have a value above zero; empty: none have.

    Args:
        records: of matrices; those with ΔW = 0 are left out.
    """
    curves = [record["spectrum"] for record in records if record["spectrum"]["rank"]]
    if not curves:
        return np.zeros(0), np.zeros(0)
    last = min(curve["rank"] for curve in curves)
    index = np.array(sorted({at for curve in curves for at in curve["index"] if at < last}), dtype=np.float64)
    logs = [np.interp(index, curve["index"], np.log(curve["sigma"])) for curve in curves]
    return index, np.exp(np.mean(logs, axis=0))


def mean_histogram(records: Sequence[Facts]) -> tuple[int, NDArray[np.float64]]:
    """The first bin, in tenths of decades, and the mean counts from there on."""
    found = [record["histogram"] for record in records]
    filled = [histogram for histogram in found if histogram["counts"]]
    if not filled:
        return 0, np.zeros(0)
    first = min(histogram["first"] for histogram in filled)
    sums = np.zeros(max(histogram["first"] + len(histogram["counts"]) for histogram in filled) - first)
    for histogram in filled:
        start = histogram["first"] - first
        sums[start : start + len(histogram["counts"])] += histogram["counts"]
    return first, sums / len(found)
