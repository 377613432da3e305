"""Analysing runs, comparisons, adapters and models: from their folders to analysis.json and analysis.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from multilora.base.weights import ModelWeights, local_model
from multilora.errors import InputError
from multilora.spectral.analysis import analyse, open_runs
from multilora.spectral.cache import Cache
from multilora.spectral.deltas import AdapterDelta, DecompositionOptions
from multilora.spectral.matrix import MatrixOptions
from multilora.spectral.record import AnalysisRecord, Fault
from multilora.spectral.sources import Source, base_of, find_sources, references
from multilora.spectral.tables import JSON_FILE, as_record, write_files
from multilora.storage.folders import is_empty
from multilora.terminal import Progress

CACHE = "cache"
PRECISIONS = {"auto": None, "fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class AnalyzeOptions:
    """What is analysed, and how.

    Attributes:
        base: the base model, a folder or a hub id; None: the one that the runs tell.
        reference: name or folder of the run that the others' subspaces are compared with; None: as `references`.
        top: how many singular vectors are compared at most, and computed of full matrices.
        exact: compute vectors of full matrices by the whole decomposition.
        precision: auto, fp32 or fp64.
        mechanism: compare ΔW with the base weights, if there are any.
        intruders: count intruder dimensions, too.
    """

    base: str | None = None
    reference: str | None = None
    top: int = 64
    exact: bool = False
    precision: str = "auto"
    mechanism: bool = True
    intruders: bool = False


@dataclass(frozen=True)
class AnalyzeReport:
    """What `analyze` wrote.

    Attributes:
        folder: with analysis.json, analysis.parquet and cache/.
        record: the analysis.
        sources: what was analysed.
        faults: the matrices that could not be analysed.
        notes: what the reader has to know besides.
    """

    folder: Path
    record: AnalysisRecord
    sources: Sequence[Source]
    faults: Sequence[Fault]
    notes: Sequence[str]


def analyze(targets: Sequence[str], out: Path, options: AnalyzeOptions, progress: Progress) -> AnalyzeReport:
    """Analyse runs; write analysis.json and analysis.parquet. Goes on where it was interrupted.

    Args:
        targets: folders of runs, comparisons, adapters and models.
        out: the folder for the results.
        options: what is computed.
        progress: is told how it goes.

    Raises:
        InputError: a target or the base model is none, is broken, or they do not belong together; `out` holds
            something else; no matrix of any run could be analysed.
    """
    _check_options(options)
    _check_out(out)
    sources = find_sources(targets)
    compared = references(sources, options.reference)
    notes: list[str] = []
    location, base = _base(sources, options, notes)
    runs = open_runs(sources, base, compared)
    for run in runs:
        if isinstance(run.delta, AdapterDelta) and (others := run.delta.adapter.other_tensors):
            notes.append(f"{run.source.name}: {len(others)} tensors that are no LoRA pair are left out ({others[0]})")
    matrix = MatrixOptions(
        decomposition=DecompositionOptions(options.top, options.exact, PRECISIONS[options.precision]),
        mechanism=options.mechanism,
        intruders=options.intruders,
    )
    try:
        found = analyse(runs, base, matrix, Cache(out / CACHE), progress)
    finally:
        progress.stop()
    if not found.matrices:
        first = found.faults[0]
        raise InputError(f"no matrix of any run can be analysed; the first, {first.layer}: {first.message}")
    record = as_record(found, location, asdict(options), notes)
    out.mkdir(parents=True, exist_ok=True)
    write_files(out, record, found)
    return AnalyzeReport(out, record, sources, found.faults, notes)


def _check_options(options: AnalyzeOptions) -> None:
    if options.top < 1:
        raise InputError(f"top must be at least 1; got {options.top}")
    if options.precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}; got {options.precision!r}")
    if options.intruders and not options.mechanism:
        raise InputError(
            "intruders compares with the base weights, which mechanism=False (--no-mechanism) leaves out; drop one"
        )


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {str(out)!r} is a file; choose a folder")
    if not is_empty(out) and not (out / JSON_FILE).is_file() and not (out / CACHE).is_dir():
        raise InputError(f"out: {str(out)!r} is not empty and holds no analysis; choose another folder")


def _base(
    sources: Sequence[Source], options: AnalyzeOptions, notes: list[str]
) -> tuple[str | None, ModelWeights | None]:
    """The base model, opened; None where it is not needed, or is not at hand."""
    needed = any(source.kind == "full" for source in sources)
    if not needed and not options.mechanism:
        return None, None
    if options.base is not None:
        folder = local_model(options.base, download=True)
        assert folder is not None
        return options.base, ModelWeights(folder)
    told = base_of(sources)
    left_out = "mechanism and merge numerics are left out; name the base model (--base)"
    if told is None:
        notes.append(f"no run tells its base model: {left_out}")
        return None, None
    try:
        folder = local_model(told[0], revision=told[1])
    except InputError as error:
        folder, why = None, str(error)
    else:
        why = f"the base model {told[0]!r} was not downloaded before"
    if folder is None:
        if needed:
            raise InputError(f"{why}; name the base model (--base)")
        notes.append(f"{why}: {left_out}")
        return None, None
    return told[0], ModelWeights(folder)
