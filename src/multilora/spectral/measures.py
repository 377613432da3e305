"""The measures of one ΔW: one table, from which records, tables, plots, claims and the console take name and format.

A new measure is a `Measure` here. With a `layer_map` it has a plot on the page and a figure for papers; in `OVERVIEW`
it stands in the tables of all matrices together, on the page and in the console. All but the norms are scale-free, and
all are defined for ΔW = 0, where they are 0 (never NaN).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from multilora.spectral.findings import Findings, LayerMap, Measure
from multilora.spectral.record import MatrixRecord
from multilora.spectral.spectrum import effective_rank, energy_share, frobenius_norm, gini, spectral_norm, stable_rank
from multilora.spectral.subspace import grid_ranks
from multilora.storage.rounding import MERGE_DTYPES
from multilora.storage.safetensors import dtype_name

Side = Literal["left", "right"]

SHARES = (1, 8, 32)
PROJECTED = ("delta", "base", "random")  # directions: of ΔW, of W, random ones
SIDES: tuple[Side, Side] = ("left", "right")
MERGED = tuple(dtype_name(dtype) for dtype in MERGE_DTYPES)
_SHORT = {"bfloat16": "bf16", "float16": "fp16"}
_HU, _ROY, _SHUTTLEWORTH = "Hu et al. 2021, section 7", "Roy and Vetterli 2007", "Shuttleworth et al. 2024"


def mean_off_diagonal(matrix: Sequence[Sequence[float]]) -> float:
    """The mean over all pairs of different modules."""
    values = [value for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j]
    return sum(values) / len(values)


FROBENIUS_NORM = Measure(
    "frobenius_norm", "‖ΔW‖", "√Σ σ_i²", lambda found: frobenius_norm(found.nonzero), format="significant"
)
SPECTRAL_NORM = Measure("spectral_norm", "σ₁", "σ_1", lambda found: spectral_norm(found.nonzero), format="significant")
RANK = Measure("rank", "rank", "count of σ_i ≠ 0", lambda found: float(len(found.nonzero)), format="significant")
ZEROS = Measure(
    "zeros", "zeros", "k − rank", lambda found: float(min(found.shape) - len(found.nonzero)), format="significant"
)
_ENERGY = LayerMap(
    id="energy-map",
    file="energy-by-layer",
    title="Share of ‖ΔW‖² in the top k singular directions",
    control="top k",
    drawn="energy_share_8",
    low="0: spread",
    high="1: all in the top k",
    note="Where k reaches an adapter's rank, the share is 1 by construction.",
)
ENERGY_SHARES: Mapping[int, Measure] = {
    k: Measure(
        f"energy_share_{k}",
        f"energy of top {k}",
        f"Σ_{{i ≤ {k}}} σ_i² / Σ σ_i²",
        lambda found, k=k: energy_share(found.nonzero, k),
        words=f"energy of the top {k}",
        format="share",
        polarised="higher",
        layer_map=_ENERGY,
        option=str(k),
    )
    for k in SHARES
}
STABLE_RANK = Measure(
    "stable_rank", "stable rank", "Σ σ_i² / σ_1²", lambda found: stable_rank(found.nonzero), polarised="lower"
)
EFFECTIVE_RANK = Measure(
    "effective_rank",
    "effective rank",
    "exp(−Σ p_i ln p_i), p_i = σ_i / Σ σ",
    lambda found: effective_rank(found.nonzero),
    polarised="lower",
    source=_ROY,
)
GINI = Measure(
    "gini",
    "Gini",
    "Σ_i (k + 1 − 2i) σ_i / (k Σ σ)",
    lambda found: gini(found.nonzero, min(found.shape)),
    words="Gini coefficient",
    polarised="higher",
)
GINI_NONZERO = Measure(
    "gini_nonzero", "Gini without zeros", "as Gini, of σ_i ≠ 0", lambda found: gini(found.nonzero), polarised="higher"
)


def similarity(side: Side, k: int) -> Measure:
    """φ(k, k) with the reference, on left or right singular vectors."""

    def of(found: Findings) -> float | None:
        grid = found.similarity
        if grid is None:
            return None
        ranks, others = grid["ranks"], grid["reference_ranks"]
        if k in ranks and k in others:
            return grid[side][ranks.index(k)][others.index(k)]
        return None if ranks and others else 0.0  # ΔW = 0 shares no direction, of any rank

    formula = f"‖U[:, :{k}]ᵀ U_ref[:, :{k}]‖² / {k}, of {side} singular vectors"
    return Measure(f"similarity_{side}_{k}", f"φ({k},{k}) {side}", formula, of, source=_HU)


def similarity_ranks(record: MatrixRecord, side: Side) -> list[int]:
    """The k at which a matrix's record has φ(k, k), ascending."""
    start = similarity(side, 1).key.removesuffix("1")
    return sorted(int(key.removeprefix(start)) for key in record.measures if key.startswith(start))


MODULE_SIMILARITY: Mapping[Side, Measure] = {
    side: Measure(
        f"module_similarity_{side}",
        f"modules' φ {side}",
        f"mean of φ(r_i, r_j) over modules i ≠ j, of {side} singular vectors",
        lambda found, side=side: None if (grid := found.of_modules(side)) is None else mean_off_diagonal(grid),
        words=f"similarity of two modules, {side}",
    )
    for side in SIDES
}
MODULE_OVERLAP = Measure(
    "module_overlap", "‖ΔW‖² over the modules' sum", "‖ΔW‖² / Σ_i ‖ΔW_i‖²", lambda found: found.of_modules("overlap")
)
MODULE_LARGEST_ENERGY = Measure(
    "module_largest_energy",
    "largest share of energy",
    "max_i ‖ΔW_i‖² / Σ_j ‖ΔW_j‖²",
    lambda found: None if (shares := found.of_modules("energy")) is None else max(shares),
    format="share",
)
MODULE_EFFECTIVE_RANK = Measure(
    "module_effective_rank",
    "effective rank of a module",
    "mean over modules i of the effective rank of ΔW_i",
    lambda found: None if (ranks := found.of_modules("effective_rank")) is None else sum(ranks) / len(ranks),
)
SCALING_MEAN_ABS = Measure(
    "scaling_mean_abs",
    "mean size of the scale",
    "mean |scaling|",
    lambda found: None if found.scaling is None else float(found.scaling.double().abs().mean()),
)
SCALING_STD = Measure(
    "scaling_std",
    "standard deviation of the scale",
    "√(mean (scaling − its mean)²)",
    lambda found: None if found.scaling is None else float(found.scaling.double().std(correction=0)),
)


def projection(kind: str, r: int) -> Measure:
    """‖UᵀWVᵀ‖ for r directions: the top ones of ΔW (`delta`), those of W (`base`), or `random` ones."""

    def of(found: Findings) -> float | None:
        own = found.mechanism
        return own[kind][own["ranks"].index(r)] if own is not None and r in own["ranks"] else None

    title = {"delta": "in ΔW's directions", "base": "in W's own", "random": "in random ones"}[kind]
    return Measure(f"projection_{kind}_{r}", title, f"‖UᵀWVᵀ‖, r = {r}", of, format="significant", source=_HU)


def amplification(r: int) -> Measure:
    """‖ΔW‖ over what W has in ΔW's top r directions."""

    def of(found: Findings) -> float | None:
        own = found.mechanism
        return own["amplification"][own["ranks"].index(r)] if own is not None and r in own["ranks"] else None

    title, formula = f"amplification, top {r}", f"‖ΔW‖ / ‖UᵀWVᵀ‖, r = {r}"
    return Measure(f"amplification_{r}", title, formula, of, format="significant", source=_HU)


RELATIVE_NORM = Measure(
    "relative_norm",
    "‖ΔW‖ / ‖W‖",
    "‖ΔW‖_F / ‖W‖_F",
    lambda found: None if found.mechanism is None else found.mechanism["relative_norm"],
    format="significant",
)
INTRUDERS = Measure(
    "intruders",
    "intruders in top 10",
    "count of j ≤ 10 with max_i |cos(u_i(W), u_j(W + ΔW))| < 0.6",
    lambda found: float(own["count"]) if found.mechanism and (own := found.mechanism.get("intruders")) else None,
    source=_SHUTTLEWORTH,
)


def merge_error(dtype: str) -> Measure:
    """What rounding to the dtype adds to the merged weight, as a share of ‖ΔW‖; None beyond the dtype's range."""
    title = f"error of {_SHORT.get(dtype, dtype)} merge"
    formula = "‖round(W + ΔW) − (W + ΔW)‖ / ‖ΔW‖"
    return Measure(f"merge_error_{dtype}", title, formula, lambda found: _merged(found, dtype, "error"), format="share")


def merge_lost(dtype: str) -> Measure:
    """The share of entries with ΔW ≠ 0 that merging leaves as they were."""
    title = f"lost in {_SHORT.get(dtype, dtype)} merge"
    formula = "share of entries with ΔW_ij ≠ 0 and round(W_ij + ΔW_ij) = W_ij"
    return Measure(f"merge_lost_{dtype}", title, formula, lambda found: _merged(found, dtype, "lost"), format="share")


OVERVIEW = (FROBENIUS_NORM, RELATIVE_NORM, RANK, *ENERGY_SHARES.values(), STABLE_RANK, EFFECTIVE_RANK, GINI)
OF_SPECTRUM = (
    FROBENIUS_NORM, SPECTRAL_NORM, RANK, ZEROS, *ENERGY_SHARES.values(), STABLE_RANK, EFFECTIVE_RANK, GINI, GINI_NONZERO
)  # fmt: skip
OF_MODULES = (
    *MODULE_SIMILARITY.values(),
    MODULE_OVERLAP,
    MODULE_LARGEST_ENERGY,
    MODULE_EFFECTIVE_RANK,
    SCALING_MEAN_ABS,
    SCALING_STD,
)


def layer_maps() -> dict[LayerMap, list[Measure]]:
    """The measures that are drawn by layer, by the map that they share."""
    found: dict[LayerMap, list[Measure]] = {}
    for measure in (*OF_SPECTRUM, *OF_MODULES):
        if measure.layer_map is not None:
            found.setdefault(measure.layer_map, []).append(measure)
    return found


def measures_of(found: Findings) -> dict[str, float]:
    """All measures that the findings allow, by key."""
    return {measure.key: value for measure in _table(found) if (value := measure.of(found)) is not None}


def _table(found: Findings) -> Iterator[Measure]:
    """All measures, those of each rank and dtype among them, in the order of the record."""
    yield from OF_SPECTRUM
    for k in filter(_is_power_of_two, grid_ranks(found.top)):
        yield from (similarity(side, k) for side in SIDES)
    yield from OF_MODULES
    for r in found.mechanism["ranks"] if found.mechanism is not None else ():
        yield from (projection("delta", r), projection("base", r), projection("random", r), amplification(r))
    yield from (RELATIVE_NORM, INTRUDERS)
    for dtype in MERGED:
        yield from (merge_error(dtype), merge_lost(dtype))


def _merged(found: Findings, dtype: str, kind: str) -> float | None:
    return None if found.numerics is None else found.numerics[dtype][kind]


def _is_power_of_two(rank: int) -> bool:
    return rank & (rank - 1) == 0
