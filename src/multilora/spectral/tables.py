"""An analysis as files: analysis.json for the page, analysis.parquet for whoever counts on; and its summary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

from multilora.spectral.analysis import Analysis, Run
from multilora.spectral.deltas import AdapterDelta
from multilora.storage.folders import sync, write_text

FORMAT = 1
JSON_FILE, PARQUET_FILE = "analysis.json", "analysis.parquet"
COLUMNS = ("run", "method", "kind", "seed", "regime", "layer", "projection", "block", "measure", "value")

Facts = Mapping[str, Any]


def as_data(analysis: Analysis, base: str | None, settings: Facts, notes: Sequence[str]) -> dict[str, Any]:
    """The content of analysis.json.

    Args:
        analysis: what was found.
        base: the base model as it was named.
        settings: with which it was computed.
        notes: what the reader has to know besides.

    Returns:
        format, versions, base, settings, notes; runs (by name: what it is, and its summary over its matrices, whole
        and by projection); matrices; faults.
    """
    return {
        "format": FORMAT,
        "versions": {name: version(name) for name in ("multilora", "torch")},
        "base": base,
        "settings": dict(settings),
        "notes": list(notes),
        "runs": {run.source.name: _about(run) | _summary(analysis, run) for run in analysis.runs},
        "matrices": analysis.matrices,
        "faults": [vars(fault).copy() for fault in analysis.faults],
    }


def tidy_rows(analysis: Analysis) -> Iterable[tuple[Any, ...]]:
    """One row per matrix and measure, as `COLUMNS`."""
    sources = {run.source.name: run.source for run in analysis.runs}
    for matrix in analysis.matrices:
        s = sources[matrix["run"]]
        head = (s.name, s.method, s.kind, s.seed, s.regime, matrix["layer"], matrix["projection"], matrix["block"])
        for measure, value in matrix["measures"].items():
            yield (*head, measure, float(value))


def write_files(out: Path, data: Facts, analysis: Analysis) -> None:
    """Write both files; each is complete or as it was."""
    _write_parquet(out / PARQUET_FILE, analysis)
    write_text(out / JSON_FILE, json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")


def summarised(records: Sequence[Facts]) -> dict[str, dict[str, float]]:
    """Of each measure the mean, median, least and greatest value over matrices, and how many of them have it."""
    values: dict[str, list[float]] = {}
    for record in records:
        for measure, value in record["measures"].items():
            values.setdefault(measure, []).append(value)
    return {
        measure: {
            "mean": fmean(of),
            "median": median(of),
            "min": min(of),
            "max": max(of),
            "count": len(of),
        }
        for measure, of in values.items()
    }


def _summary(analysis: Analysis, run: Run) -> dict[str, Any]:
    own = [matrix for matrix in analysis.matrices if matrix["run"] == run.source.name]
    by_projection: dict[str, list[dict[str, Any]]] = {}
    for matrix in own:
        by_projection.setdefault(matrix["projection"], []).append(matrix)
    return {
        "matrices": len(own),
        "total": summarised(own),
        "by_projection": {name: summarised(records) for name, records in by_projection.items()},
    }


def _about(run: Run) -> dict[str, Any]:
    source = run.source
    about: dict[str, Any] = {
        "method": source.method,
        "kind": source.kind,
        "seed": source.seed,
        "regime": source.regime,
        "folder": str(source.folder),
        "comparison": str(source.comparison) if source.comparison else None,
        "reference": run.reference,
        "num_loras": None,
        "r": None,
        "total_rank": None,
        "recipe": source.recipe,
        "weights_bytes": sum(file.stat().st_size for file in run.delta.files if file.suffix == ".safetensors"),
    }
    if isinstance(run.delta, AdapterDelta):
        config = run.delta.adapter.adapter_config.config
        about |= {"num_loras": config.num_loras, "r": config.r, "total_rank": config.num_loras * config.r}
    return about


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
