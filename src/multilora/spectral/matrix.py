"""The record of one ΔW: spectrum, similarity to a reference, modules, mechanism, numerics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from multilora.base.weights import ModelWeights
from multilora.spectral.deltas import AdapterDelta, Decomposition, DecompositionOptions, Delta
from multilora.spectral.dense import best_device, top_svd
from multilora.spectral.findings import Findings
from multilora.spectral.measures import measures_of
from multilora.spectral.mechanism import RANKS, intruder_dimensions, mechanism, tuned_directions
from multilora.spectral.modules import module_factors, module_measures, scaling_distribution
from multilora.spectral.spectrum import curve_indices, decade_histogram, frobenius_norm, numerical_rank
from multilora.spectral.subspace import grid_ranks, similarity_grid
from multilora.storage.rounding import MERGE_DTYPES, merge_error
from multilora.storage.safetensors import dtype_name
from multilora.tuner.svd import one_thread

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
        base: the base weight; None if it is not available, or left out.
        options: what is computed.

    Returns:
        measures: name to number, all that has one number for a matrix; vectors, spectrum, histogram, similarity,
        modules, mechanism and numerics as the functions below say, None where one does not apply.

    Raises:
        InputError: numbers are not finite.
    """
    of_base = numerics = None
    if base is not None and options.mechanism:
        of_base = _mechanism(delta, layer, own, base, options.intruders)
        if isinstance(delta, AdapterDelta):
            numerics = {dtype_name(dtype): merge_error(base.W, delta.rows(layer), dtype) for dtype in MERGE_DTYPES}
    scaling, modules = _modules(delta, layer, own) if isinstance(delta, AdapterDelta) else (None, None)
    top = options.decomposition.top
    similarity = _similarity(own, reference, top) if reference else None
    measures = measures_of(Findings(own.S, own.shape, top, similarity, modules, scaling, of_base, numerics))
    record: dict[str, Any] = _plain(
        {
            "measures": measures,
            "vectors": dict(own.vectors),
            "spectrum": _spectrum(own),
            "histogram": _histogram(own),
            "similarity": similarity,
            "modules": modules,
            "mechanism": of_base,
            "numerics": numerics,
        }
    )
    record["measures"] = {name: value for name, value in record["measures"].items() if value is not None}
    return record


def _spectrum(own: Decomposition) -> dict[str, Any]:
    """The curve: index (from 0) and sigma of at most 256 values; rank of `size` differ from zero, the rest is zero."""
    index = curve_indices(own.rank)
    return {"size": min(own.shape), "rank": own.rank, "index": index, "sigma": own.S[index].tolist()}


def _histogram(own: Decomposition) -> dict[str, Any]:
    """Counts in tenths of decades from bin `first` on, as `decade_histogram`; and the zeros."""
    first, counts = decade_histogram(own.S[: own.rank])
    return {"first": first, "counts": counts, "zeros": min(own.shape) - own.rank}


def _similarity(own: Decomposition, reference: Decomposition, top: int) -> dict[str, Any]:
    """φ(i, j) for i of `ranks` (rows) and j of `reference_ranks` (columns), on left and right singular vectors."""
    counts = [min(part.rank, part.U.shape[1], top) for part in (own, reference)]
    ranks, others = map(grid_ranks, counts)
    left = similarity_grid(own.U, reference.U, ranks, others)
    right = similarity_grid(own.Vh.t(), reference.Vh.t(), ranks, others)
    return {"ranks": ranks, "reference_ranks": others, "left": left, "right": right}


def _modules(delta: AdapterDelta, layer: str, own: Decomposition) -> tuple[Tensor | None, dict[str, Any] | None]:
    """The effective scale; and as `module_measures`, with its distribution in each module. None for a plain LoRA."""
    n = delta.adapter.layers[layer].num_loras
    scaling = delta.adapter.factors(layer).effective_scaling()
    if n == 1 and scaling is None:
        return None, None
    with one_thread():
        found = module_measures(module_factors(delta.adapter.folded(layer), n), own.S.dtype, _norm(own) ** 2)
        found["scaling"] = None if scaling is None else scaling_distribution(scaling)
    return scaling, found


def _mechanism(delta: Delta, layer: str, own: Decomposition, base: BaseMatrix, intruders: bool) -> dict[str, Any]:
    """As `mechanism`; and `intruders`, as `intruder_dimensions`, if they are counted."""
    vectors = base.left_vectors() if intruders else None
    rank = min(own.rank, own.U.shape[1])
    found = mechanism(base.W, base.singular_values(), own.U, own.S, own.Vh, rank, _norm(own))
    found["intruders"] = None
    if vectors is not None:
        whole = delta.rows(layer)(0, own.shape[0])
        found["intruders"] = intruder_dimensions(vectors, tuned_directions(base.W, whole))
    return found


def _norm(own: Decomposition) -> float:
    """‖ΔW‖_F."""
    return frobenius_norm(own.S[: numerical_rank(own.S, own.shape)].double())


def _plain(value: Any) -> Any:
    """Rounds floats to 7 significant digits and replaces non-finite values by None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_plain(part) for part in cast(list[Any], value)]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
