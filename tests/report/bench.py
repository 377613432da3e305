"""A bench.json made by hand, in which MultiLoRA is a tenth faster than LoRA of equal rank and keeps the same bytes."""

from __future__ import annotations

from typing import Any

from multilora.bench.record import BenchRecord

# kind, n, r
METHODS: dict[str, tuple[str, int | None, int | None]] = {
    "frozen base": ("frozen", None, None),
    "full": ("full", None, None),
    "lora@4": ("lora", 1, 4),
    "lora@24": ("lora", 1, 24),
    "multilora@1x8": ("multilora", 1, 8),
    "multilora@3x8": ("multilora", 3, 8),
    "multilora@5x8": ("multilora", 5, 8),
}
BATCH = 2
KEPT = 100  # bytes per token of the base
PER_RANK = 7  # bytes per token


def bench_content(lengths: tuple[int, ...] = (32, 64)) -> dict[str, Any]:
    """As bench.json has it."""
    return {
        "format": 2,
        "machine": {"cpu": "a processor", "gpu": None, "threads": 2, "versions": {"torch": "2"}, "cores": 2},
        "model": "toy Llama",
        "base_parameters": 1000,
        "settings": {"batch": BATCH, "bf16": False, "checkpointing": False, "device": "cpu", "minutes": 1.0},
        "reference": "lora@24",
        "lengths": {
            str(length): {
                "tokens": BATCH * length,
                "methods": {name: _costs(name, BATCH * length) for name in METHODS},
                "load": {"others_cpu": 0.01},
            }
            for length in lengths
        },
        "growth": {},
        "faults": [],
    }


def bench_record(lengths: tuple[int, ...] = (32, 64)) -> BenchRecord:
    """The same, checked."""
    return BenchRecord.model_validate(bench_content(lengths))


def _costs(name: str, tokens: int) -> dict[str, Any]:
    kind, n, r = METHODS[name]
    rank = (n or 0) * (r or 0)
    trained = 1000 if kind == "full" else 10 * rank
    times = 1.1 if kind == "multilora" else 1.0
    kept = tokens * (KEPT + PER_RANK * rank)
    weights = 4000 + 4 * trained * (kind != "full")
    return {
        "kind": kind,
        "num_loras": n,
        "r": r,
        "trainable_parameters": trained,
        "adapter_bytes": 4 * trained if rank else None,
        "bytes": {
            "weights": weights,
            "activations": kept,
            "gradients": 4 * trained,
            "optimizer": 8 * trained,
            "peak": weights + kept + 12 * trained,
        },
        "tokens_per_second": {
            "forward": 3000.0 * times,
            "step": 1000.0 * times,
            "rounds": 5,
            "over_reference": {"median": times, "q1": 0.9 * times, "q3": 1.1 * times, "min": 0.5},
        },
    }
