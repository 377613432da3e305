"""Everything that is said about one ΔW: spectrum, similarity to a reference, modules, mechanism, numerics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from multilora.adapter.svd import one_thread
from multilora.base.weights import ModelWeights
from multilora.spectral.deltas import AdapterDelta, Decomposition, DecompositionOptions, Delta
from multilora.spectral.dense import best_device, top_svd
from multilora.spectral.measures import curve_indices, decade_histogram, spectrum_measures
from multilora.spectral.mechanism import RANKS, intruder_dimensions, mechanism, tuned_directions
from multilora.spectral.modules import mean_off_diagonal, module_factors, module_measures, scaling_distribution
from multilora.spectral.subspace import grid_ranks, similarity_grid
from multilora.storage.rounding import MERGE_DTYPES, merge_error
from multilora.storage.safetensors import dtype_name

_OWN_TOLERANCE = 1e-3  # of W's top singular values, relative to the largest


class BaseMatrix:
    """The base weight of one layer, read and decomposed when first asked for, and once for all runs.

    Args:
        weights: of the base model.
        name: the layer's name there.
    """

    def __init__(self, weights: ModelWeights, name: str) -> None:
        self._weights, self._name = weights, name
        self._weight: Tensor | None = None
        self._svd: tuple[Tensor, Tensor | None] | None = None

    @property
    def W(self) -> Tensor:
        """(d_out, d_in) in fp32.

        Raises:
            InputError: it is not finite.
        """
        if self._weight is None:
            self._weight = self._weights.matrix(self._name).float()
        return self._weight

    def singular_values(self) -> Tensor:
        """The largest ones, descending: as many as the mechanism's highest rank."""
        if self._svd is None:
            found = top_svd(self.W.to(best_device()), max(RANKS), tolerance=_OWN_TOLERANCE)
            self._svd = found.S.cpu(), None
        return self._svd[0]

    def left_vectors(self) -> Tensor:
        """All of them, (d_out, min(d_out, d_in)): the whole decomposition."""
        if self._svd is None or self._svd[1] is None:
            U, S, _ = torch.linalg.svd(self.W.to(best_device()), full_matrices=False)
            self._svd = S.cpu(), U.cpu()
        assert self._svd[1] is not None
        return self._svd[1]


@dataclass(frozen=True)
class MatrixOptions:
    """What is computed for a matrix.

    Attributes:
        decomposition: how ΔW is decomposed.
        mechanism: compare ΔW with the base weight, where there is one.
        intruders: count intruder dimensions, which takes the whole decomposition of every base weight.
    """

    decomposition: DecompositionOptions = field(default_factory=DecompositionOptions)
    mechanism: bool = True
    intruders: bool = False


def analyse_matrix(
    delta: Delta,
    layer: str,
    own: Decomposition,
    reference: Decomposition | None,
    base: BaseMatrix | None,
    options: MatrixOptions,
) -> dict[str, Any]:
    """The record of one matrix of one run, as plain finite data.

    Args:
        delta: the run's ΔW.
        layer: its name of the layer.
        own: the layer's decomposition.
        reference: that of the run it is compared with; None: it is compared with none.
        base: the base weight; None: there is none, or it is left out.
        options: what is computed.

    Returns:
        measures: name to number, all that has one number for a matrix; vectors, spectrum, histogram, similarity,
        modules, mechanism and numerics as the functions below say, None where one does not apply.

    Raises:
        InputError: numbers are not finite.
    """
    measures = spectrum_measures(own.S, own.shape)
    record: dict[str, Any] = {
        "measures": measures,
        "vectors": dict(own.vectors),
        "spectrum": _spectrum(own),
        "histogram": _histogram(own),
        "similarity": _similarity(own, reference, options.decomposition.top, measures) if reference else None,
        "modules": None,
        "mechanism": None,
        "numerics": None,
    }
    if isinstance(delta, AdapterDelta):
        with one_thread():
            record["modules"] = _modules(delta, layer, own, measures)
    if base is not None and options.mechanism:
        record["mechanism"] = _mechanism(delta, layer, own, base, measures, options.intruders)
        if isinstance(delta, AdapterDelta):
            record["numerics"] = _numerics(base.W, delta.rows(layer), measures)
    plain: dict[str, Any] = _plain(record)
    plain["measures"] = {name: value for name, value in plain["measures"].items() if value is not None}
    return plain


def _spectrum(own: Decomposition) -> dict[str, Any]:
    """The curve: index (from 0) and sigma of at most 256 values; rank of `size` differ from zero, the rest is zero."""
    index = curve_indices(own.rank)
    return {"size": min(own.shape), "rank": own.rank, "index": index, "sigma": own.S[index].tolist()}


def _histogram(own: Decomposition) -> dict[str, Any]:
    """Counts in tenths of decades from bin `first` on, as `decade_histogram`; and the zeros."""
    first, counts = decade_histogram(own.S[: own.rank])
    return {"first": first, "counts": counts, "zeros": min(own.shape) - own.rank}


def _similarity(own: Decomposition, reference: Decomposition, top: int, measures: dict[str, float]) -> dict[str, Any]:
    """φ(i, j) for i of `ranks` (rows) and j of `reference_ranks` (columns), on left and right singular vectors."""
    counts = [min(part.rank, part.U.shape[1], top) for part in (own, reference)]
    ranks, others = map(grid_ranks, counts)
    left = similarity_grid(own.U, reference.U, ranks, others)
    right = similarity_grid(own.Vh.t(), reference.Vh.t(), ranks, others)
    for rank in filter(_is_power_of_two, grid_ranks(top)):
        for side, grid in (("left", left), ("right", right)):
            if rank in ranks and rank in others:
                measures[f"similarity_{side}_{rank}"] = grid[ranks.index(rank)][others.index(rank)]
            elif 0 in counts:  # ΔW = 0 shares no direction, of any rank
                measures[f"similarity_{side}_{rank}"] = 0.0
    return {"ranks": ranks, "reference_ranks": others, "left": left, "right": right}


def _modules(delta: AdapterDelta, layer: str, own: Decomposition, measures: dict[str, float]) -> dict[str, Any] | None:
    """As `module_measures`, and the learned scale's distribution in each module; None for a plain LoRA."""
    n = delta.adapter.layers[layer].num_loras
    scaling = delta.adapter.factors(layer).scaling
    if n == 1 and scaling is None:
        return None
    found = module_measures(
        module_factors(delta.adapter.folded(layer), n), own.S.dtype, measures["frobenius_norm"] ** 2
    )
    found["scaling"] = None if scaling is None else scaling_distribution(scaling)
    if n > 1:
        measures["module_similarity_left"] = mean_off_diagonal(found["left"])
        measures["module_similarity_right"] = mean_off_diagonal(found["right"])
        measures["module_overlap"] = found["overlap"]
        measures["module_largest_energy"] = max(found["energy"])
        measures["module_effective_rank"] = sum(found["effective_rank"]) / n
    if scaling is not None:
        measures["scaling_mean_abs"] = float(scaling.double().abs().mean())
        measures["scaling_std"] = float(scaling.double().std(correction=0))
    return found


def _mechanism(
    delta: Delta, layer: str, own: Decomposition, base: BaseMatrix, measures: dict[str, float], intruders: bool
) -> dict[str, Any]:
    """As `mechanism`; and `intruders`, as `intruder_dimensions`, if they are counted."""
    vectors = base.left_vectors() if intruders else None
    rank = min(own.rank, own.U.shape[1])
    found = mechanism(base.W, base.singular_values(), own.U, own.S, own.Vh, rank, measures["frobenius_norm"])
    for number, r in enumerate(found["ranks"]):
        for kind in ("delta", "base", "random"):
            measures[f"projection_{kind}_{r}"] = found[kind][number]
        measures[f"amplification_{r}"] = found["amplification"][number]
    measures["relative_norm"] = found["relative_norm"]
    found["intruders"] = None
    if vectors is not None:
        whole = delta.rows(layer)(0, own.shape[0])
        found["intruders"] = intruder_dimensions(vectors, tuned_directions(base.W, whole))
        measures["intruders"] = float(found["intruders"]["count"])
    return found


def _numerics(W: Tensor, rows: Callable[[int, int], Tensor], measures: dict[str, float]) -> dict[str, Any]:
    """For each dtype, as `merge_error`."""
    found: dict[str, Any] = {}
    for dtype in MERGE_DTYPES:
        name = dtype_name(dtype)
        found[name] = error = merge_error(W, rows, dtype)
        if error["error"] is not None:
            measures[f"merge_error_{name}"] = error["error"]
        assert error["lost"] is not None
        measures[f"merge_lost_{name}"] = error["lost"]
    return found


def _is_power_of_two(rank: int) -> bool:
    return rank & (rank - 1) == 0


def _plain(value: Any) -> Any:
    """The same with seven digits, and None instead of infinity."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_plain(part) for part in cast(list[Any], value)]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
