"""What methods cost: speed, memory by kind, and how the memory kept for backward grows. From `multilora bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from multilora.bench.record import KINDS, AtLength, BenchRecord

PHASES: Mapping[Literal["forward", "step"], str] = {"forward": "Forward", "step": "Forward, backward and optimizer"}
_ASIDE = 0.013  # of the largest rank


def speeds(at: AtLength, phase: Literal["forward", "step"]) -> dict[str, float]:
    """Tokens per second by method."""
    return {name: getattr(costs.tokens_per_second, phase) for name, costs in at.methods.items()}


def memory_by_kind(at: AtLength) -> dict[str, list[float]]:
    """MiB of each kind, and of the peak, in the order of the methods."""
    of = [costs.bytes for costs in at.methods.values()]
    return {kind: [getattr(found, kind) / 2**20 for found in of] for kind in (*KINDS, "peak")}


class RankPoint(NamedTuple):
    """An adapter: its place on the axis of total ranks, and the MiB kept for backward."""

    place: float
    kept: float


def kept_by_rank(at: AtLength) -> dict[str, RankPoint]:
    """By method; LoRA and MultiLoRA of one rank stand side by side."""
    ranks = {name: costs.total_rank for name, costs in at.methods.items() if costs.total_rank is not None}
    aside = _ASIDE * max(ranks.values(), default=0)
    return {
        name: RankPoint(
            rank + (aside if at.methods[name].kind == "multilora" else -aside),
            at.methods[name].bytes.activations / 2**20,
        )
        for name, rank in ranks.items()
    }


class ModulesPoint(NamedTuple):
    """A MultiLoRA: n, n·r, and the bytes kept for backward."""

    num_loras: int
    total_rank: int
    kept: int


def kept_by_modules(at: AtLength) -> list[ModulesPoint]:
    """Of MultiLoRA, ascending; of the module rank that most methods have."""
    found = [c for c in at.methods.values() if c.kind == "multilora" and c.num_loras and c.r]
    ranks = [costs.r for costs in found]
    if not ranks:
        return []
    rank = max(ranks, key=ranks.count)
    own = (c for c in found if c.r == rank)
    return sorted(ModulesPoint(c.num_loras or 0, c.total_rank or 0, c.bytes.activations) for c in own)


def kept_by_length(bench: BenchRecord) -> dict[str, list[tuple[int, float]]]:
    """By method (tokens of a row, MiB kept for backward); empty where there is only one length."""
    if len(bench.lengths) < 2:
        return {}
    return {
        name: [
            (length, at.methods[name].bytes.activations / 2**20) for length, at in bench.ordered if name in at.methods
        ]
        for name in bench.names
    }
