"""One group of cases (a setting and an n): its record for the JSON, and its table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import methods
from multilora.bench.rounds import Case, Seconds, speed, step_seconds, summary

PRODUCTS = "products"
MIB = 2**20


def record(
    setting: str,
    num_loras: int,
    r: int,
    cases: list[Case],
    seconds: Seconds,
    load: dict[str, Any],
    products_lack_base: bool,
) -> dict[str, Any]:
    """The group as it goes into the JSON.

    Args:
        load: `machine.Load.facts` of the timed rounds.
        products_lack_base: the products' case has the low-rank part alone; the base's part is then the whole time of
            the frozen base in the same round.
    """
    necessary = step_seconds(seconds, PRODUCTS)
    if products_lack_base:
        necessary = [a + b for a, b in zip(necessary, step_seconds(seconds, methods.BASE), strict=True)]
    lora = step_seconds(seconds, methods.LORA)
    lora_flops = next(case for case in cases if case.name == methods.LORA).facts["flops"]
    entries: dict[str, Any] = {}
    for case in cases:
        step = step_seconds(seconds, case.name)
        parts = {part: values for part, values in seconds[case.name].items() if values}
        entries[case.name] = {"label": case.label, **case.facts}
        entries[case.name]["seconds"] = {"step": summary(step)} | {k: summary(v) for k, v in parts.items()}
        entries[case.name]["samples"] = {k: [round(s, 6) for s in v] for k, v in parts.items()}
        if case.name == PRODUCTS:
            continue
        entries[case.name]["speed_over_lora"] = speed(seconds, case.name, methods.LORA)
        entries[case.name]["speed_over_n_loop"] = speed(seconds, case.name, methods.LOOP)
        entries[case.name]["flop_bound_over_lora"] = lora_flops / case.facts["flops"]
        if case.name != methods.BASE:
            entries[case.name]["step_over_necessary"] = summary([s / n for s, n in zip(step, necessary, strict=True)])
    return {
        "setting": setting,
        "num_loras": num_loras,
        "r": r,
        "rounds": len(lora),
        "load": load,
        "methods": {name: entry for name, entry in entries.items() if name != PRODUCTS},
        "necessary": {
            "seconds": summary(necessary),
            "speed_over_lora": summary([a / b for a, b in zip(lora, necessary, strict=True)]),
            "products": entries[PRODUCTS],
        },
    }


def show(console: Console, group: dict[str, Any], what: str) -> None:
    """Print what a reader looks at first; the JSON has everything else."""
    adapters = "" if group["setting"] == "fp32" else ", fp32 adapters"
    result = Table(
        title=f"{what}; {group['setting']} base{adapters}; n = {group['num_loras']}, r = {group['r']}; "
        f"{group['rounds']} rounds",
        title_justify="left",
    )
    with_optimizer = any("optimizer" in entry["seconds"] for entry in group["methods"].values())
    for heading in (
        "",
        "forward\nms",
        "backward\nms",
        "step\nms",
        "speed over LoRA\n(quartiles)",
        "FLOP\nbound",
        "step over\nnecessary",
        "saved\nMiB",
        "live\nMiB",
        "saved\n/ LoRA",
        *(("optimizer\nms",) if with_optimizer else ()),
    ):
        result.add_column(heading, justify="right" if heading else "left")
    lora = group["methods"][methods.LORA]
    for entry in group["methods"].values():
        seconds = entry["seconds"]
        result.add_row(
            entry["label"],
            _ms(seconds["forward"]["median"]),
            _ms(seconds["backward"]["median"]),
            _ms(seconds["step"]["median"]),
            _quartiles(entry["speed_over_lora"]),
            f"{entry['flop_bound_over_lora']:.2f}",
            f"{entry['step_over_necessary']['median']:.2f}" if "step_over_necessary" in entry else "",
            f"{entry['saved_bytes'] / MIB:.1f}",
            f"{entry['live_bytes'] / MIB:.1f}",
            f"{entry['saved_bytes'] / lora['saved_bytes']:.2f}",
            *((_ms(seconds["optimizer"]["median"]) if "optimizer" in seconds else "",) if with_optimizer else ()),
        )
    necessary = group["necessary"]
    result.add_section()
    result.add_row(
        "necessary products alone",
        "",
        "",
        _ms(necessary["seconds"]["median"]),
        _quartiles(necessary["speed_over_lora"]),
        "1.00",
        "1.00",
    )
    console.print(result)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _quartiles(values: dict[str, float]) -> str:
    return f"{values['median']:.3f} ({values['q1']:.3f} to {values['q3']:.3f})"
