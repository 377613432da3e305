"""What both benchmarks share: interleaved timing, the machine's facts, options, and where results go."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# "cpu": seconds that this process computed, all threads together. With one thread other processes do not count.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2
LEAST_ROUNDS = 5  # below it medians and quartiles say nothing, whatever --minutes says
QUIET = 0.02  # share of the cores' time that others may take while a machine still counts as quiet


@dataclass
class Case:
    """One thing to time. `forward` returns what `backward` takes; `reset` (gradients to None) is not timed."""

    name: str
    label: str
    forward: Callable[[], Any]
    backward: Callable[[Any], None]
    reset: Callable[[], None] = lambda: None
    optimizer: torch.optim.Optimizer | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])  # into the JSON as they are


Seconds = dict[str, dict[str, list[float]]]  # case name → "forward" | "backward" | "optimizer" → one per round


def run_rounds(cases: Sequence[Case], repeats: int, minutes: float, clock: str = "wall") -> Seconds:
    """Time all cases once per round, in an order drawn anew for every round (seed 0), until either limit is reached.

    Interleaved, so that a slow phase of the machine meets all cases alike; drawn and not rotated, because the memory
    that a case leaves behind makes its successor slower or faster, and a rotation keeps the successors. Python's
    cyclic collector runs between the timed parts, never within. `clock`: a key of CLOCKS.
    """
    seconds: Seconds = {case.name: {"forward": [], "backward": [], "optimizer": []} for case in cases}
    deadline = time.perf_counter() + minutes * 60
    order = random.Random(0)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for index in range(-WARM_UP, repeats):
            if index >= LEAST_ROUNDS and time.perf_counter() > deadline:
                break
            for case in order.sample(cases, len(cases)):
                times = _time_once(case, CLOCKS[clock])
                if index >= 0:
                    for part, value in times.items():
                        seconds[case.name][part].append(value)
    finally:
        gc.enable()
        gc.unfreeze()
    return seconds


def _time_once(case: Case, clock: Callable[[], float]) -> dict[str, float]:
    case.reset()
    gc.collect()
    start = clock()
    result = case.forward()
    middle = clock()
    case.backward(result)
    end = clock()
    times = {"forward": middle - start, "backward": end - middle}
    del result
    if case.optimizer is not None:
        start = clock()
        case.optimizer.step()
        times["optimizer"] = clock() - start
    return times


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and minimum."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(values)}


def step_seconds(seconds: Seconds, name: str) -> list[float]:
    """Forward plus backward, one per round."""
    return [f + b for f, b in zip(seconds[name]["forward"], seconds[name]["backward"], strict=True)]


def speed(seconds: Seconds, name: str, reference: str) -> dict[str, float]:
    """How many times faster `name` is than `reference`: the summary of the ratios within each round."""
    pairs = zip(step_seconds(seconds, reference), step_seconds(seconds, name), strict=True)
    return summary([theirs / ours for theirs, ours in pairs])


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


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures. No name and no path of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    features = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_features": [name for name in features if name in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "multilora")},
    }


class Load:
    """How busy others kept the machine inside a `with` block, into `facts`.

    `others_cpu`: share of all cores' time that other processes (or the host) took; None where /proc/stat is missing.
    """

    facts: dict[str, Any]

    def __enter__(self) -> Load:
        self.facts = {"load_average_before": load_average()}
        self._wall, self._own, self._busy = time.perf_counter(), time.process_time(), _busy_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        wall, own = time.perf_counter() - self._wall, time.process_time() - self._own
        busy = _busy_seconds()
        others = None
        if busy is not None and self._busy is not None:
            others = round(max(0.0, busy - self._busy - own) / (wall * (os.cpu_count() or 1)), 4)
        self.facts |= {"load_average_after": load_average(), "others_cpu": others}


def _busy_seconds() -> float | None:
    """Seconds that all cores together were not idle since the system started, time stolen by the host included."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, stat.read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


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
        help="JSON file, with the table beside it; None: a dated name in results/, and nothing for --quick",
    )
    return result


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
    record["quiet"] = len(known) == len(others) and max(known) <= QUIET
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
