"""How the memory that is kept for backward grows, with modules and with length. From `multilora bench`."""

from __future__ import annotations

from typing import Any

from multilora.bench.record import AtLength, BenchRecord
from multilora.report.figures import LINE, Control, Figure, Panel
from multilora.report.markup import plot_text, table
from multilora.report.material import Material
from multilora.report.numbers import whole

_ASIDE = 0.013  # of the largest rank


def growth(material: Material, bench: BenchRecord) -> Figure | None:
    """Over the total rank, and over the tokens of a row; None: there is nothing to compare."""
    over_length = _over_length(material, bench)
    views: dict[tuple[int, ...], list[Panel]] = {}
    for number, (length, at) in enumerate(bench.ordered):
        panels = [panel for panel in (_over_rank(material, length, at), over_length) if panel is not None]
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
    through = any(len(multilora_points(at)) > 1 for _, at in bench.ordered)
    return Figure(
        id="bench-growth",
        title="Memory kept for backward, by modules and by length",
        views=views,
        controls=[lengths_control(bench)],
        series=[material.lineup.benched(name) for name in bench.names],
        others=[(LINE, "through MultiLoRA")] if through else [],
        table=table("Kept for backward", ("method", "tokens a row", "n", "n·r", "MiB", "bytes per token"), rows),
        note=_per_module(bench),
    )


def _over_rank(material: Material, length: int, at: AtLength) -> Panel | None:
    places = rank_places(at)
    if len(places) < 2:
        return None
    points = multilora_points(at)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "s": LINE,
            "x": [rank for _, rank, _ in points],
            "y": [kept / 2**20 for _, _, kept in points],
            "hoverinfo": "skip",
        }
    ] * (len(points) > 1)
    traces += [
        {
            "type": "scatter",
            "mode": "markers",
            "s": material.lineup.benched(name),
            "x": [place],
            "y": [at.methods[name].bytes.activations / 2**20],
            "text": [plot_text(f"{name}: {mib(at.methods[name].bytes.activations)} MiB", 120)],
            "hoverinfo": "text",
        }
        for name, place in places.items()
    ]
    said = "; ".join(f"{name} {mib(at.methods[name].bytes.activations)}" for name in places)
    return Panel(
        f"MiB kept for backward over the total rank, rows of {length} tokens: {said}.",
        traces,
        _plane("total rank n·r", "kept for backward, MiB"),
        f"By total rank, rows of {length}",
    )


def _over_length(material: Material, bench: BenchRecord) -> Panel | None:
    if len(bench.lengths) < 2:
        return None
    traces: list[dict[str, Any]] = []
    said: list[str] = []
    for name in bench.names:
        points = [(length, at.methods[name].bytes.activations) for length, at in bench.ordered if name in at.methods]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "s": material.lineup.benched(name),
                "x": [length for length, _ in points],
                "y": [kept / 2**20 for _, kept in points],
                "text": [plot_text(f"{name}, {length} tokens: {mib(kept)} MiB", 120) for length, kept in points],
                "hoverinfo": "text",
            }
        )
        said.append(f"{name} from {mib(points[0][1])} to {mib(points[-1][1])}")
    return Panel(
        f"MiB kept for backward over the tokens of a row: {'; '.join(said)}.",
        traces,
        _plane("tokens a row", "kept for backward, MiB"),
        "By length",
    )


def rank_places(at: AtLength) -> dict[str, float]:
    """Where each adapter stands on the axis of total ranks: LoRA and MultiLoRA of one rank side by side."""
    ranks = {name: costs.total_rank for name, costs in at.methods.items() if costs.total_rank is not None}
    aside = _ASIDE * max(ranks.values(), default=0)
    return {name: rank + (aside if at.methods[name].kind == "multilora" else -aside) for name, rank in ranks.items()}


def multilora_points(at: AtLength) -> list[tuple[int, int, int]]:
    """(n, n·r, bytes kept for backward) of MultiLoRA, ascending; of the module rank that most methods have."""
    found = [c for c in at.methods.values() if c.kind == "multilora" and c.num_loras and c.r]
    ranks = [costs.r for costs in found]
    if not ranks:
        return []
    rank = max(ranks, key=ranks.count)
    own = (c for c in found if c.r == rank)
    return sorted((c.num_loras or 0, c.total_rank or 0, c.bytes.activations) for c in own)


def _per_module(bench: BenchRecord) -> str | None:
    length, at = bench.ordered[-1]
    points = multilora_points(at)
    if len(points) < 2 or points[-1][0] == points[0][0]:
        return None
    per_module = (points[-1][2] - points[0][2]) / (points[-1][0] - points[0][0])
    return (
        "LoRA and MultiLoRA of one total rank stand side by side. "
        f"In rows of {length} tokens a module more keeps {whole(per_module / 1024)} KiB more, "
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
