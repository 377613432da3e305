"""The targets of the training step: what they ask, and whether the figures just measured meet them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks import methods

# setting, figure, comparison, limit
TARGETS: tuple[tuple[str, str, str, float], ...] = (
    ("bf16", "speed_over_lora", ">=", 1.10),
    ("bf16", "saved_bytes_over_lora", "<=", 0.75),
    ("bf16", "live_bytes_over_lora", "<=", 0.75),
    ("bf16", "speed_over_n_loop", ">=", 1.15),
    ("fp32", "speed_over_lora", ">=", 0.98),
    ("fp32", "saved_bytes_over_lora", "<=", 1.01),
    ("fp32", "live_bytes_over_lora", "<=", 1.01),
    ("fp32", "speed_over_n_loop", ">=", 1.15),
    ("fp32", "saved_bytes_over_n_loop", "<=", 0.50),
    ("fp32", "live_bytes_over_n_loop", "<=", 0.50),
)
# The targets are for this shape; another one's figures are shown without a verdict.
SHAPE = {"d": 1024, "layers": 4, "batch": 2, "length": 512, "r": 32}
NUM_LORAS = 3


def apply(options: dict[str, Any]) -> bool:
    """Whether a run with these options has the shape that the targets are for."""
    return all(options[key] == value for key, value in SHAPE.items())


def check(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per target and method of ours (vector, scalar), for the groups with n = 3."""
    entries: list[dict[str, Any]] = []
    for setting, figure, comparison, limit in TARGETS:
        for group in groups:
            if (group["setting"], group["num_loras"]) != (setting, NUM_LORAS):
                continue
            for method in (methods.VECTOR, methods.SCALAR):
                value = _figure(group["methods"], method, figure)
                met = value >= limit if comparison == ">=" else value <= limit
                entries.append(
                    {
                        "setting": setting,
                        "method": method,
                        "figure": figure,
                        "target": f"{comparison} {limit}",
                        "value": value,
                        "met": met,
                        "short_by": 0.0 if met else abs(value - limit),
                    }
                )
    return entries


def _figure(entries: dict[str, Any], method: str, figure: str) -> float:
    if figure in ("speed_over_lora", "speed_over_n_loop"):
        return entries[method][figure]["median"]
    kind, _, reference = figure.partition("_over_")
    return entries[method][kind] / entries[{"lora": methods.LORA, "n_loop": methods.LOOP}[reference]][kind]


def show(console: Console, record: dict[str, Any]) -> None:
    """PASS or SHORT for every target, then the distance from the necessary products."""
    for entry in record["targets"]:
        if record["targets_apply"]:
            verdict = "PASS" if entry["met"] else f"SHORT by {entry['short_by']:.3f}"
        else:
            verdict = "(another shape than the target's: no verdict)"
        console.print(
            f"{entry['setting']}  {entry['method']:<12} {entry['figure'].replace('_', ' '):<26}"
            f"{entry['value']:.3f}  target {entry['target']:<8} {verdict}",
            highlight=False,
        )
    for group in record["groups"]:
        parts = []
        for method in (methods.VECTOR, methods.SCALAR, methods.LORA, methods.LOOP):
            over = group["methods"][method]["step_over_necessary"]["median"]
            parts.append(f"{method} {100 * (over - 1):+.1f} %")
        console.print(
            f"{group['setting']}, n = {group['num_loras']}: step over the necessary products alone: {', '.join(parts)}",
            highlight=False,
        )
