"""Capacity of a device and demand of a model: the measured rate of its matrix products, and their number.

The necessary operations of a decoder's training step with frozen base weights, on B sequences of L tokens:

    linear layers    `products.base_flops`: forward and ∂x; the output layer too
    adapters         `products.low_rank_flops`
    attention        Q Kᵀ and P V forward, their four gradients backward; their causal half: 6 · B · L² · d a block

What runs again in backward because of gradient checkpointing is not necessary, and not counted.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.products import base_flops, low_rank_flops

Shape = tuple[int, int]  # (d_in, d_out) of a linear layer

_WARM_UP, _TIMES = 3, 7
_LEAST_SECONDS = 0.02  # of one timing: many products of a kind, so that a launch's time does not count


@dataclass(frozen=True)
class Work:
    """Necessary floating-point operations.

    Attributes:
        forward: of a forward pass.
        step: of forward and backward; the optimizer has no products.
    """

    forward: int
    step: int


def necessary(linears: Sequence[Shape], head: Shape, batch: int, length: int, blocks: int, rank: int) -> Work:
    """Work of a model whose linear layers are all adapted except the output layer.

    Args:
        linears: the adapted layers.
        head: the output layer.
        batch, length: sequences, and tokens of each.
        blocks: of the decoder.
        rank: n·r of every adapter; 0: the frozen base.
    """
    tokens, d = batch * length, head[0]
    base = sum(base_flops(tokens, *shape) for shape in (*linears, head))
    low_rank = sum(low_rank_flops(tokens, *shape, rank) for shape in linears)
    attention = blocks * 6 * batch * length * length * d
    return Work(base // 2 + low_rank // 3 + attention // 3, base + low_rank + attention)


def matmul_rate(linears: Sequence[Shape], tokens: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The rate of the base's products alone, x Wᵀ and g W, on random matrices of the model's shapes.

    Returns:
        flops_per_second: of all of them in the model's proportions, and by shape ("4096 x 11008").
    """
    seconds: dict[Shape, float] = {}
    for d_in, d_out in dict.fromkeys(linears):
        x, g, W = (
            torch.randn(*size, device=device).to(dtype) for size in ((tokens, d_in), (tokens, d_out), (d_out, d_in))
        )
        y, grad_x = torch.empty_like(g), torch.empty_like(x)

        def products(x: Any = x, g: Any = g, W: Any = W, y: Any = y, grad_x: Any = grad_x) -> None:
            torch.mm(x, W.t(), out=y)
            torch.mm(g, W, out=grad_x)

        seconds[d_in, d_out] = _seconds(products, device)
    total = sum(base_flops(tokens, *shape) for shape in linears)
    return {
        "flops_per_second": total / sum(seconds[shape] for shape in linears),
        "by_shape": {
            f"{d_in} x {d_out}": base_flops(tokens, d_in, d_out) / taken for (d_in, d_out), taken in seconds.items()
        },
    }


def _seconds(work: Callable[[], None], device: str) -> float:
    """Seconds of one call: the median of several timings, each over enough calls to be measurable."""

    def timed(calls: int) -> float:
        wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        return (time.perf_counter() - start) / calls

    once = timed(_WARM_UP)
    calls = max(1, round(_LEAST_SECONDS / once))
    return statistics.median(timed(calls) for _ in range(_TIMES))


def launch_seconds(step: Callable[[], None], reset: Callable[[], None], device: str) -> float:
    """Seconds until a step's work is queued on the idle device, median of several. On a CPU: until the step ends.

    Where that is about as long as the step takes, the step waits for Python and not for the device.
    """
    taken: list[float] = []
    for _ in range(_TIMES):
        reset()
        wait(device)
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    wait(device)
    return statistics.median(taken)


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def device_facts(device: str) -> dict[str, Any]:
    """What a reader needs to judge figures of this device, beside `multilora.bench.machine.machine`."""
    if device != "cuda":
        return {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _driver() -> str | None:
    file = Path("/proc/driver/nvidia/version")
    return driver_version(file.read_text()) if file.exists() else None


def driver_version(text: str) -> str | None:
    """The version in the text of NVIDIA's kernel module; None if it names none."""
    found = re.search(r"NVRM version:.*?\b(\d+(?:\.\d+)+)\b", text)
    return found[1] if found else None
