"""How ΔW relates: to the reference's subspace, among its modules, and to W."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from multilora.report.numbers import array_of, listed, mean, short
from multilora.report.page_data import PageData
from multilora.report.paper_figures.style import (
    GREY,
    above,
    averaged,
    block_names,
    colour_bar,
    cut,
    decades,
    figure_of,
    heat,
    is_wide,
    label,
    legend,
    line,
    plain_powers,
    seeds,
    ticks,
)
from multilora.report.series.relations import (
    ModuleMeans,
    compared_layer,
    mechanism_points,
    module_means,
    similarity_by_chance,
    similarity_means,
)
from multilora.spectral.measures import SIDES, Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

_THIN: Mapping[str, Any] = {"color": GREY, "linewidth": 0.8}


def subspace_grid(page: PageData, width: float) -> Figure | None:
    """φ(i, j) of each method and its reference at one layer."""
    compared = compared_layer(page)
    if compared is None:
        return None
    (block, projection), shown = compared
    wide = is_wide(width)
    size = (width - 0.9) / max(2, len(shown)) if wide else (width - 0.9) / 2
    figure = figure_of(width, min(size, 1.7) * (2 if wide else len(shown)) + 1)
    grid = figure.subplots(*((2, len(shown)) if wide else (len(shown), 2)), squeeze=False)
    if wide:
        grid = grid.T
    meshes = []
    for (series, found), panels in zip(shown, grid, strict=True):
        for side, axes in zip(SIDES, panels, strict=True):
            meshes.append(heat(axes, array_of(found.on(side)), (0, 1)))
            ticks(axes, "x", [str(rank) for rank in found.reference_ranks])
            ticks(axes, "y", [str(rank) for rank in found.ranks])
            axes.set_title(f"{cut(label(page, series), 20)}, {side}")
    figure.supxlabel("top j directions of the reference", size="medium")
    figure.supylabel("top i directions of the method", size="medium")
    colour_bar(figure, meshes[0], grid.flat, "similarity φ(i, j)")
    where = f"block {block}, {projection}" if block.isdecimal() else projection
    above(figure, f"Subspace similarity to the reference, one seed, {cut(where, 60)}")
    return figure


def subspace_by_rank(page: PageData, width: float) -> Figure | None:
    """φ(k, k) with the reference over k, the mean over all layers and seeds, beside that of random subspaces."""
    curves = {
        (series, side): points
        for series in page.series()
        for side in SIDES
        if (points := similarity_means(page, series, side))
    }
    if not curves:
        return None
    figure = figure_of(width, 0.4 * width if is_wide(width) else 0.75 * width)
    panels = figure.subplots(1, 2, sharey=True)
    shown = list(dict.fromkeys(series for series, _ in curves))
    ranks = sorted({rank for points in curves.values() for rank in points})
    for axes, side in zip(panels, SIDES, strict=True):
        for series in shown:
            points = curves.get((series, side), {})
            axes.plot(list(points), list(points.values()), **line(series))
        chance = similarity_by_chance(page, side)
        axes.plot(list(chance), list(chance.values()), **_THIN, zorder=0)
        axes.set_xscale("log", base=2)
        plain_powers(axes, ranks)
        axes.set_ylim(0, 1)
        axes.set_title(f"{side} singular vectors")
        axes.set_xlabel("rank k")
    panels[0].set_ylabel("similarity φ(k, k)")
    legend(figure, page, shown, width, [("random subspaces", _THIN)])
    above(figure, f"Subspace similarity to the reference, mean over layers, {seeds(page)}")
    return figure


def modules(page: PageData, width: float) -> Figure | None:
    """Of each MultiLoRA: how alike its modules are, and which share of the energy each has, block by block."""
    shown = {s: means for s in page.series() if (means := module_means(page, s)) is not None}
    if not shown:
        return None
    wide = is_wide(width)
    figure = figure_of(width, (1.75 if wide else 3.2) * len(shown) + 0.35)
    rows: list[Any] = [[f"{s} left", f"{s} right", f"{s} energy"] for s in shown]
    if not wide:
        rows = [part for left, right, energy in rows for part in ([left, right], [energy, energy])]
    panels = figure.subplot_mosaic(rows, width_ratios=[1, 1, 1.9] if wide else None)
    meshes = []
    for series, means in shown.items():
        for side in SIDES:
            meshes.append(_module_similarity(means, side, panels[f"{series} {side}"]))
        _module_energy(page, series, means, panels[f"{series} energy"])
    sides = [axes for name, axes in panels.items() if not name.endswith("energy")]
    colour_bar(figure, meshes[0], sides if wide else panels.values(), "similarity φ")
    above(figure, f"MultiLoRA's modules, mean over layers, {seeds(page)}")
    return figure


def _module_similarity(means: ModuleMeans, side: Side, axes: Axes) -> QuadMesh:
    values = means.similarity[side]
    mesh = heat(axes, values, (0, 1))
    axes.set_aspect("equal")
    names = [str(number + 1) for number in range(len(values))]
    ticks(axes, "x", names, 8)
    ticks(axes, "y", names, 8)
    axes.invert_yaxis()
    if len(values) <= 4:  # numbers fit into the cells
        for (i, j), value in np.ndenumerate(values):
            colour = "black" if value > 0.6 else "white"
            axes.text(j + 0.5, i + 0.5, f"{value:.2f}", ha="center", va="center", size=6, color=colour)
    axes.set_title(f"{side} (random: {short(means.random[side], 2)})")
    axes.set_xlabel("module")
    axes.set_ylabel("module")
    return mesh


def _module_energy(page: PageData, series: int, means: ModuleMeans, axes: Axes) -> None:
    shares = np.array(list(means.energy.values()))  # (blocks, n)
    count = shares.shape[1]
    for number, values in enumerate(100 * shares.T):
        axes.plot(range(len(values)), values, **line(number), markevery=max(1, len(values) // 8), label=f"{number + 1}")
    axes.axhline(100 / count, **_THIN, zorder=0)
    axes.set_ylim(0, 1.6 * axes.get_ylim()[1])
    ticks(axes, "x", block_names(page), 12, centre=0)
    axes.set_xlabel("block")
    axes.set_ylabel("share of energy / %")
    axes.set_title(f"{cut(label(page, series), 18)} (grey: even share)")
    axes.legend(title="module", ncols=min(count, 4), loc="upper center", title_fontsize=6.5, fontsize=6.5)


def mechanism(page: PageData, width: float) -> Figure | None:
    """How much of W lies in ΔW's top directions, and how many times ΔW amplifies it, projection by projection."""
    found = {
        series: [mechanism_points(page, series, projection) for projection in page.projections]
        for series in page.series()
    }
    shown = [series for series, of in found.items() if any(of)]
    if not shown:
        return None
    wide = is_wide(width)
    figure = figure_of(width, 2.6 if wide else 4.2)
    panels = figure.subplots(1, 2) if wide else figure.subplots(2, 1, sharex=True)
    places = np.arange(len(page.projections))
    for axes in panels:
        axes.set_yscale("log")
        axes.axhline(1, **_THIN, zorder=0)
    for number, series in enumerate(shown):
        at = places + 0.5 * ((number + 0.5) / len(shown) - 0.5)
        style = line(series) | {"linestyle": "none", "markersize": 4}
        panels[0].plot(at, [_mean(one.delta for one in of) for of in found[series]], **style)
        panels[1].plot(at, [_mean(one.amplification for one in of) for of in found[series]], **style)
    own: dict[str, Any] = {"marker": "_", "markersize": 10, "color": "black", "linestyle": "none"}
    bases = [_mean(one.base for series in shown for one in found[series][place]) for place in places]
    panels[0].plot(places, bases, **own)
    for axes in panels:
        decades(axes)
        axes.set_xticks(places, [cut(name, 14) for name in page.projections], rotation=35, ha="right")
        axes.set_xlim(-0.5, len(places) - 0.5)
    panels[0].set_ylabel("‖UᵀWVᵀ‖ / that of random U, V")
    panels[1].set_ylabel("amplification ‖ΔW‖ / ‖UᵀWVᵀ‖")
    legend(figure, page, shown, width, [("W's own directions", own)], linestyle="none")
    ranks = sorted({one.rank for series in shown for of in found[series] for one in of})
    above(figure, f"W in ΔW's top {listed([str(rank) for rank in ranks])} directions, mean over {averaged(page)}")
    return figure


def _mean(values: Iterable[float]) -> float:
    """NaN, which is not drawn, for None."""
    found = mean(values)
    return math.nan if found is None else found
