"""The analysis of several runs: matrix by matrix, so that memory holds one, and resumed from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from multilora.adapter.config import CONFIG_FILE
from multilora.base.weights import ModelWeights, block_of, check_same_matrices
from multilora.errors import InputError
from multilora.spectral.cache import Cache, hash_files
from multilora.spectral.deltas import AdapterDelta, Decomposition, Delta, ModelDelta, decomposed
from multilora.spectral.matrix import BaseMatrix, MatrixOptions, analyse_matrix
from multilora.spectral.record import Fault, MatrixRecord
from multilora.spectral.sources import Source
from multilora.storage.safetensors import natural_order
from multilora.terminal import Progress


@dataclass(frozen=True)
class Run:
    """A source whose files were opened and checked.

    Attributes:
        source: what it is.
        delta: its ΔW.
        layers: its own name of each layer, by the name that the layer has for all runs: the base model's.
        reference: the run that it is compared with.
    """

    source: Source
    delta: Delta
    layers: Mapping[str, str]
    reference: str | None = None

    @cached_property
    def hash(self) -> str:
        """Of its files' content."""
        return hash_files(self.delta.files)


@dataclass
class Analysis:
    """What was found.

    Attributes:
        runs: all runs.
        matrices: one record per run and matrix.
        faults: the matrices that could not be analysed.
    """

    runs: Sequence[Run]
    matrices: list[MatrixRecord] = field(default_factory=list[MatrixRecord])
    faults: list[Fault] = field(default_factory=list[Fault])


def open_runs(sources: Sequence[Source], base: ModelWeights | None, references: Mapping[str, str]) -> tuple[Run, ...]:
    """Open and check the files of all runs: everything but the numbers themselves.

    Args:
        sources: the runs.
        base: the base model; None: nothing is compared with it, and there may be no full fine-tuning.
        references: by the run's name the name of the run that it is compared with.

    Raises:
        InputError: files are missing or broken; a run and the base model, or two runs, do not belong together.
    """
    runs: list[Run] = []
    for source in sources:
        delta = _delta(source, base)
        if base is None:
            names = {layer: layer for layer in delta.shapes}
        else:
            what = f"the {'model' if source.kind == 'full' else 'adapter'} {str(source.weights)!r}"
            own = check_same_matrices(what, delta.shapes, base)
            names = {name: layer for layer, name in own.items()}
        runs.append(Run(source, delta, names, references.get(source.name)))
    _check_together(runs)
    return tuple(runs)


def analyse(
    runs: Sequence[Run],
    base: ModelWeights | None,
    options: MatrixOptions,
    cache: Cache,
    progress: Progress,
) -> Analysis:
    """Analyse every matrix of every run. What the cache has is not computed again.

    Args:
        runs: opened and checked.
        base: the base model; None: mechanism and numerics are left out.
        options: what is computed.
        cache: of earlier analyses.
        progress: receives its progress.
    """
    progress.note(f"hashing the files of {len(runs)} runs{' and of the base model' if base else ''}")
    base_hash = hash_files(base.files) if base else None
    by_name = {run.source.name: run for run in runs}
    order = sorted({layer for run in runs for layer in run.layers}, key=natural_order)
    result = Analysis(runs)
    progress.start(sum(len(run.layers) for run in runs), 0)
    done = 0
    for layer in order:
        work = _Layer(layer, by_name, base, base_hash, options, cache)
        for run in runs:
            if layer not in run.layers:
                continue
            try:
                record = work.record(run)
            except InputError as error:
                result.faults.append(Fault(run=run.source.name, layer=layer, message=str(error)))
            else:
                d_out, d_in = run.delta.shapes[run.layers[layer]]
                place = {"block": block_of(layer), "projection": layer.rpartition(".")[2]}
                about = {"run": run.source.name, "layer": layer, **place, "d_out": d_out, "d_in": d_in}
                result.matrices.append(MatrixRecord.model_validate(about | record))
            done += 1
            progress.step(done, name=layer)
    return result


class _Layer:
    """One layer of all runs; what several of them need is read and decomposed once."""

    def __init__(
        self,
        layer: str,
        runs: Mapping[str, Run],
        base: ModelWeights | None,
        base_hash: str | None,
        options: MatrixOptions,
        cache: Cache,
    ) -> None:
        self._layer, self._runs, self._options, self._cache = layer, runs, options, cache
        self._base = BaseMatrix(base, layer) if base is not None else None
        self._base_hash = base_hash
        self._kept: dict[str, Decomposition] = {}

    def record(self, run: Run) -> dict[str, Any]:
        """From the cache, or computed and stored."""
        reference = self._reference(run)
        compares = self._base is not None and self._options.mechanism
        key = {
            **self._key(run),
            "layer": run.layers[self._layer],
            "reference": self._key(reference) if reference else None,
            "options": {name: str(value) for name, value in asdict(self._options).items()},
            "compared_with_base": self._base_hash if compares else None,
        }
        if (found := self._cache.record(key)) is not None:
            return found
        own = self._decomposed(run)
        try:
            other = self._decomposed(reference) if reference else None
        except InputError:  # the reference's own record names it
            other = None
        base = self._base if compares else None
        record = analyse_matrix(run.delta, run.layers[self._layer], own, other, base, self._options)
        if (reference is None) == (other is None):
            self._cache.store_record(key, record)
        return record

    def _reference(self, run: Run) -> Run | None:
        reference = self._runs[run.reference] if run.reference else None
        return reference if reference and self._layer in reference.layers else None

    def _decomposed(self, run: Run) -> Decomposition:
        name, layer = run.source.name, run.layers[self._layer]
        if name not in self._kept:
            found = decomposed(run.delta, layer, self._options.decomposition, self._cache, self._key(run))
            self._kept[name] = found
        return self._kept[name]

    def _key(self, run: Run) -> dict[str, Any]:
        return {"files": run.hash, "base": None if isinstance(run.delta, AdapterDelta) else self._base_hash}


def _delta(source: Source, base: ModelWeights | None) -> Delta:
    if source.kind != "full":
        if not (source.weights / CONFIG_FILE).is_file():
            raise InputError(f"{str(source.weights)!r} has no {CONFIG_FILE}; the adapter was not saved completely")
        return AdapterDelta(source.weights)
    if base is None:
        raise InputError(
            f"{source.name!r} ({str(source.weights)!r}) is a whole model, whose ΔW is its difference from the base "
            "model; name that (--base)"
        )
    return ModelDelta(ModelWeights(source.weights), base)


def _check_together(runs: Sequence[Run]) -> None:
    """Runs that are compared have layers in common, and those are of one shape."""
    by_name = {run.source.name: run for run in runs}
    for run in runs:
        reference = by_name[run.reference] if run.reference else None
        if reference is None:
            continue
        shared = run.layers.keys() & reference.layers.keys()
        names = f"{run.source.name!r} and its reference {reference.source.name!r}"
        if not shared:
            raise InputError(
                f"{names} have no layer in common, such as {next(iter(run.layers))!r} and "
                f"{next(iter(reference.layers))!r}; analyse them apart"
            )
        for layer in sorted(shared, key=natural_order):
            one, other = (r.delta.shapes[r.layers[layer]] for r in (run, reference))
            if one != other:
                raise InputError(
                    f"{names} do not belong together: {layer} is {one[0]} x {one[1]} and {other[0]} x {other[1]} "
                    "(d_out x d_in); analyse them apart"
                )
