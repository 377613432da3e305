"""What the page is made of: an analysis, comparisons, and the runs' own figures, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from multilora.bench.record import BenchRecord
from multilora.comparison.record import ComparisonRecord, ComparisonResults
from multilora.errors import InputError
from multilora.evaluation.saved import EvaluationResults
from multilora.report.run_record import RunRecord, analysed_runs
from multilora.runs.layout import RESULTS_FILE, ComparisonLayout, RunLayout
from multilora.runs.records import MetricsLine, RunResults
from multilora.spectral.record import AnalysisRecord
from multilora.spectral.sources import Source, find_sources
from multilora.storage.record import Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class ComparedMethods:
    """One comparison.

    Attributes:
        folder: as the analysis calls it.
        results: of its results.json; None if it has none yet.
        record: what all its trainings share; None if comparison.json cannot be read.
    """

    folder: str
    results: ComparisonResults | None
    record: ComparisonRecord | None


@dataclass(frozen=True)
class ReportInputs:
    """All that the page shows.

    Attributes:
        data: the analysis; None if nothing was analysed.
        comparisons: in the order in which they were named.
        runs: what the folders hold, trainings of comparisons among them.
        notes: what could not be read.
        bench: what methods cost, measured in turns on one machine; None if not measured.
    """

    data: AnalysisRecord | None = None
    comparisons: Sequence[ComparedMethods] = ()
    runs: Sequence[RunRecord] = ()
    notes: Sequence[str] = ()
    bench: BenchRecord | None = None

    @property
    def only_bench(self) -> bool:
        """There is nothing to show but what methods cost."""
        return self.bench is not None and self.data is None and not self.comparisons and not self.runs

    @cached_property
    def all_runs(self) -> Mapping[str, RunRecord]:
        """By name: those of the folders, with what was found in them, then those that were only analysed."""
        found = {run.name: run for run in self.runs}
        for name, run in analysed_runs(self.data).items():
            known = found.get(name)
            found[name] = replace(known, analysed=run.analysed, matrices=run.matrices) if known else run
        return found

    @property
    def results(self) -> list[ComparisonResults]:
        """Of every comparison that has some."""
        return [comparison.results for comparison in self.comparisons if comparison.results is not None]


def gather(
    data: AnalysisRecord | None,
    folders: Sequence[Path],
    bench: BenchRecord | None = None,
    sources: Sequence[Source] | None = None,
) -> ReportInputs:
    """Read what the folders hold besides their weights. What is missing or damaged is left out, and said in `notes`.

    Args:
        data: the analysis; None if nothing was analysed.
        folders: those that were analysed: runs, comparisons, adapters, models.
        bench: what methods cost; None if not measured.
        sources: what the analysis found in the folders; None: they are searched.
    """
    notes: list[str] = []
    comparisons = [
        ComparedMethods(
            str(folder),
            _read(ComparisonResults, layout.results, notes),
            _read(ComparisonRecord, layout.record, notes),
        )
        for folder in folders
        if (layout := ComparisonLayout(folder)).record.is_file()
    ]
    notes += [
        f"the comparison in {comparison.folder} has no results yet"
        for comparison in comparisons
        if comparison.results is None and not ComparisonLayout(Path(comparison.folder)).results.exists()
    ]
    if sources is None:
        try:
            sources = find_sources([str(folder) for folder in folders]) if folders else []
        except InputError as error:  # such as a comparison none of whose cells has ended well
            notes.append(str(error))
            sources = []
    return ReportInputs(data, comparisons, [_run(source, notes) for source in sources], notes, bench)


def _run(source: Source, notes: list[str]) -> RunRecord:
    layout = RunLayout(source.folder)
    tests = {
        folder.name: found
        for folder in layout.evaluations()
        if (found := _read(EvaluationResults, folder / RESULTS_FILE, notes)) is not None
    }
    return RunRecord(
        name=source.name,
        method=source.method,
        seed=source.seed,
        regime=source.regime,
        comparison=str(source.comparison) if source.comparison else None,
        recipe=source.recipe,
        results=_read(RunResults, layout.results, notes) if source.recipe else None,
        metrics=_metrics(layout.metrics, notes) if source.recipe else (),
        tests=tests,
    )


def _read(kind: type[R], file: Path, notes: list[str]) -> R | None:
    """None if there is no such file, or it is damaged."""
    if not file.is_file():
        return None
    try:
        return kind.read(file)
    except InputError as error:
        notes.append(f"{error}; the file is left out")
        return None


def _metrics(file: Path, notes: list[str]) -> Sequence[MetricsLine]:
    try:
        return MetricsLine.read_all(file)
    except InputError as error:
        notes.append(f"{error}; the file is left out")
        return ()
