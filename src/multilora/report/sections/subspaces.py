"""How alike the directions of ΔW are to those of the reference, full fine-tuning where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multilora.report.figures import LINE, Control, Figure, Panel, Section
from multilora.report.heat import heat_layout, heat_trace
from multilora.report.lineup import PlottedRun
from multilora.report.markup import Html, table
from multilora.report.numbers import percent, short
from multilora.report.page_data import PageData
from multilora.report.sections.spectra import NO_ANALYSIS, controls
from multilora.report.series.relations import similarity_by_chance, similarity_means
from multilora.spectral.measures import SIDES, Side, similarity
from multilora.spectral.record import Similarity

_SIDE_NAMES = ("left: outputs of the layer", "right: inputs of the layer")
_RANKS = tuple(2**power for power in range(11))


def subspaces(page: PageData) -> Section:
    """φ at equal ranks on average, and the grid φ(i, j) of one matrix."""
    section = Section("subspaces", "Subspace similarity to the reference")
    if not page.matrices:
        section.left_out = NO_ANALYSIS
        return section
    compared = [m for m in page.lineup.members.values() if _similar(page, m)]
    if not compared:
        section.left_out = (
            "there is no run to compare directions with; analyse a full fine-tuning too, or name a run by --reference."
        )
        return section
    analysed = [member.run.analysed for member in compared if member.run.analysed]
    references = dict.fromkeys(run.reference for run in analysed if run.reference is not None)
    labels = dict.fromkeys(page.lineup.labels[page.lineup.members[name].series] for name in references)
    section.lead = (
        f"The reference is {' and '.join(labels)}. φ(i, j) is the share of a method's i strongest directions that "
        "lies within the reference's j strongest: 1 is all, 0 none. Unrelated directions have about max(i, j) / d, "
        "so a high value at large i and j alone means little."
    )
    if any(run.kind == "full" for run in analysed):
        section.lead += (
            " Full fine-tuning is compared with that of another seed, the highest value to expect of any method."
        )
    section.parts += [_by_rank(page, compared), _grids(page, compared)]
    return section


def _similar(page: PageData, member: PlottedRun) -> bool:
    return any(matrix.similarity for matrix in page.of_run(member.run.name).values())


def _by_rank(page: PageData, compared: Sequence[PlottedRun]) -> Figure:
    series = sorted({member.series for member in compared})
    views: dict[tuple[int, ...], Sequence[Panel]] = {}
    rows: list[Sequence[str]] = []
    projections = ["all", *page.projections]
    ranks = [k for k in _RANKS if any(page.values(s, similarity("left", k)) for s in series)]
    for number, projection in enumerate(projections):
        panels: list[Panel] = []
        at = None if number == 0 else projection
        for side, name in zip(SIDES, _SIDE_NAMES, strict=True):
            traces: list[dict[str, Any]] = []
            said: list[str] = []
            for s in series:
                if not (means := similarity_means(page, s, side, at)):
                    continue
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "s": s,
                        "x": list(means),
                        "y": list(means.values()),
                        "hovertemplate": "φ(%{x}, %{x}) = %{y:.3f}<extra></extra>",
                    }
                )
                label = page.lineup.labels[s]
                said.append(f"{label}: {', '.join(f'{short(v)} at {k}' for k, v in means.items())}")
                rows.append((label, side, projection, *(short(means.get(k)) for k in ranks)))
            if traces:
                traces.append(_chance_trace(similarity_by_chance(page, side, at)))
                alt = f"Mean of φ(k, k) over matrices, {projection} projections, {side} directions. {'; '.join(said)}."
                panels.append(Panel(alt, traces, _BY_RANK, name))
        if panels:
            views[(number,)] = panels
    return Figure(
        id="similarity-by-rank",
        title="φ(k, k): the k strongest directions against the reference's k strongest",
        views=views,
        controls=[Control("Projection", projections)],
        series=series,
        others=[(LINE, "random directions, k / d")],
        table=table(
            f"φ(k, k): {page.means_over('matrices')}",
            ("method", "side", "projection", *(f"k = {k}" for k in ranks)),
            rows,
            texts=3,
        ),
        note=f"{page.means_over('matrices').capitalize()}.",
    )


def _chance_trace(chance: Mapping[int, float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "s": LINE,
        "line": {"width": 1},
        "x": list(chance),
        "y": list(chance.values()),
        "hovertemplate": "chance at %{x}: %{y:.3f}<extra></extra>",
    }


_BY_RANK: dict[str, Any] = {
    "height": 300,
    "xaxis": {"title": {"text": "k, number of directions"}, "type": "log", "tickvals": list(_RANKS)},
    "yaxis": {"title": {"text": "φ(k, k)"}, "rangemode": "tozero"},
}


def _grids(page: PageData, compared: Sequence[PlottedRun]) -> Figure:
    names = {member.run.name for member in compared}
    series = sorted({member.series for member in compared})
    views: dict[tuple[int, ...], Sequence[Panel]] = {}
    for group, _ in enumerate(page.lineup.groups):
        members = [member for member in page.lineup.in_group(group) if member.run.name in names]
        for b, block in enumerate(page.blocks):
            for p, projection in enumerate(page.projections):
                for number, side in enumerate(SIDES):
                    panels = [
                        _grid(page.lineup.labels[m.series], found, side, f"block {block}, {projection}")
                        for m in members
                        if (matrix := page.of_run(m.run.name).get((block, projection))) and (found := matrix.similarity)
                    ]
                    if panels:
                        views[group, b, p, number] = panels
    return Figure(
        id="similarity-grid",
        title="φ(i, j) of one matrix",
        views=views,
        controls=[*controls(page), Control("Side", _SIDE_NAMES)],
        table=_table(page, compared, series),
        scale=("0: nothing in common", "1: contained"),
        wide=False,
    )


def _grid(label: str, found: Similarity, side: Side, where: str) -> Panel:
    ranks, others, grid = found.ranks, found.reference_ranks, found.on(side)
    values = [value for row in grid for value in row if value is not None]
    alt = f"φ of {label} and the reference in {where}, {side} directions: " + (
        f"from {short(min(values))} to {short(max(values))}; {short(grid[0][0])} for the strongest direction of each."
        if values
        else "one of the two did not change, so it has no directions."
    )
    trace = heat_trace([str(rank) for rank in ranks], [str(rank) for rank in others], grid)
    return Panel(alt, [trace], heat_layout(len(ranks), "i, of the method", "j, of the reference"), label)


def _table(page: PageData, compared: Sequence[PlottedRun], series: Sequence[int]) -> Html:
    """φ(k, k) of every matrix."""
    ranks = [k for k in _RANKS if any(page.values(s, similarity("left", k)) for s in series)]
    rows = [
        (
            member.run.name,
            *place,
            *(percent(similarity(side, k).value(matrix), 0) for side in SIDES for k in ranks),
        )
        for member in compared
        for place, matrix in page.of_run(member.run.name).items()
        if matrix.similarity
    ]
    heads = ("run", "block", "projection", *(f"{side}, k = {k}" for side in SIDES for k in ranks))
    return table("φ(k, k) of every matrix, in %", heads, rows, texts=3)
