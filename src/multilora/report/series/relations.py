"""How ΔW relates: to the reference's subspace, among its modules, and to W."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multilora.report.criteria import top_amplification, top_projections, top_rank
from multilora.report.numbers import array_of, mean
from multilora.report.page_data import PageData
from multilora.spectral.measures import SIDES, Side, similarity, similarity_ranks
from multilora.spectral.record import Modules, Similarity


def similarity_means(page: PageData, series: int, side: Side, projection: str | None = None) -> dict[int, float]:
    """φ(k, k) by k: the mean over the method's matrices that have it."""
    records = page.records(series, projection)
    ranks = sorted({k for record in records for k in similarity_ranks(record, side)})
    return {k: value for k in ranks if (value := page.mean(series, similarity(side, k), None, projection)) is not None}


def similarity_by_chance(page: PageData, side: Side, projection: str | None = None) -> dict[int, float]:
    """By k the mean of k/d, the similarity of random subspaces of R^d, over the matrices that have φ(k, k)."""
    found: dict[int, list[float]] = {}
    for series in page.series():
        for record in page.records(series, projection):
            for k in similarity_ranks(record, side):
                found.setdefault(k, []).append(min(1.0, k / (record.d_out if side == "left" else record.d_in)))
    return {k: sum(values) / len(values) for k, values in sorted(found.items())}


def compared_layer(page: PageData) -> tuple[tuple[str, str], list[tuple[int, Similarity]]] | None:
    """One layer, and by series its similarity to the reference, in the first run of each method.

    The layer is the first projection, of the block nearest to the middle, that has it.
    """
    runs = [(series, run) for series in page.series() for run in page.lineup.averaged(series)[:1]]
    middle = (len(page.blocks) - 1) / 2
    for block in sorted(page.blocks, key=lambda block: abs(page.blocks.index(block) - middle)):
        for projection in page.projections:
            shown = [
                (series, found)
                for series, run in runs
                if (record := page.of_run(run).get((block, projection))) is not None
                and (found := record.similarity) is not None
                and found.ranks
                and found.reference_ranks
            ]
            if shown:
                return (block, projection), shown
    return None


@dataclass(frozen=True)
class ModuleMeans:
    """MultiLoRA's modules, means over the matrices that have several modules, some of them with energy.

    Attributes:
        similarity: by side, (n, n).
        random: by side, of random subspaces.
        energy: by block, n shares; NaN where the block has no such matrix.
    """

    similarity: Mapping[Side, NDArray[np.float64]]
    random: Mapping[Side, float]
    energy: Mapping[str, NDArray[np.float64]]


def module_means(page: PageData, series: int) -> ModuleMeans | None:
    """None: there are no such matrices."""
    if not (found := _of_modules(page, series)):
        return None
    none = np.full(len(found[0].energy), np.nan)
    energy = {block: [array_of(of.energy) for of in _of_modules(page, series, block)] for block in page.blocks}
    return ModuleMeans(
        {side: np.mean([array_of(of.similarity(side)) for of in found], axis=0) for side in SIDES},
        {side: mean(of.random(side) for of in found) or 0.0 for side in SIDES},
        {block: np.mean(of, axis=0) if of else none for block, of in energy.items()},
    )


def _of_modules(page: PageData, series: int, block: str | None = None) -> list[Modules]:
    found = [record.modules for record in page.records(series, block=block)]
    return [of for of in found if of is not None and len(of.energy) > 1 and any(of.energy)]


class MechanismPoint(NamedTuple):
    """One matrix: the rank r; ‖UᵀWVᵀ‖ for r directions of ΔW and of W, over that of random ones; the amplification."""

    rank: int
    delta: float
    base: float
    amplification: float


def mechanism_points(page: PageData, series: int, projection: str) -> list[MechanismPoint]:
    """Of the method's matrices that were compared with W."""
    found: list[MechanismPoint] = []
    for record in page.records(series, projection):
        rank, projections, factor = top_rank(record), top_projections(record), top_amplification(record)
        if rank is not None and projections is not None and factor is not None:
            found.append(MechanismPoint(rank, projections[0], projections[1], factor[0]))
    return found
