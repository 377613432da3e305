"""What methods cost beside one another: speed, memory by kind, and how memory grows. From `multilora bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multilora.bench.record import KINDS, BenchRecord, MethodCosts
from multilora.report.figures import CROSS, FILL, Figure, Panel, swatch
from multilora.report.markup import Html, el, plot_text, table
from multilora.report.numbers import NONE, percent, short, whole
from multilora.report.page_data import PageData
from multilora.report.sections.growth import growth, lengths_control, mib
from multilora.report.series.costs import PHASES, memory_by_kind, speeds

_ROW_PIXELS, _MARGIN_PIXELS = 30, 70


def costs(page: PageData) -> list[Html | Figure]:
    """A paragraph, a table and figures; empty without a bench."""
    bench = page.inputs.bench
    if bench is None:
        return []
    parts: list[Html | Figure] = [
        el("h3", "Methods in turns on one machine"),
        el(
            "p",
            f"Each method adapted the same model of random weights, {bench.model} with "
            f"{bench.base_parameters:,} parameters, and all were timed in turns by multilora bench. "
            f"Measured on {bench.how()}.",
            class_="lead",
        ),
    ]
    if (warning := _busy(bench)) is not None:
        parts.append(el("p", warning, class_="note"))
    if bench.faults:
        items = (el("li", f"{f.method}, rows of {f.length} tokens: {f.message}") for f in bench.faults[:50])
        parts += [el("p", "Not measured:", class_="note"), el("ul", *items)]
    parts.append(_table(page, bench))
    parts += [_speed(page, bench), _memory(page, bench)]
    if (grown := growth(page, bench)) is not None:
        parts.append(grown)
    return parts


def _busy(bench: BenchRecord) -> str | None:
    if bench.is_quiet:
        return None
    share = bench.others_cpu
    took = "an unknown share" if share is None else f"up to {percent(share, 0)} %"
    return f"Other processes took {took} of the cores' time meanwhile: times are provisional; bytes are unaffected."


def _table(page: PageData, bench: BenchRecord) -> Html:
    heads = ["method", "tokens a row", "trained parameters", "adapter, MiB", "forward, tokens/s", "step, tokens/s"]
    if bench.reference is not None:
        heads.append(f"times {bench.reference}")
    heads += [f"{kind}, MiB" for kind in ("peak", *KINDS)]
    rows = [
        [
            _named(page, name),
            whole(length),
            whole(costs.trainable_parameters),
            NONE if costs.adapter_bytes is None else mib(costs.adapter_bytes),
            whole(costs.tokens_per_second.forward),
            whole(costs.tokens_per_second.step),
            *([_median(costs)] if bench.reference is not None else []),
            *(mib(getattr(costs.bytes, kind)) for kind in ("peak", *KINDS)),
        ]
        for length, at in bench.ordered
        for name, costs in at.methods.items()
    ]
    return table("What methods cost; a step is forward, backward and optimizer", heads, rows, class_="costs")


def _speed(page: PageData, bench: BenchRecord) -> Figure:
    views: dict[tuple[int, ...], list[Panel]] = {}
    rows: list[Sequence[str]] = []
    for number, (length, at) in enumerate(bench.ordered):
        panels: list[Panel] = []
        for phase, title in PHASES.items():
            values = speeds(at, phase)
            said = "; ".join(f"{name} {whole(value)}" for name, value in values.items())
            traces: list[dict[str, Any]] = [
                {
                    "type": "bar",
                    "orientation": "h",
                    "s": page.lineup.benched(name),
                    "x": [value],
                    "y": [row],
                    "text": [plot_text(f"{name}: {whole(value)} tokens/s", 120)],
                    "textposition": "none",
                    "hoverinfo": "text",
                }
                for row, (name, value) in enumerate(values.items())
            ]
            alt = f"Tokens per second in rows of {length}, {title.lower()}: {said}."
            panels.append(Panel(alt, traces, _rows_layout(list(values), "tokens per second"), title))
        views[(number,)] = panels
        rows += [
            (name, whole(length), whole(c.tokens_per_second.forward), whole(c.tokens_per_second.step), _ratio(c),
             whole(c.tokens_per_second.rounds))
            for name, c in at.methods.items()
        ]  # fmt: skip
    heads = ("method", "tokens a row", "forward", "step", f"step, times {bench.reference or 'nothing'}", "rounds")
    note = "Medians over rounds; each round runs every method once, in random order."
    return Figure(
        id="bench-speed",
        title="Tokens per second",
        views=views,
        controls=[lengths_control(bench)],
        table=table("Tokens per second", heads, rows),
        note=note,
    )


def _memory(page: PageData, bench: BenchRecord) -> Figure:
    views: dict[tuple[int, ...], list[Panel]] = {}
    rows: list[Sequence[str]] = []
    for number, (length, at) in enumerate(bench.ordered):
        names, sizes = list(at.methods), memory_by_kind(at)
        traces: list[dict[str, Any]] = [
            {
                "type": "bar",
                "orientation": "h",
                "s": FILL - place,
                "x": sizes[kind],
                "y": list(range(len(names))),
                "text": [
                    plot_text(f"{name}, {kind}: {mib(getattr(c.bytes, kind))} MiB", 120)
                    for name, c in at.methods.items()
                ],
                "textposition": "none",
                "hoverinfo": "text",
            }
            for place, kind in enumerate(KINDS)
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "s": CROSS,
                "x": sizes["peak"],
                "y": list(range(len(names))),
                "text": [
                    plot_text(f"{name}, peak: {mib(costs.bytes.peak)} MiB", 120) for name, costs in at.methods.items()
                ],
                "hoverinfo": "text",
            }
        )
        said = "; ".join(f"{name} peak {mib(costs.bytes.peak)}" for name, costs in at.methods.items())
        alt = f"Memory by kind in MiB, rows of {length} tokens: {said}."
        views[(number,)] = [Panel(alt, traces, _rows_layout(names, "MiB"))]
        rows += [
            (name, whole(length), *(mib(getattr(costs.bytes, kind)) for kind in (*KINDS, "peak")))
            for name, costs in at.methods.items()
        ]
    return Figure(
        id="bench-memory",
        title="Memory of a training step by kind",
        views=views,
        controls=[lengths_control(bench)],
        others=[*((FILL - place, kind) for place, kind in enumerate(KINDS)), (CROSS, "peak of a step")],
        table=table("Memory of a training step, MiB", ("method", "tokens a row", *KINDS, "peak"), rows),
        note="Weights are the base's and the adapter's; activations are what forward keeps for backward. A step never "
        "needs all kinds at once: gradients are allocated while activations are freed, so the peak may lie within the "
        "bar; short-lived tensors, such as the logits' gradient, may put it beyond.",
    )


def _named(page: PageData, name: str) -> Html:
    return el("span", swatch(page.lineup.benched(name)), el("span", name), class_="named")


def _median(costs: MethodCosts) -> str:
    found = costs.tokens_per_second.over_reference
    return NONE if found is None else short(found.median)


def _ratio(costs: MethodCosts) -> str:
    found = costs.tokens_per_second.over_reference
    return NONE if found is None else f"{short(found.median)} ({short(found.q1)} to {short(found.q3)})"


def _rows_layout(names: Sequence[str], title: str) -> dict[str, Any]:
    return {
        "height": _MARGIN_PIXELS + _ROW_PIXELS * len(names),
        "barmode": "stack",
        "bargap": 0.3,
        "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [plot_text(name) for name in names],
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
            "fixedrange": True,
        },
    }
