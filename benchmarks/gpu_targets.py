"""The targets of `gpu`, and whether the figures just measured meet them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from rich.console import Console

from benchmarks import methods

LEAST_SPEED, GOAL = 1.10, 1.27  # times PEFT LoRA's of equal rank, in a whole step
SLACK = 1.01  # over the arithmetic: an allocator rounds
SHAPE = {"d": 4096, "mlp": 11008, "layers": 32, "heads": 32, "vocabulary": 32000, "r": 32, "adapter_dtype": "fp32"}
_ADAPTER = {"fp32": 4, "bf16": 2}
_HIDDEN = 2  # bytes of a number in bf16


def apply(record: Mapping[str, Any]) -> bool:
    """Whether a run has the shape and the device that the targets are for."""
    options = record["options"]
    return options["device"] == "cuda" and all(options[key] == value for key, value in SHAPE.items())


def check(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per target and group, or pair of neighbouring n, in which it was measured."""
    entries: list[dict[str, Any]] = []
    for group in record["groups"]:
        entry = group["methods"].get(methods.VECTOR)
        if entry is not None and "speed_over_lora" in entry:
            value = entry["speed_over_lora"]["median"]
            entries.append(
                {
                    "figure": "step_speed_over_lora",
                    "checkpointing": group["checkpointing"],
                    "num_loras": group["num_loras"],
                    "value": value,
                    "target": LEAST_SPEED,
                    "met": value >= LEAST_SPEED,
                    "goal": GOAL,
                    "goal_met": value >= GOAL,
                }
            )
    for checkpointing in dict.fromkeys(group["checkpointing"] for group in record["groups"]):
        groups = [g for g in record["groups"] if g["checkpointing"] == checkpointing and _ours(g) is not None]
        groups.sort(key=lambda group: group["num_loras"])
        entries += [_growth(record, *pair) for pair in pairwise(groups)]
    return entries


def _ours(group: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return group["methods"].get(methods.VECTOR) or group["memory_alone"].get(methods.VECTOR)


def _growth(record: Mapping[str, Any], small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """Peak memory from one n to the next, against the minimum that one more module needs."""
    first, last = _ours(small), _ours(large)
    assert first is not None
    assert last is not None
    allowed = allowed_growth(record, small, large, last["trainable_parameters"] - first["trainable_parameters"])
    value = last["bytes"]["peak"] - first["bytes"]["peak"]
    return {
        "figure": "peak_growth",
        "checkpointing": small["checkpointing"],
        "num_loras": [small["num_loras"], large["num_loras"]],
        "value": value,
        "kept_growth": last["bytes"]["activations"] - first["bytes"]["activations"],
        "target": allowed,
        "met": value <= SLACK * allowed,
    }


def allowed_growth(
    record: Mapping[str, Any], small: Mapping[str, Any], large: Mapping[str, Any], parameters: int
) -> int:
    """Bytes of more modules: their parameters with gradients and AdamW's two averages, and tokens × n·r in bf16 of
    every adapted layer. (The scale counts as an adapter's parameter; where adapters are bf16 it has twice their bytes.)
    """
    size = _ADAPTER[record["options"]["adapter_dtype"]]
    ranks = (large["num_loras"] - small["num_loras"]) * small["r"]
    return 4 * size * parameters + record["adapted_layers"] * small["tokens"] * ranks * _HIDDEN


def show(console: Console, record: Mapping[str, Any]) -> None:
    """PASS or SHORT for every target."""
    for entry in record["targets"]:
        if record["targets_apply"]:
            verdict = "PASS" if entry["met"] else "SHORT"
        else:
            verdict = "(another shape or device than the target's: no verdict)"
        where = f"checkpointing {entry['checkpointing']}, n = {entry['num_loras']}"
        if entry["figure"] == "peak_growth":
            text = f"peak grows by {entry['value'] / 2**20:,.1f} MiB, at most {entry['target'] / 2**20:,.1f}"
        else:
            text = f"step over LoRA {entry['value']:.3f}, at least {entry['target']}, goal {entry['goal']}"
        console.print(f"{where}: {text}  {verdict}", highlight=False)
