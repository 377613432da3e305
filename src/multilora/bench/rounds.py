"""Interleaved timing: every case once per round, in an order drawn anew, and what the rounds say."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# "cpu": seconds that this process computed, all threads together. With one thread other processes do not count.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2
LEAST_ROUNDS = 5  # below it medians and quartiles say nothing, whatever --minutes says


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
    _wait()
    start = clock()
    result = case.forward()
    _wait()
    middle = clock()
    case.backward(result)
    _wait()
    end = clock()
    times = {"forward": middle - start, "backward": end - middle}
    del result
    if case.optimizer is not None:
        start = clock()
        case.optimizer.step()
        _wait()
        times["optimizer"] = clock() - start
    return times


def _wait() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


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
