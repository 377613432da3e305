"""Among the n modules of MultiLoRA: are they alike, who has the energy, how is the learned scale distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multilora.report.figures import Control, Figure, Panel, Section
from multilora.report.heat import heat_layout, heat_trace
from multilora.report.lineup import PlottedRun
from multilora.report.markup import Html, table
from multilora.report.numbers import NONE, array_of, percent, short, written
from multilora.report.page_data import PageData
from multilora.report.sections.spectra import NO_ANALYSIS, controls
from multilora.spectral.measures import (
    MODULE_EFFECTIVE_RANK,
    MODULE_LARGEST_ENERGY,
    MODULE_OVERLAP,
    MODULE_SIMILARITY,
    SCALING_MEAN_ABS,
    Side,
)
from multilora.spectral.record import Modules

_SIDES: tuple[tuple[Side, str], ...] = (("left", "left: outputs of the layer"), ("right", "right: inputs of the layer"))
_OVERVIEW = (
    *MODULE_SIMILARITY.values(),
    MODULE_LARGEST_ENERGY,
    MODULE_OVERLAP,
    MODULE_EFFECTIVE_RANK,
    SCALING_MEAN_ABS,
)


def modules(page: PageData) -> Section:
    """Three plots for one matrix, and a table of all."""
    section = Section("modules", "Among the modules")
    if not page.matrices:
        section.left_out = NO_ANALYSIS
        return section
    members = [
        m
        for m in sorted(page.lineup.members.values(), key=lambda m: (m.series, m.group or 0))
        if any(matrix.modules for matrix in page.of_run(m.run.name).values())
    ]
    if not members:
        section.left_out = "no run given is a MultiLoRA adapter, so there are no modules to compare."
        return section
    section.lead = (
        "A MultiLoRA adapter is n LoRA modules side by side. If they used the same directions, the grid would be "
        "bright off its diagonal and n modules would do the work of one. Bars of equal height: all modules contribute "
        "equally. The learned scale, as it multiplies B, starts at zero; its spread shows how differently it weighs "
        "the outputs."
    )
    section.parts += [_overview(page, members), _figure(page, members)]
    return section


def _overview(page: PageData, members: Sequence[PlottedRun]) -> Html:
    rows = [
        (page.lineup.labels[s], *(written(measure, page.mean(s, measure)) for measure in _OVERVIEW))
        for s in sorted({member.series for member in members})
    ]
    return table(
        f"All matrices together: {page.means_over('matrices')}",
        ("method", *(measure.heading for measure in _OVERVIEW)),
        rows,
    )


def _figure(page: PageData, members: Sequence[PlottedRun]) -> Figure:
    series = sorted({member.series for member in members})
    views: dict[tuple[int, ...], Sequence[Panel]] = {}
    for member in members:
        groups = range(len(page.lineup.groups)) if member.group is None else [member.group]
        for (block, projection), matrix in page.of_run(member.run.name).items():
            if (own := matrix.modules) is None:
                continue
            for number, (side, name) in enumerate(_SIDES):
                label = f"{page.lineup.labels[member.series]}, block {block}, {projection}"
                panels = _panels(own, side, name, member.series, label)
                for group in groups:
                    place = (page.blocks.index(block), page.projections.index(projection))
                    views[group, *place, series.index(member.series), number] = panels
    ordered = dict(sorted(views.items()))
    return Figure(
        id="module-plots",
        title="The modules of one matrix",
        views=ordered,
        controls=[
            *controls(page),
            Control("Method", [page.lineup.labels[s] for s in series]),
            Control("Side", [name for _, name in _SIDES]),
        ],
        table=_table(page, members),
        wide=False,
        note="Similarity: φ of all directions of two modules. Scale: whiskers from the 5 % to the 95 % quantile, the "
        "box holds the middle half, the line is the median.",
    )


def _panels(found: Modules, side: Side, side_name: str, series: int, where: str) -> list[Panel]:
    grid, n = found.similarity(side), len(found.energy)
    names = [str(number + 1) for number in range(n)]
    off = [value for i, row in enumerate(grid) for j, value in enumerate(row) if i != j and value is not None]
    alike = f"from {short(min(off))} to {short(max(off))} between different modules" if off else "there is one module"
    panels = [
        Panel(
            f"Similarity of the modules' directions ({side}) in {where}: {alike}; unrelated ones would have "
            f"{short(found.random(side))}.",
            [heat_trace(names, names, grid)],
            heat_layout(n, "module", "module", pixels=46),
            f"Similarity, {side_name}",
        ),
        Panel(
            f"Share of energy of each module in {where}: {', '.join(f'{percent(x)} %' for x in found.energy)}.",
            [
                {
                    "type": "bar",
                    "s": series,
                    "x": names,
                    "y": (100 * array_of(found.energy)).tolist(),
                    "hovertemplate": "module %{x}: %{y:.1f} %<extra></extra>",
                }
            ],
            _panel_layout("module", "share of energy, %", n),
            "Energy",
        ),
    ]
    if found.scaling:
        least = min(_known(found.scaling, "min"), default=None)
        greatest = max(_known(found.scaling, "max"), default=None)
        medians = ", ".join(short(of["q50"]) for of in found.scaling)
        panels.append(
            Panel(
                f"Learned scale of each module in {where}: medians {medians}; from "
                f"{short(least)} to {short(greatest)}.",
                [
                    {
                        "type": "box",
                        "s": series,
                        "x": names,
                        **{key: [of[name] for of in found.scaling] for key, name in _QUANTILES.items()},
                    }
                ],
                _panel_layout("module", "scale", n),
                "Learned scale",
            )
        )
    return panels


def _known(scaling: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    return [value for of in scaling if (value := of[name]) is not None]


_QUANTILES = {"lowerfence": "q05", "q1": "q25", "median": "q50", "q3": "q75", "upperfence": "q95"}


def _panel_layout(x: str, y: str, modules: int) -> dict[str, Any]:
    return {
        "height": max(230, 90 + 46 * modules),
        "xaxis": {"title": {"text": x}, "type": "category", "fixedrange": True},
        "yaxis": {"title": {"text": y}, "fixedrange": True},
    }


def _table(page: PageData, members: Sequence[PlottedRun]) -> Html:
    rows = [
        (
            member.run.name,
            *place,
            *(short(measure.value(matrix)) for measure in MODULE_SIMILARITY.values()),
            short(found.random_left),
            short(found.random_right),
            " / ".join(percent(share, 0) for share in found.energy),
            " / ".join(short(of["mean_abs"]) for of in found.scaling) if found.scaling else NONE,
            " / ".join(short(of["std"]) for of in found.scaling) if found.scaling else NONE,
        )
        for member in members
        for place, matrix in page.of_run(member.run.name).items()
        if (found := matrix.modules)
    ]
    heads = (
        "run", "block", "projection", "φ left", "φ right", "by chance, left", "right", "energy of the modules, %",
        "mean size of the scale", "its standard deviation",
    )  # fmt: skip
    return table("Modules of all matrices", heads, rows, texts=3)
