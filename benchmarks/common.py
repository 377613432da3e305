"""What the benchmarks share: options, checks, and where results go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from multilora.bench.machine import machine
from multilora.bench.record import BUSY
from multilora.bench.rounds import CLOCKS, LEAST_ROUNDS

RESULTS = Path(__file__).parent / "results"
# The source of `peak()`, in bytes, for a process whose peak memory is measured. Where there is no /proc, the value
# includes the peak of the process that started this one.
PEAK = """
import resource, sys
from pathlib import Path
def peak():
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_same_function(outputs: dict[str, Tensor], reference: str, tolerance: float) -> dict[str, float]:
    """Largest difference of each output from the reference's, relative to its largest value.

    Raises:
        RuntimeError: one is above `tolerance`: a method computes something else, and its time would mean nothing.
    """
    scale = outputs[reference].float().abs().max()
    differences = {
        name: float((output.float() - outputs[reference].float()).abs().max() / scale)
        for name, output in outputs.items()
    }
    if wrong := {name: d for name, d in differences.items() if not d <= tolerance}:
        raise RuntimeError(f"these methods do not compute what {reference!r} computes (above {tolerance}): {wrong}")
    return differences


def parser(description: str, repeats: int, minutes: float, num_loras: Sequence[int]) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument
    add("--quick", action="store_true", help="toy size, few rounds: shows that it runs; its figures mean nothing")
    add(
        "--settings",
        nargs="+",
        choices=sorted(DTYPES),
        default=["fp32", "bf16"],
        help="dtype of the base model; adapters are fp32 in both",
    )
    add("--num-loras", nargs="+", type=int, default=list(num_loras), metavar="N", help="LoRA modules per layer")
    add("--r", type=int, default=32, help="rank of one LoRA module")
    add("--repeats", type=int, default=repeats, help="timed rounds per setting and N, at most")
    add(
        "--minutes",
        type=float,
        default=minutes,
        help=f"time for all rounds together, shared by the settings; each gets at least {LEAST_ROUNDS} rounds anyway",
    )
    add("--threads", type=int, default=torch.get_num_threads(), help="threads of torch's CPU operations")
    add(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="cpu: the processor time of one thread (sets --threads 1), for a machine that others use too",
    )
    add(
        "--output",
        type=Path,
        default=None,
        help="JSON file, with the table beside it; default: a dated name in results/, and nothing for --quick",
    )
    return result


def shape_parser(
    description: str, d: int, layers: int, repeats: int, num_loras: int | Sequence[int] = 3
) -> argparse.ArgumentParser:
    """The options of a benchmark of a model's shape that is timed by the wall clock alone."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = result.add_argument
    add("--quick", action="store_true", help="toy size: shows that it runs; its figures mean nothing")
    add("--d", type=int, default=d, help="hidden size")
    add("--layers", type=int, default=layers, help="decoder blocks")
    several = None if isinstance(num_loras, int) else "+"
    add("--num-loras", nargs=several, type=int, default=num_loras, metavar="N", help="LoRA modules per layer")
    add("--r", type=int, default=32, help="rank of one LoRA module")
    add("--repeats", type=int, default=repeats, help="timed repeats of each, interleaved where there are several")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads of torch's CPU operations")
    add("--clock", choices=["wall"], default="wall", help="only the wall clock")
    add("--output", type=Path, default=None, help="JSON file; default: a dated name in results/, nothing for --quick")
    return result


def show_targets(console: Console, record: dict[str, Any]) -> None:
    """A line per target: met, or short of it."""
    for target in record["targets"]:
        verdict = "PASS" if target["met"] else "SHORT"
        console.print(f"{target['figure']:<16} {target['value']:.4g}  target {target['target']:<12} {verdict}")


def start_record(benchmark: str, options: argparse.Namespace) -> dict[str, Any]:
    """The JSON's head. Sets the number of threads that the options ask for."""
    if options.clock == "cpu":
        options.threads = 1
    torch.set_num_threads(options.threads)
    shown = {key: value for key, value in vars(options).items() if key != "output"}  # a path says nothing to others
    return {
        "benchmark": benchmark,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": shown,
        "machine": machine(),
        "groups": [],
    }


def print_head(console: Console, record: dict[str, Any]) -> None:
    facts = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    console.print(
        f"{facts['cpu']} ({', '.join(facts['cpu_features'])}), {facts['cores']} cores, {facts['threads']} threads; "
        f"Python {facts['python']}, {versions}; {record['started']}",
        highlight=False,
    )
    if record["options"]["clock"] == "cpu":
        console.print("Times are the processor time of one thread.")
    if record["options"]["quick"]:
        console.print("--quick: toy size; the times mean nothing.", style="bold red")


def finish(console: Console, record: dict[str, Any], output: Path | None) -> None:
    """Say whether the machine was quiet, and write the record and what was printed."""
    others: list[float | None] = [entry["load"]["others_cpu"] for entry in record["groups"]]
    known = [share for share in others if share is not None]
    record["quiet"] = len(known) == len(others) and max(known) <= BUSY
    if not record["quiet"] and record["options"]["clock"] == "wall":
        share = f"up to {100 * max(known):.0f} %" if len(known) == len(others) else "an unknown share"
        console.print(
            f"Not known to be a quiet machine: others took {share} of the cores' time meanwhile. "
            "Times are provisional; byte counts are not concerned.",
            style="bold red",
        )
    if (path := write(record, console.export_text(clear=False), output)) is not None:
        console.print(f"Wrote {path.name} and {path.with_suffix('.txt').name}", highlight=False)


def check_adapter_dtype(name: str, trainable: Sequence[Tensor]) -> None:
    """Every method's parameters are fp32 whatever the base's dtype is: PEFT's default."""
    if any(p.dtype != torch.float32 for p in trainable):
        raise RuntimeError(f"{name}: adapter parameters are not fp32: {sorted({str(p.dtype) for p in trainable})}")


def write(record: dict[str, Any], table: str, output: Path | None) -> Path | None:
    """Write the record as JSON and the table beside it; with --quick only where an output was named."""
    if output is None:
        if record["options"]["quick"]:
            return None
        stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
        output = RESULTS / f"{stamp}-{record['benchmark']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    output.with_suffix(".txt").write_text(table)
    return output


def console() -> Console:
    return Console(record=True, width=150)
