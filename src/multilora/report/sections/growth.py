"""How the memory that is kept for backward grows, with modules and with length. From `multilora bench`."""

from __future__ import annotations

from typing import Any

from multilora.bench.record import AtLength, BenchRecord
from multilora.report.figures import LINE, Control, Figure, Panel
from multilora.report.markup import plot_text, table
from multilora.report.numbers import whole
from multilora.report.page_data import PageData
from multilora.report.series.costs import kept_by_length, kept_by_modules, kept_by_rank


def growth(page: PageData, bench: BenchRecord) -> Figure | None:
    """Over the total rank, and over the tokens of a row; None: there is nothing to compare."""
    over_length = _over_length(page, bench)
    views: dict[tuple[int, ...], list[Panel]] = {}
    for number, (length, at) in enumerate(bench.ordered):
        panels = [panel for panel in (_over_rank(page, length, at), over_length) if panel is not None]
        if panels:
            views[(number,)] = panels
    if not views:
        return None
    rows = [
        (name, whole(length), whole(costs.num_loras), whole(costs.total_rank), mib(costs.bytes.activations),
         whole(costs.bytes.activations / at.tokens))
        for length, at in bench.ordered
        for name, costs in at.methods.items()
    ]  # fmt: skip
    through = any(len(kept_by_modules(at)) > 1 for _, at in bench.ordered)
    return Figure(
        id="bench-growth",
        title="Memory kept for backward, by modules and by length",
        views=views,
        controls=[lengths_control(bench)],
        series=[page.lineup.benched(name) for name in bench.names],
        others=[(LINE, "through MultiLoRA")] if through else [],
        table=table("Kept for backward", ("method", "tokens a row", "n", "n·r", "MiB", "bytes per token"), rows),
        note=_per_module(bench),
    )


def _over_rank(page: PageData, length: int, at: AtLength) -> Panel | None:
    kept = kept_by_rank(at)
    if len(kept) < 2:
        return None
    points = kept_by_modules(at)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "s": LINE,
            "x": [point.total_rank for point in points],
            "y": [point.kept / 2**20 for point in points],
            "hoverinfo": "skip",
        }
    ] * (len(points) > 1)
    traces += [
        {
            "type": "scatter",
            "mode": "markers",
            "s": page.lineup.benched(name),
            "x": [point.place],
            "y": [point.kept],
            "text": [plot_text(f"{name}: {point.kept:,.1f} MiB", 120)],
            "hoverinfo": "text",
        }
        for name, point in kept.items()
    ]
    said = "; ".join(f"{name} {point.kept:,.1f}" for name, point in kept.items())
    return Panel(
        f"MiB kept for backward over the total rank, rows of {length} tokens: {said}.",
        traces,
        _plane("total rank n·r", "kept for backward, MiB"),
        f"By total rank, rows of {length}",
    )


def _over_length(page: PageData, bench: BenchRecord) -> Panel | None:
    if not (kept := kept_by_length(bench)):
        return None
    traces: list[dict[str, Any]] = []
    said: list[str] = []
    for name, points in kept.items():
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "s": page.lineup.benched(name),
                "x": [length for length, _ in points],
                "y": [size for _, size in points],
                "text": [plot_text(f"{name}, {length} tokens: {size:,.1f} MiB", 120) for length, size in points],
                "hoverinfo": "text",
            }
        )
        said.append(f"{name} from {points[0][1]:,.1f} to {points[-1][1]:,.1f}")
    return Panel(
        f"MiB kept for backward over the tokens of a row: {'; '.join(said)}.",
        traces,
        _plane("tokens a row", "kept for backward, MiB"),
        "By length",
    )


def _per_module(bench: BenchRecord) -> str | None:
    length, at = bench.ordered[-1]
    points = kept_by_modules(at)
    if len(points) < 2 or points[-1].num_loras == points[0].num_loras:
        return None
    first, last = points[0], points[-1]
    per_module = (last.kept - first.kept) / (last.num_loras - first.num_loras)
    return (
        "LoRA and MultiLoRA of equal total rank stand side by side. "
        f"In rows of {length} tokens each further module keeps {whole(per_module / 1024)} KiB more, "
        f"{whole(per_module / at.tokens)} bytes per token."
    )


def lengths_control(bench: BenchRecord) -> Control:
    """The choice of a length."""
    return Control("Tokens a row", [whole(length) for length, _ in bench.ordered])


def mib(count: float) -> str:
    """Bytes as mebibytes."""
    return f"{count / 2**20:,.1f}"


def _plane(x: str, y: str) -> dict[str, Any]:
    return {
        "height": 320,
        "xaxis": {"title": {"text": x}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
    }
