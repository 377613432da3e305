"""What methods cost: speed, memory by kind, and how memory grows. From `multilora bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from multilora.bench.record import KINDS, AtLength, BenchRecord
from multilora.report.page_data import PageData
from multilora.report.paper_figures.style import GREY, above, cut, figure_of, is_wide, legend, line
from multilora.report.series.costs import (
    PHASES,
    kept_by_length,
    kept_by_modules,
    kept_by_rank,
    memory_by_kind,
    speeds,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FILLS = ("#3D4F66", "#7D93AD", "#B5C3D3", "#8F7F52")
_HATCHES = ("", "", "", "////")


def speed(page: PageData, width: float) -> Figure | None:
    """Tokens per second of each method at the longest length."""
    bench = page.inputs.bench
    if bench is None or (found := _longest(bench)) is None:
        return None
    length, at = found
    wide = is_wide(width)
    height = 0.16 * len(at.methods) + 0.55
    figure = figure_of(width, (height if wide else 2 * height) + 0.3)
    panels = figure.subplots(*((1, 2) if wide else (2, 1)), sharey=True, squeeze=False).flat
    for axes, (phase, title) in zip(panels, PHASES.items(), strict=True):
        values = speeds(at, phase)
        colours = [line(page.lineup.benched(name))["color"] for name in values]
        axes.barh(range(len(values)), list(values.values()), color=colours, height=0.7)
        _rows(axes, at)
        axes.set_title(title.lower())
        axes.set_xlabel("tokens per second")
    busy = "" if bench.is_quiet else " on a busy machine"
    above(figure, _measured(f"Tokens per second{busy}", length, bench))
    return figure


def memory(page: PageData, width: float) -> Figure | None:
    """Memory of a training step by kind, stacked, and its measured peak, at the longest length."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bench = page.inputs.bench
    if bench is None or (found := _longest(bench)) is None:
        return None
    length, at = found
    figure = figure_of(width, 0.2 * len(at.methods) + 1.1)
    axes = figure.subplots()
    left, sizes = np.zeros(len(at.methods)), memory_by_kind(at)
    for kind, fill, hatch in zip(KINDS, _FILLS, _HATCHES, strict=True):
        axes.barh(
            range(len(left)),
            sizes[kind],
            left=left,
            color=fill,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            height=0.7,
        )
        left += np.array(sizes[kind])
    mark: dict[str, Any] = {"marker": "x", "color": "black", "linestyle": "none", "markersize": 4}
    axes.plot(sizes["peak"], range(len(left)), **mark)
    _rows(axes, at)
    axes.set_xlabel("MiB")
    handles = [
        *(Patch(facecolor=f, hatch=h, edgecolor="white", linewidth=0) for f, h in zip(_FILLS, _HATCHES, strict=True)),
        Line2D([], [], **mark),
    ]
    columns = 5 if is_wide(width) else 3
    figure.legend(handles, [*KINDS, "peak of a step"], loc="outside lower center", ncols=columns, handlelength=1.4)
    above(figure, _measured("Memory of a training step", length, bench))
    return figure


def memory_growth(page: PageData, width: float) -> Figure | None:
    """Bytes kept for backward over the total rank, and over the tokens of a row."""
    bench = page.inputs.bench
    if bench is None or (found := _longest(bench)) is None:
        return None
    length, at = found
    kept, over_length = kept_by_rank(at), kept_by_length(bench)
    by_rank, by_length = len(kept) > 1, bool(over_length)
    if not by_rank and not by_length:
        return None
    wide, count = is_wide(width), by_rank + by_length
    figure = figure_of(width, 2.6 if wide else 1.8 * count + 0.9)
    panels = list(figure.subplots(*((1, count) if wide else (count, 1)), squeeze=False).flat)
    if by_rank:
        axes = panels.pop(0)
        points = kept_by_modules(at)
        axes.plot([p.total_rank for p in points], [p.kept / 2**20 for p in points], color=GREY, zorder=0)
        for name, point in kept.items():
            style = line(page.lineup.benched(name)) | {"linestyle": "none", "markersize": 4}
            axes.plot([point.place], [point.kept], **style)
        _plane(axes, "total rank n·r", f"rows of {length:,} tokens")
    if by_length:
        axes = panels.pop(0)
        for name, sizes in over_length.items():
            axes.plot([n for n, _ in sizes], [size for _, size in sizes], **line(page.lineup.benched(name)))
        _plane(axes, "tokens a row", "by length")
    legend(figure, page, [page.lineup.benched(name) for name in bench.names], width)
    above(figure, f"Memory kept for backward; grey: through MultiLoRA; {_on(bench)}")
    return figure


def _longest(bench: BenchRecord) -> tuple[int, AtLength] | None:
    """The longest length at which anything was measured."""
    return next(((length, at) for length, at in reversed(bench.ordered) if at.methods), None)


def _rows(axes: Axes, at: AtLength) -> None:
    axes.set_yticks(range(len(at.methods)), [cut(name, 24) for name in at.methods])
    axes.set_ylim(len(at.methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _plane(axes: Axes, x: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel("kept for backward / MiB")
    axes.set_xlim(0, 1.03 * axes.get_xlim()[1])
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_title(title)


def _measured(what: str, length: int, bench: BenchRecord) -> str:
    return f"{what}, {bench.settings.batch} rows of {length:,} tokens; {_on(bench)}"


def _on(bench: BenchRecord) -> str:
    precision = "bf16" if bench.settings.bf16 else "fp32"
    return f"{cut(bench.model, 40)}, {precision}, {cut(bench.machine.gpu or bench.machine.cpu, 40)}"
