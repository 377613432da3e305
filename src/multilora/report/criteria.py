"""What claims and sentences derive from the record of a matrix, beyond its measures."""

from __future__ import annotations

from multilora.report.pairing import Beside, Values
from multilora.spectral.measures import (
    MODULE_LARGEST_ENERGY,
    MODULE_SIMILARITY,
    PROJECTED,
    SHARES,
    SIDES,
    Side,
    amplification,
    projection,
    similarity,
    similarity_ranks,
)
from multilora.spectral.record import Histogram, MatrixRecord

NEAR_BINS = 5  # tenths of decades


def open_shares(found: Beside) -> list[int]:
    """The k whose energy share the ranks and sizes leave open: as many vectors as the rank hold all the energy."""
    ranks = [run.total_rank for runs in found.runs for run in runs if run.total_rank is not None]
    sizes = [record.spectrum.size for matrices in found.seeds for records in matrices for record in records]
    return [top for top in SHARES if top < min([*ranks, *sizes])]


def is_bell(histogram: Histogram) -> bool:
    """A flat, bell-shaped spectrum.

    The fullest bin is at least twice as full as the first and as the last one, and more than half of all values lie
    near it, as `near_fullest` computes.

    Args:
        histogram: of the spectrum.
    """
    counts = histogram.counts
    return bool(counts) and max(counts) >= 2 * max(counts[0], counts[-1]) and near_fullest(histogram) > 0.5


def near_fullest(histogram: Histogram) -> float:
    """The share of all values, zeros included, within half a decade of the fullest bin; of equal ones, the best."""
    counts = histogram.counts
    fullest = [number for number, count in enumerate(counts) if count == max(counts)]
    around = [sum(counts[max(0, number - NEAR_BINS) : number + NEAR_BINS + 1]) for number in fullest]
    return max(around, default=0) / max(1, sum(counts) + histogram.zeros)


def shared_similarity(one: MatrixRecord, other: MatrixRecord, side: Side) -> Values | None:
    """The similarity to the reference of two records, averaged over the ranks at which both have it."""
    shared = [
        similarity(side, k).key for k in similarity_ranks(one, side) if similarity(side, k).value(other) is not None
    ]
    if not shared:
        return None
    first, second = (sum(record.measures[key] for key in shared) / len(shared) for record in (one, other))
    return first, second


def module_similarities(record: MatrixRecord) -> Values | None:
    """Mean similarity of two modules and that of random subspaces, left and then right.

    None: fewer than two modules have a subspace, or each spans the whole space.
    """
    modules = record.modules
    found_left, found_right = (MODULE_SIMILARITY[side].value(record) for side in SIDES)
    if modules is None or found_left is None or found_right is None or sum(bool(share) for share in modules.energy) < 2:
        return None
    left, right = modules.random_left, modules.random_right
    if max(left, right) >= 1:
        return None
    return found_left, left, found_right, right


def largest_module(record: MatrixRecord) -> Values | None:
    """The largest module's share of the modules' energy, and an even share; None: no modules, or no energy."""
    share = MODULE_LARGEST_ENERGY.value(record)
    return (share, 1 / len(record.modules.energy)) if share and record.modules is not None else None


def top_rank(record: MatrixRecord) -> int | None:
    """How many of ΔW's top directions W was projected on, the fewest; None: on none."""
    found = record.mechanism
    return found.ranks[0] if found is not None and found.ranks else None


def top_projections(record: MatrixRecord) -> Values | None:
    """‖UᵀWVᵀ‖ for ΔW's top directions and for W's own, both in units of that for random ones.

    None: ΔW or W is zero, or they were not compared.
    """
    if (rank := top_rank(record)) is None:
        return None
    delta, base, random = (projection(kind, rank).value(record) for kind in PROJECTED)
    return (delta / random, base / random) if random and delta is not None and base is not None else None


def top_amplification(record: MatrixRecord) -> Values | None:
    """Of ΔW's top directions; None: ΔW is zero, W has nothing there, or they were not compared."""
    rank = top_rank(record)
    value = None if rank is None else amplification(rank).value(record)
    return None if value is None else (value,)
