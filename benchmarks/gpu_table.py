"""What `gpu` prints: the device, the rates of its products, and a table for each group."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MIB = 2**20
KINDS = ("weights", "optimizer", "gradients", "activations", "rest", "peak")


def head(console: Console, machine: Mapping[str, Any]) -> None:
    if machine["gpu"] is None:
        console.print("No GPU: measured on the CPU.", style="bold red")
        return
    console.print(
        f"{machine['gpu']}, {machine['gpu_memory_bytes'] / MIB:,.0f} MiB, capability {machine['gpu_capability']}; "
        f"driver {machine['driver'] or 'unknown'}, CUDA {machine['cuda']}",
        highlight=False,
    )


def rates(console: Console, record: Mapping[str, Any]) -> None:
    of = record["matmul"]
    shapes = ", ".join(f"{shape}: {rate / 1e12:.3g}" for shape, rate in of["by_shape"].items())
    console.print(
        f"{record['base_parameters']:,} parameters, {record['adapted_layers']} adapted layers. bf16 products of the "
        f"base alone: {of['flops_per_second'] / 1e12:.3g} TFLOP/s ({shapes})",
        highlight=False,
    )


def show(console: Console, group: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Print what a reader looks at first; the JSON has everything else."""
    rounds = max((entry["rounds"] for entry in group["methods"].values()), default=0)
    table = Table(
        title=f"d = {options.d}, MLP {options.mlp}, {options.layers} layers; "
        f"{options.batch} x {options.length} tokens; bf16 base, {options.adapter_dtype} adapters; "
        f"n = {group['num_loras']}, r = {group['r']}; checkpointing {group['checkpointing']}; {rounds} rounds",
        title_justify="left",
    )
    for heading in (
        "",
        "forward\ntokens/s",
        "step\ntokens/s",
        "step over LoRA\n(quartiles)",
        "share of rate\nforward, step",
        *(f"{kind}\nMiB" for kind in KINDS),
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name in (*group["methods"], *group["memory_alone"]):
        entry = group["methods"].get(name) or group["memory_alone"][name]
        table.add_row(
            entry["label"],
            *(_timed(entry) if "rounds" in entry else ("", "", "", "")),
            *(f"{entry['bytes'][kind] / MIB:,.1f}" for kind in KINDS),
        )
    console.print(table)
    if options.device == "cuda":
        entries = (*group["methods"].values(), *group["memory_alone"].values())
        launches = "; ".join(f"{entry['label']} {1e3 * entry['launch_seconds']:.1f}" for entry in entries)
        console.print(f"ms until a step's work is handed to the device: {launches}", highlight=False)
    for name, reason in group["not_measured"].items():
        console.print(f"not measured: {name}: {reason}", style="red", markup=False, highlight=False)


def _timed(entry: Mapping[str, Any]) -> tuple[str, ...]:
    speed, share, over = entry["tokens_per_second"], entry["share_of_matmul_rate"], entry.get("speed_over_lora")
    return (
        f"{speed['forward']:,.0f}",
        f"{speed['step']:,.0f}",
        f"{over['median']:.3f} ({over['q1']:.3f} to {over['q3']:.3f})" if over else "",
        f"{share['forward']:.2f}, {share['step']:.2f}",
    )
