"""Spectra of ΔW: curves and histograms of singular values, and the energy of the top ones by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multilora.report.figures import Control, Figure, Panel, Section
from multilora.report.heat import heat_layout, heat_trace
from multilora.report.lineup import PlottedRun
from multilora.report.markup import Html, table
from multilora.report.numbers import short, whole, with_unit, written
from multilora.report.page_data import PageData
from multilora.report.series.layers import LayerGrid, layer_grids
from multilora.report.series.spectra import bin_edges, percentages
from multilora.spectral.findings import LayerMap, Measure
from multilora.spectral.measures import (
    EFFECTIVE_RANK,
    FROBENIUS_NORM,
    OVERVIEW,
    RANK,
    STABLE_RANK,
    ZEROS,
    layer_maps,
)
from multilora.spectral.record import MatrixRecord, Spectrum

NO_ANALYSIS = "no weights were analysed; `multilora analyze` makes this section."
_NAMED_VALUES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def spectra(page: PageData) -> Section:
    """The whole spectrum of a matrix, methods overlaid."""
    section = Section("spectra", "Spectra of the change ΔW")
    if not page.matrices:
        section.left_out = NO_ANALYSIS
        return section
    section.lead = (
        "ΔW is what training added to a weight matrix. Its singular values show in how many directions: a curve "
        "that falls fast has nearly all of it in a few, a flat one is spread over many. An adapter of rank n·r has at "
        "most n·r values above zero; all others are exactly zero."
    )
    section.parts.append(_overview(page))
    lineup = page.lineup
    views: dict[tuple[int, ...], Sequence[Panel]] = {}
    for group, _ in enumerate(lineup.groups):
        members = list(lineup.in_group(group))
        for b, block in enumerate(page.blocks):
            for p, projection in enumerate(page.projections):
                shown = [(m, matrix) for m in members if (matrix := page.of_run(m.run.name).get((block, projection)))]
                if shown:
                    views[group, b, p] = _panels(page, f"block {block}, {projection}", shown)
    section.parts.append(
        Figure(
            id="spectrum",
            title="Singular values of one matrix: as a curve, and how many of which size",
            views=views,
            controls=controls(page),
            series=page.series(),
            table=_table(page),
            note="At most 256 points per curve, dense at both ends. The histogram has ten bins per decade; each "
            "method's values sum to 100 %, without those that are exactly zero, which the table counts.",
        )
    )
    return section


def controls(page: PageData) -> list[Control]:
    """Seed, block and projection, in the order of the keys of views."""
    return [
        Control("Seed", page.lineup.groups),
        Control("Block", page.blocks),
        Control("Projection", page.projections),
    ]


def _panels(page: PageData, where: str, shown: Sequence[tuple[PlottedRun, MatrixRecord]]) -> list[Panel]:
    curves: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    said: list[str] = []
    for member, matrix in shown:
        spectrum, histogram = matrix.spectrum, matrix.histogram
        label = page.lineup.labels[member.series]
        curves.append(
            {
                "type": "scatter",
                "mode": "lines" if len(spectrum.index) > 1 else "markers",
                "s": member.series,
                "x": [index + 1 for index in spectrum.index],
                "y": spectrum.sigma,
                "hovertemplate": "σ of number %{x}: %{y:.3g}<extra></extra>",
            }
        )
        bars.append(_steps(member.series, histogram.first, histogram.counts))
        largest = spectrum.sigma[0] if spectrum.sigma else 0.0
        smallest = f", smallest above zero {short(spectrum.sigma[-1])}" if spectrum.sigma else ""
        zeros = f"{spectrum.size - spectrum.rank} of {spectrum.size} are zero"
        said.append(f"{label}: largest {short(largest)}{smallest}, {zeros}")
    numbers = "; ".join(said)
    return [
        Panel(f"Singular values of ΔW in {where}, in descending order. {numbers}.", curves, _CURVE),
        Panel(f"Histogram of the singular values of ΔW in {where}. {numbers}.", bars, _HISTOGRAM),
    ]


def _steps(series: int, first: int, counts: Sequence[int]) -> dict[str, Any]:
    """The outline of a histogram in tenths of decades, from zero to zero."""
    edges = bin_edges(first, len(counts))
    return {
        "type": "scatter",
        "mode": "lines",
        "fill": "tozeroy",
        "s": series,
        "line": {"shape": "hv"},
        "x": [*edges[:1], *edges],
        "y": [0.0, *percentages(counts), 0.0] if counts else [],
        "customdata": [0, *counts, 0] if counts else [],
        "hovertemplate": "from σ = %{x:.3g} on: %{customdata} values, %{y:.1f} %<extra></extra>",
    }


# Powers of ten: plotly's own 20μ reads as a unit.
_EXPONENTS = {"exponentformat": "power"}
_CURVE: dict[str, Any] = {
    "height": 340,
    "xaxis": {"title": {"text": "number i of the singular value"}, "type": "log", "tickvals": [4**n for n in range(8)]},
    "yaxis": {"title": {"text": "singular value σᵢ"}, "type": "log", **_EXPONENTS},
}
_HISTOGRAM: dict[str, Any] = {
    "height": 340,
    "xaxis": {"title": {"text": "singular value σ"}, "type": "log", **_EXPONENTS},
    "yaxis": {"title": {"text": "share of the values, %"}, "rangemode": "tozero"},
}


def _overview(page: PageData) -> Html:
    rows = [
        (
            page.lineup.labels[series],
            whole(len(page.values(series, FROBENIUS_NORM))),
            *(written(measure, page.mean(series, measure)) for measure in OVERVIEW),
        )
        for series in page.series()
    ]
    heads = ("method", "matrices", *(measure.heading for measure in OVERVIEW))
    return table(f"All matrices together: {page.means_over('matrices')}", heads, rows)


def _table(page: PageData) -> Html:
    """A row for each matrix."""
    sizes = max(matrix.spectrum.size for matrix in page.matrices)
    named = [number for number in _NAMED_VALUES if number <= sizes]
    counts, ranks = (RANK, ZEROS), (EFFECTIVE_RANK, STABLE_RANK)
    several = len(page.matrices) > 0 and len(page.lineup.groups) > 1
    rows: list[Sequence[str]] = []
    for member in sorted(page.lineup.members.values(), key=lambda m: (m.series, m.group or 0)):
        label = page.lineup.labels[member.series]
        group = "" if member.group is None else page.lineup.groups[member.group]
        for place, matrix in page.of_run(member.run.name).items():
            spectrum = matrix.spectrum
            rows.append(
                (
                    label, *([group] if several else []), *place, f"{matrix.d_out} × {matrix.d_in}",
                    *(whole(measure.value(matrix)) for measure in counts),
                    *(written(measure, measure.value(matrix)) for measure in ranks),
                    *(_sigma(spectrum, number) for number in named),
                )
            )  # fmt: skip
    heads = (
        "method", *(["seed"] if several else []), "block", "projection", "shape",
        *(measure.heading for measure in (*counts, *ranks)), *(f"σ {number}" for number in named),
    )  # fmt: skip
    caption = "All matrices. σ k is the k-th largest singular value, or the nearest to it that is drawn"
    return table(caption, heads, rows, texts=5 if several else 4)


def _sigma(spectrum: Spectrum, number: int) -> str:
    """The value of that number; of the points drawn the nearest one."""
    if number > spectrum.rank:
        return "0" if number <= spectrum.size else ""
    place = min(range(len(spectrum.index)), key=lambda at: abs(spectrum.index[at] + 1 - number))
    return short(spectrum.sigma[place])


def layers(page: PageData) -> Section:
    """Measures block by block: how much of ‖ΔW‖² the top k directions hold."""
    section = Section("energy", "Energy of the top directions, by layer")
    if not page.matrices:
        section.left_out = NO_ANALYSIS
        return section
    section.lead = (
        "The share of ‖ΔW‖² that the k strongest directions hold. Yellow: a few directions hold nearly all; dark: "
        "ΔW is spread over many. One panel per method, one scale for all."
    )
    for of, measures in layer_maps().items():
        grids = {measure: found for measure in measures if (found := layer_grids(page, measure))}
        if grids:
            section.parts.append(_layer_map(page, of, grids))
    return section


def _layer_map(page: PageData, of: LayerMap, grids: Mapping[Measure, Sequence[LayerGrid]]) -> Figure:
    rows: list[Sequence[str]] = []
    views: dict[tuple[int, ...], Sequence[Panel]] = {}
    options = [measure.option or measure.title for measure in grids]
    layout = heat_layout(len(page.blocks), "block", "projection")
    for number, (measure, found) in enumerate(grids.items()):
        panels: list[Panel] = []
        for grid in found:
            label = page.lineup.labels[grid.series]
            low, high = (with_unit(measure, end) for end in grid.ends)
            alt = (
                f"{measure.name[0].upper()}{measure.name[1:]} of {label} by block and projection: "
                f"{with_unit(measure, grid.mean)} on average, from {low} to {high}."
            )
            trace = heat_trace(page.blocks, page.projections, grid.values, of.top)
            panels.append(Panel(alt, [trace], layout, label))
            rows += [
                (label, options[number], block, *(written(measure, value) for value in line))
                for block, line in zip(page.blocks, grid.values, strict=True)
            ]
        views[(number,)] = panels
    unit = next(iter(grids)).unit
    heads = ("method", of.control, "block", *page.projections)
    return Figure(
        id=of.id,
        title=of.title,
        views=views,
        controls=[Control(of.control.capitalize(), options)],
        table=table(f"{of.title}, in {unit}" if unit else of.title, heads, rows, texts=3),
        scale=(of.low, of.high),
        wide=False,
        note=f"{of.note} Cells are {page.means_over('matrices')}.".strip(),
    )
