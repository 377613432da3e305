"""An analysis as files: analysis.json for the page, analysis.parquet for further computation; and its summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

from multilora.spectral.analysis import Analysis, Run
from multilora.spectral.deltas import AdapterDelta
from multilora.spectral.record import AnalysedRun, AnalysisRecord, MatrixRecord, MeasureSummary
from multilora.storage.folders import sync

JSON_FILE, PARQUET_FILE = "analysis.json", "analysis.parquet"
COLUMNS = ("run", "method", "kind", "seed", "regime", "layer", "projection", "block", "measure", "value")


def as_record(
    analysis: Analysis, base: str | None, settings: Mapping[str, Any], notes: Sequence[str]
) -> AnalysisRecord:
    """The content of analysis.json.

    Args:
        analysis: what was found.
        base: the base model as it was named.
        settings: with which it was computed.
        notes: what the reader has to know besides.
    """
    return AnalysisRecord(
        versions={name: version(name) for name in ("multilora", "torch")},
        base=base,
        settings=dict(settings),
        notes=tuple(notes),
        runs={run.source.name: _about(run, analysis) for run in analysis.runs},
        matrices=tuple(analysis.matrices),
        faults=tuple(analysis.faults),
    )


def tidy_rows(analysis: Analysis) -> Iterable[tuple[Any, ...]]:
    """One row per matrix and measure, as `COLUMNS`."""
    sources = {run.source.name: run.source for run in analysis.runs}
    for matrix in analysis.matrices:
        s = sources[matrix.run]
        head = (s.name, s.method, s.kind, s.seed, s.regime, matrix.layer, matrix.projection, matrix.block)
        for measure, value in matrix.measures.items():
            yield (*head, measure, float(value))


def write_files(out: Path, record: AnalysisRecord, analysis: Analysis) -> None:
    """Write both files; each is complete or as it was."""
    _write_parquet(out / PARQUET_FILE, analysis)
    record.write(out / JSON_FILE)


def summarised(records: Sequence[MatrixRecord]) -> dict[str, MeasureSummary]:
    """Of each measure the mean, median, least and greatest value over matrices, and how many of them have it."""
    values: dict[str, list[float]] = {}
    for record in records:
        for measure, value in record.measures.items():
            values.setdefault(measure, []).append(value)
    return {
        measure: MeasureSummary(mean=fmean(of), median=median(of), min=min(of), max=max(of), count=len(of))
        for measure, of in values.items()
    }


def _about(run: Run, analysis: Analysis) -> AnalysedRun:
    source = run.source
    own = [matrix for matrix in analysis.matrices if matrix.run == source.name]
    by_projection: dict[str, list[MatrixRecord]] = {}
    for matrix in own:
        by_projection.setdefault(matrix.projection, []).append(matrix)
    n = r = None
    if isinstance(run.delta, AdapterDelta):
        config = run.delta.adapter.adapter_config.config
        n, r = config.num_loras, config.r
    return AnalysedRun(
        method=source.method,
        kind=source.kind,
        seed=source.seed,
        regime=source.regime,
        folder=str(source.folder),
        comparison=str(source.comparison) if source.comparison else None,
        reference=run.reference,
        num_loras=n,
        r=r,
        total_rank=None if n is None or r is None else n * r,
        recipe=None if source.recipe is None else dict(source.recipe),
        weights_bytes=sum(file.stat().st_size for file in run.delta.files if file.suffix == ".safetensors"),
        matrices=len(own),
        total=summarised(own),
        by_projection={name: summarised(records) for name, records in by_projection.items()},
    )


def _write_parquet(path: Path, analysis: Analysis) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(zip(*tidy_rows(analysis), strict=True)) or [()] * len(COLUMNS)
    types = {"seed": pa.int64(), "block": pa.int64(), "value": pa.float64()}
    arrays = {
        name: pa.array(column, types.get(name, pa.string())) for name, column in zip(COLUMNS, columns, strict=True)
    }
    aside = path.with_name(f".{path.name}.incomplete")
    pq.write_table(pa.table(arrays), aside)
    sync(aside)
    aside.replace(path)
