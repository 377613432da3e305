"""A run as the report knows it: what its folder says, and what an analysis found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multilora.evaluation.saved import EvaluationResults
from multilora.runs.records import MetricsLine, RunResults
from multilora.spectral.record import AnalysedRun, AnalysisRecord, MatrixRecord


@dataclass(frozen=True)
class RunRecord:
    """One training, adapter or model.

    Attributes:
        name: as the analysis calls it.
        method: in short, or as its comparison calls it.
        seed: of the training, in a comparison counted from 0; None if unknown.
        regime: `mixed`, or the only task; None if unknown.
        comparison: the comparison's folder that it belongs to, as the analysis calls it.
        recipe: what its recipe.yaml says; None if it has none.
        results: of its results.json; None if it has none.
        metrics: the lines of its metrics.jsonl.
        tests: each eval-SPLIT/results.json, by the folder's name.
        analysed: what the analysis says of it; None if it was not analysed.
        matrices: its ΔW by layer.
    """

    name: str
    method: str
    seed: int | None = None
    regime: str | None = None
    comparison: str | None = None
    recipe: Mapping[str, Any] | None = None
    results: RunResults | None = None
    metrics: Sequence[MetricsLine] = ()
    tests: Mapping[str, EvaluationResults] = field(default_factory=dict[str, EvaluationResults])
    analysed: AnalysedRun | None = None
    matrices: Mapping[str, MatrixRecord] = field(default_factory=dict[str, MatrixRecord])

    @property
    def total_rank(self) -> int | None:
        """n·r of an adapter that was analysed."""
        return self.analysed.total_rank if self.analysed else None

    @property
    def one_rank(self) -> bool:
        """All its layers have the same rank, as far as its recipe is known."""
        return not ((self.recipe or {}).get("method") or {}).get("rank_pattern")


def analysed_runs(data: AnalysisRecord | None) -> dict[str, RunRecord]:
    """The runs of an analysis by name, as far as it describes them; empty if nothing was analysed."""
    if data is None:
        return {}
    matrices: dict[str, dict[str, MatrixRecord]] = {name: {} for name in data.runs}
    for matrix in data.matrices:
        matrices.setdefault(matrix.run, {})[matrix.layer] = matrix
    return {
        name: RunRecord(
            name=name,
            method=run.method,
            seed=run.seed,
            regime=run.regime,
            comparison=run.comparison,
            recipe=run.recipe,
            analysed=run,
            matrices=matrices[name],
        )
        for name, run in data.runs.items()
    }
