"""How ΔW relates: to the reference's subspace, among its modules, and to W."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from multilora.report.criteria import top_amplification, top_projections, top_rank
from multilora.report.material import Material
from multilora.report.numbers import listed, mean, short
from multilora.report.paper_figures.style import (
    GREY,
    Facts,
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
    records_of,
    seeds,
    ticks,
)
from multilora.spectral.measures import SIDES, Side, similarity, similarity_ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

_THIN: Mapping[str, Any] = {"color": GREY, "linewidth": 0.8}


def subspace_grid(material: Material, width: float) -> Figure | None:
    """φ(i, j) of each method and its reference at one layer, in the first run of each method.

    The layer is the first projection, of the block nearest to the middle, that has it.
    """
    compared = _compared_layer(material)
    if compared is None:
        return None
    (block, projection), runs = compared
    wide = is_wide(width)
    size = (width - 0.9) / max(2, len(runs)) if wide else (width - 0.9) / 2
    figure = figure_of(width, min(size, 1.7) * (2 if wide else len(runs)) + 1)
    grid = figure.subplots(*((2, len(runs)) if wide else (len(runs), 2)), squeeze=False)
    if wide:
        grid = grid.T
    meshes = []
    for (series, run), panels in zip(runs, grid, strict=True):
        found = material.of_run(run)[block, projection]["similarity"]
        for side, axes in zip(SIDES, panels, strict=True):
            meshes.append(heat(axes, np.array(found[side]), (0, 1)))
            ticks(axes, "x", [str(rank) for rank in found["reference_ranks"]])
            ticks(axes, "y", [str(rank) for rank in found["ranks"]])
            axes.set_title(f"{cut(label(material, series), 20)}, {side}")
    figure.supxlabel("top j directions of the reference", size="medium")
    figure.supylabel("top i directions of the method", size="medium")
    colour_bar(figure, meshes[0], grid.flat, "similarity φ(i, j)")
    where = f"block {block}, {projection}" if block.isdecimal() else projection
    above(figure, f"Subspace similarity to the reference, one seed, {cut(where, 60)}")
    return figure


def _compared_layer(material: Material) -> tuple[tuple[str, str], list[tuple[int, str]]] | None:
    """Block and projection, and by series the run that is shown there."""
    runs = [(series, run) for series in material.series() for run in material.lineup.averaged(series)[:1]]
    middle = (len(material.blocks) - 1) / 2
    for block in sorted(material.blocks, key=lambda block: abs(material.blocks.index(block) - middle)):
        for projection in material.projections:
            shown = [
                (series, run)
                for series, run in runs
                if (record := material.of_run(run).get((block, projection))) is not None
                and record["similarity"] is not None
                and record["similarity"]["ranks"]
                and record["similarity"]["reference_ranks"]
            ]
            if shown:
                return (block, projection), shown
    return None


def subspace_by_rank(material: Material, width: float) -> Figure | None:
    """φ(k, k) with the reference over k, the mean over all layers and seeds, beside that of random subspaces."""
    curves = {
        (series, side): points
        for series in material.series()
        for side in SIDES
        if (points := _similarities(material, series, side))
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
        chance = _by_chance(material, shown, side)
        axes.plot(list(chance), list(chance.values()), **_THIN, zorder=0)
        axes.set_xscale("log", base=2)
        plain_powers(axes, ranks)
        axes.set_ylim(0, 1)
        axes.set_title(f"{side} singular vectors")
        axes.set_xlabel("rank k")
    panels[0].set_ylabel("similarity φ(k, k)")
    legend(figure, material, shown, width, [("random subspaces", _THIN)])
    above(figure, f"Subspace similarity to the reference, mean over layers, {seeds(material)}")
    return figure


def _similarities(material: Material, series: int, side: Side) -> dict[int, float]:
    """By rank the mean over the matrices that have it."""
    ranks = sorted({k for record in records_of(material, series) for k in similarity_ranks(record, side)})
    means = {rank: material.mean(series, similarity(side, rank)) for rank in ranks}
    return {rank: value for rank, value in means.items() if value is not None}


def _by_chance(material: Material, shown: Sequence[int], side: Side) -> dict[int, float]:
    """By rank k the mean of k/d over the same matrices, which random subspaces of d dimensions have."""
    found: dict[int, list[float]] = {}
    dimension = "d_out" if side == "left" else "d_in"
    for series in shown:
        for record in records_of(material, series):
            for rank in similarity_ranks(record, side):
                found.setdefault(rank, []).append(min(1.0, rank / record[dimension]))
    return {rank: sum(values) / len(values) for rank, values in sorted(found.items())}


def modules(material: Material, width: float) -> Figure | None:
    """Of each MultiLoRA: how alike its modules are, and which share of the energy each has, block by block."""
    shown = [series for series in material.series() if _of_modules(material, series)]
    if not shown:
        return None
    wide = is_wide(width)
    figure = figure_of(width, (1.75 if wide else 3.2) * len(shown) + 0.35)
    rows: list[Any] = [[f"{s} left", f"{s} right", f"{s} energy"] for s in shown]
    if not wide:
        rows = [part for left, right, energy in rows for part in ([left, right], [energy, energy])]
    panels = figure.subplot_mosaic(rows, width_ratios=[1, 1, 1.9] if wide else None)
    meshes = []
    for series in shown:
        for side in SIDES:
            meshes.append(_module_similarity(material, series, side, panels[f"{series} {side}"]))
        _module_energy(material, series, panels[f"{series} energy"])
    sides = [axes for name, axes in panels.items() if not name.endswith("energy")]
    colour_bar(figure, meshes[0], sides if wide else panels.values(), "similarity φ")
    above(figure, f"MultiLoRA's modules, mean over layers, {seeds(material)}")
    return figure


def _of_modules(material: Material, series: int, block: str | None = None) -> list[Facts]:
    """The modules of the matrices that have several, some of them with energy."""
    found = [record["modules"] for record in records_of(material, series, block=block)]
    return [
        modules for modules in found if modules is not None and len(modules["energy"]) > 1 and any(modules["energy"])
    ]


def _module_similarity(material: Material, series: int, side: Side, axes: Axes) -> QuadMesh:
    found = _of_modules(material, series)
    values = np.mean([modules[side] for modules in found], axis=0)
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
    axes.set_title(f"{side} (random: {short(mean(modules[f'random_{side}'] for modules in found), 2)})")
    axes.set_xlabel("module")
    axes.set_ylabel("module")
    return mesh


def _module_energy(material: Material, series: int, axes: Axes) -> None:
    count = len(_of_modules(material, series)[0]["energy"])
    for number in range(count):
        means = [
            mean(modules["energy"][number] for modules in _of_modules(material, series, block))
            for block in material.blocks
        ]
        values = [math.nan if value is None else 100 * value for value in means]
        axes.plot(range(len(values)), values, **line(number), markevery=max(1, len(values) // 8), label=f"{number + 1}")
    axes.axhline(100 / count, **_THIN, zorder=0)
    axes.set_ylim(0, 1.6 * axes.get_ylim()[1])
    ticks(axes, "x", block_names(material), 12, centre=0)
    axes.set_xlabel("block")
    axes.set_ylabel("share of energy / %")
    axes.set_title(f"{cut(label(material, series), 18)} (grey: even share)")
    axes.legend(title="module", ncols=min(count, 4), loc="upper center", title_fontsize=6.5, fontsize=6.5)


def mechanism(material: Material, width: float) -> Figure | None:
    """How much of W lies in ΔW's top directions, and how many times ΔW amplifies it, projection by projection."""
    found = {
        series: [_mechanisms(material, series, projection) for projection in material.projections]
        for series in material.series()
    }
    shown = [series for series, of in found.items() if any(of)]
    if not shown:
        return None
    wide = is_wide(width)
    figure = figure_of(width, 2.6 if wide else 4.2)
    panels = figure.subplots(1, 2) if wide else figure.subplots(2, 1, sharex=True)
    places = np.arange(len(material.projections))
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
        axes.set_xticks(places, [cut(name, 14) for name in material.projections], rotation=35, ha="right")
        axes.set_xlim(-0.5, len(places) - 0.5)
    panels[0].set_ylabel("‖UᵀWVᵀ‖ / that of random U, V")
    panels[1].set_ylabel("amplification ‖ΔW‖ / ‖UᵀWVᵀ‖")
    legend(figure, material, shown, width, [("W's own directions", own)], linestyle="none")
    ranks = sorted({one.rank for series in shown for of in found[series] for one in of})
    above(figure, f"W in ΔW's top {listed([str(rank) for rank in ranks])} directions, mean over {averaged(material)}")
    return figure


class _Mechanism(NamedTuple):
    rank: int
    delta: float
    base: float
    amplification: float


def _mechanisms(material: Material, series: int, projection: str) -> list[_Mechanism]:
    found: list[_Mechanism] = []
    for record in records_of(material, series, projection):
        rank, projections, factor = top_rank(record), top_projections(record), top_amplification(record)
        if rank is not None and projections is not None and factor is not None:
            found.append(_Mechanism(rank, projections[0], projections[1], factor[0]))
    return found


def _mean(values: Iterable[float]) -> float:
    """NaN, which is not drawn, where there is none."""
    found = mean(values)
    return math.nan if found is None else found
