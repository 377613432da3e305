"""ΔW of a run, one layer at a time: from an adapter's pairs, or as the difference of two models' weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import WEIGHTS_FILE, AdapterFile, open_adapter
from multilora.base.weights import ModelWeights, check_same_matrices
from multilora.errors import InputError
from multilora.spectral.cache import Cache
from multilora.spectral.dense import EXACT_UP_TO, best_device, top_svd
from multilora.spectral.spectrum import numerical_rank
from multilora.tuner.svd import factors_svd, one_thread


@dataclass(frozen=True)
class DecompositionOptions:
    """How ΔW is decomposed.

    Attributes:
        top: how many singular vectors of a full matrix are computed, and compared at most.
        exact: compute the vectors of full matrices by the whole decomposition, whatever their size.
        dtype: float32 or float64; None: float64, and float32 for large full matrices.
        exact_up_to: the smaller side of a full matrix above which it is large.
    """

    top: int = 64
    exact: bool = False
    dtype: torch.dtype | None = None
    exact_up_to: int = EXACT_UP_TO


@dataclass(frozen=True)
class Decomposition:
    """Singular values and vectors of one ΔW, on the CPU.

    Attributes:
        shape: (d_out, d_in).
        S: (m,) all singular values that may differ from zero, descending.
        rank: how many of them do.
        U: (d_out, k) the left vectors of the first k ≤ m values.
        Vh: (k, d_in) the right ones.
        vectors: how they were found: exact, or randomised with the residual that was measured.
    """

    shape: tuple[int, int]
    S: Tensor
    rank: int
    U: Tensor
    Vh: Tensor
    vectors: Mapping[str, Any]


class AdapterDelta:
    """ΔW = B' A of an adapter.

    Args:
        folder: of the adapter.

    Raises:
        InputError: as `open_adapter`.
    """

    def __init__(self, folder: Path) -> None:
        self.adapter: AdapterFile = open_adapter(folder)
        self.files: Sequence[Path] = (folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        self.shapes = {name: (layer.d_out, layer.d_in) for name, layer in self.adapter.layers.items()}

    def decompose(self, layer: str, options: DecompositionOptions) -> Decomposition:
        """The exact decomposition in factor space.

        Raises:
            InputError: the layer's numbers are not finite.
        """
        with one_thread():
            U, S, Vh = factors_svd(self.adapter.folded(layer), dtype=options.dtype or torch.float64)
        return Decomposition(self.shapes[layer], S, numerical_rank(S, self.shapes[layer]), U, Vh, _EXACT)

    def rows(self, layer: str) -> Callable[[int, int], Tensor]:
        """A function that gives rows [begin, end) of ΔW in fp32."""
        folded = self.adapter.folded(layer)
        return lambda begin, end: folded.delta_rows(begin, end).float()


class ModelDelta:
    """ΔW = W after − W before of full fine-tuning.

    Args:
        model: the trained model.
        base: the model that it was trained from.

    Attributes:
        shapes: (d_out, d_in) of the matrices in the blocks; embeddings and output layer are left out.

    Raises:
        InputError: the two do not belong together.
    """

    def __init__(self, model: ModelWeights, base: ModelWeights) -> None:
        self._model, self._base = model, base
        self.files: Sequence[Path] = model.files
        self.shapes = {name: model.shapes[name] for name in model.block_matrices()}
        if not self.shapes:
            raise InputError(f"{str(model.folder)!r} has no weight matrix in a block (a name such as layers.0.q_proj)")
        self._names = check_same_matrices(f"the model {str(model.folder)!r}", self.shapes, base)

    def delta(self, layer: str, dtype: torch.dtype) -> Tensor:
        """ΔW, (d_out, d_in).

        Raises:
            InputError: one of the two weights is not finite.
        """
        return self._model.matrix(layer).to(dtype) - self._base.matrix(self._names[layer]).to(dtype)

    def decompose(self, layer: str, options: DecompositionOptions) -> Decomposition:
        """All singular values, and the top vectors. On a GPU where there is one.

        Raises:
            InputError: as `delta`.
        """
        shape = self.shapes[layer]
        large = min(shape) > options.exact_up_to
        dtype = options.dtype or (torch.float32 if large else torch.float64)
        delta = self.delta(layer, dtype).to(best_device())
        values = torch.linalg.svdvals(delta) if large and not options.exact else None
        top = top_svd(
            delta,
            min(shape) if values is None else options.top,
            values=values,
            exact=options.exact,
            exact_up_to=options.exact_up_to,
        )
        S = (top.S if values is None else values).cpu()
        U, Vh = top.U[:, : options.top].cpu().clone(), top.Vh[: options.top].cpu().clone()
        return Decomposition(
            shape, S, numerical_rank(S, shape), U, Vh, {"method": top.method, "residual": top.residual}
        )

    def rows(self, layer: str) -> Callable[[int, int], Tensor]:
        """A function that gives rows [begin, end) of ΔW in fp32."""
        delta = self.delta(layer, torch.float32)
        return lambda begin, end: delta[begin:end]


_EXACT: Mapping[str, Any] = {"method": "exact", "residual": 0.0}
Delta = AdapterDelta | ModelDelta


def decomposed(
    delta: Delta, layer: str, options: DecompositionOptions, cache: Cache, key: Mapping[str, Any]
) -> Decomposition:
    """The decomposition, from the cache where it was expensive.

    Args:
        delta: the run's ΔW.
        layer: name of the layer.
        options: how to decompose.
        cache: where full matrices' decompositions are kept. An adapter's is faster computed than read.
        key: all that determines it besides layer and options: the hashes of the files.

    Raises:
        InputError: the layer's numbers are not finite.
    """
    if isinstance(delta, AdapterDelta):
        return delta.decompose(layer, options)
    key = {**key, "layer": layer, "top": options.top, "exact": options.exact, "dtype": str(options.dtype)}
    shape = delta.shapes[layer]
    stored, about = cache.tensors(key), cache.record(key)
    if stored is not None and about is not None and stored.keys() == {"S", "U", "Vh"}:
        S = stored["S"]
        return Decomposition(shape, S, numerical_rank(S, shape), stored["U"], stored["Vh"], about)
    found = delta.decompose(layer, options)
    cache.store_tensors(key, {"S": found.S, "U": found.U, "Vh": found.Vh})
    cache.store_record(key, found.vectors)
    return found
