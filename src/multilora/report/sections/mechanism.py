"""How ΔW relates to the base weight W; and what merging into it costs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from multilora.report.dots import Dot, dot_layout, dot_traces
from multilora.report.figures import CROSS, SQUARE, Control, Figure, Panel, Section
from multilora.report.markup import table
from multilora.report.numbers import NONE, percent, short, whole, written
from multilora.report.page_data import PageData
from multilora.report.sections.spectra import NO_ANALYSIS
from multilora.spectral.findings import Measure
from multilora.spectral.measures import MERGED, PROJECTED, amplification, merge_error, merge_lost, projection

_ALL = "all"
_NO_BASE = "ΔW was not compared with the base weights: the base model was not at hand, or --no-mechanism was given."


def mechanism(page: PageData) -> Section:
    """What W has in ΔW's directions, and how much ΔW amplifies it."""
    section = Section("mechanism", "Mechanism: ΔW and the base weight W")
    if not page.matrices:
        section.left_out = NO_ANALYSIS
        return section
    # Adapters of a rank below the least usual one are compared at their own.
    found = {r for matrix in page.matrices if matrix.mechanism for r in matrix.mechanism.ranks}
    if not found:
        section.left_out = _NO_BASE
        return section
    section.lead = (
        "Does ΔW strengthen directions that W already has, or add others? The left plot shows how much of W lies in "
        "ΔW's r strongest directions, between W's own strongest (the maximum) and random ones (the expected minimum). "
        "Dots near random: ΔW acts where W is weak. The amplification factor is the size of ΔW over that of W in these "
        f"directions. All are {page.means_over('blocks')}."
    )
    section.parts.append(_figure(page, sorted(found)))
    return section


def _figure(page: PageData, ranks: Sequence[int]) -> Figure:
    rows = [_ALL, *page.projections]
    series = [s for s in page.series() if any(page.values(s, projection("delta", r)) for r in ranks)]
    views: dict[tuple[int, ...], Sequence[Panel]] = {}
    cells: list[Sequence[str]] = []
    for number, r in enumerate(ranks):
        own = [s for s in series if page.values(s, projection("delta", r))]
        projected = [(s, _dots(page, s, projection("delta", r), rows)) for s in own]
        limits = [
            (place, _mean_dots(page, own, projection(kind, r), rows, name))
            for (place, name), kind in zip(_LIMITS, ("base", "random"), strict=True)
        ]
        amplified = [(s, _dots(page, s, amplification(r), rows)) for s in own]
        said = "; ".join(f"{page.lineup.labels[s]} {short(page.mean(s, projection('delta', r)))}" for s in own)
        ends = ", ".join(f"{name} {short(dots[0].value)}" for (_, name), (_, dots) in zip(_LIMITS, limits, strict=True))
        factors = "; ".join(f"{page.lineup.labels[s]} {short(page.mean(s, amplification(r)))}" for s in own)
        views[(number,)] = [
            Panel(
                f"How much of W lies in the top {r} directions of ΔW, all projections: {said}; {ends}.",
                dot_traces([*projected, *limits]),
                dot_layout(rows, len(own) + 2, f"‖UᵀWVᵀ‖, r = {r}", log=True),
                "How much of W lies in these directions",
            ),
            Panel(
                f"Amplification factor at r = {r}, all projections: {factors}.",
                dot_traces(amplified),
                dot_layout(rows, len(own) + 2, f"‖ΔW‖ / ‖UᵀWVᵀ‖, r = {r}", log=True),
                "Amplification factor",
            ),
        ]
        cells += [
            (
                page.lineup.labels[s],
                str(r),
                row,
                *(
                    written(measure, page.mean(s, measure, None, None if row == _ALL else row))
                    for measure in (*(projection(kind, r) for kind in PROJECTED), amplification(r))
                ),
            )
            for s in own
            for row in rows
        ]
    heads = ("method", "r", "projection", *(projection(kind, 1).title for kind in PROJECTED), "amplification")
    return Figure(
        id="mechanism-plots",
        title="W in ΔW's directions, and amplification",
        views=views,
        controls=[Control("Directions r", [str(r) for r in ranks])],
        series=series,
        others=_LIMITS,
        table=table("‖UᵀWVᵀ‖ for directions of ΔW, of W and random ones, and ‖ΔW‖ / ‖UᵀWVᵀ‖", heads, cells, texts=3),
    )


_LIMITS = ((SQUARE, "W's own directions"), (CROSS, "random directions"))


def _dots(page: PageData, series: int, measure: Measure, rows: Sequence[str]) -> list[Dot]:
    label = page.lineup.labels[series]
    return [
        Dot(number, mean, f"{row}, {label}: {short(mean)}")
        for number, row in enumerate(rows)
        if (mean := page.mean(series, measure, None, None if row == _ALL else row))
    ]


def _mean_dots(page: PageData, series: Sequence[int], measure: Measure, rows: Sequence[str], name: str) -> list[Dot]:
    """Of all series together: W is the same for all."""
    found: list[Dot] = []
    for number, row in enumerate(rows):
        values = [x for s in series for x in page.values(s, measure, None, None if row == _ALL else row)]
        if values and (mean := fmean(values)) > 0:
            found.append(Dot(number, mean, f"{row}, {name}: {short(mean)}"))
    return found


def merging(page: PageData) -> Section:
    """Errors of merging adapters into weights of 16 bits."""
    section = Section("merging", "Numerics of merging")
    if not page.matrices:
        section.left_out = NO_ANALYSIS
        return section
    rows: list[Sequence[str]] = []
    for series in page.series():
        for dtype in MERGED:
            errors, lost = (page.values(series, of(dtype)) for of in (merge_error, merge_lost))
            if lost:
                rows.append(
                    (
                        page.lineup.labels[series],
                        dtype,
                        whole(len(lost)),
                        percent(fmean(errors)) if errors else NONE,
                        percent(max(errors)) if errors else NONE,
                        percent(fmean(lost)),
                        percent(max(lost)),
                        whole(len(lost) - len(errors)),
                    )
                )
    if not rows:
        has_base = any(matrix.mechanism for matrix in page.matrices)
        section.left_out = "no adapter is among the runs, and only adapters are merged." if has_base else _NO_BASE
        return section
    section.lead = (
        "An adapter merged into a base weight of 16 bits is rounded with it. The error is that rounding, in percent of "
        "‖ΔW‖; lost is the share of entries that merging does not change at all, since ΔW is below half a step of W's "
        f"format there. The figures are {page.means_over('matrices')}."
    )
    heads = (
        "method", "format", "matrices", "error, mean %", "largest %", "lost, mean %", "largest %", "beyond the format",
    )  # fmt: skip
    section.parts.append(table("Merging into the base weights", heads, rows, texts=2))
    return section
