"""What `multilora analyze` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from multilora_cli.tables import new_console, new_table, shown

if TYPE_CHECKING:
    from multilora.spectral.analyze import AnalyzeReport
    from multilora.spectral.findings import Measure
    from multilora.spectral.record import AnalysedRun, MeasureSummary

_NAMED_FAULTS = 10


# How a measure's format is written.
_WRITE: Mapping[str, Callable[[float], str]] = {
    "share": lambda value: f"{100 * value:.1f}",
    "significant": lambda value: f"{value:.3g}",
    "fixed": lambda value: f"{value:.2f}",
}


def _measures() -> Sequence[Measure]:
    """The rows of a run's table; what no matrix has is left out."""
    from multilora.spectral import measures as of

    similarities = (of.similarity(side, k) for k in (1, 8) for side in of.SIDES)
    modules = of.MODULE_SIMILARITY.values()
    return *of.OVERVIEW, *similarities, *modules, of.amplification(4), of.merge_error("bfloat16"), of.INTRUDERS


def _compared() -> Sequence[Measure]:
    """The columns of the table of all runs."""
    from multilora.spectral import measures as of

    similarities = (of.similarity(side, 8) for side in of.SIDES)
    return of.ENERGY_SHARES[8], of.STABLE_RANK, of.EFFECTIVE_RANK, of.GINI, *similarities


def show_analysis(report: AnalyzeReport, page: Path) -> None:
    """A table per run, all runs side by side, what could not be analysed, and where the results are."""
    console = new_console()
    runs = {name: run for name, run in report.record.runs.items() if run.matrices}
    for name, run in runs.items():
        console.print(_table(name, run))
    if len(runs) > 1:
        console.print(_overview(runs))
    for note in report.notes:
        console.print(f"[dim]{shown(note)}[/]", soft_wrap=True)
    for fault in report.faults[:_NAMED_FAULTS]:
        console.print(
            f"[red]not analysed:[/] {shown(fault.run)}, {shown(fault.layer)}: {shown(fault.message)}", soft_wrap=True
        )
    if len(report.faults) > _NAMED_FAULTS:
        console.print(f"[red]and {len(report.faults) - _NAMED_FAULTS:,} more matrices[/]; analysis.json names them")
    console.print(f"[bold green]analysis[/] {shown(str(report.folder))}", soft_wrap=True)
    console.print(f"[bold green]page[/] {shown(str(page))}", soft_wrap=True)


def _table(name: str, run: AnalysedRun) -> Table:
    """Measures by projection."""
    reference = f"; φ to {shown(run.reference)}" if run.reference else ""
    method = "" if run.method in name else f" ({shown(run.method)})"
    count = f"{run.matrices:,} {'matrix' if run.matrices == 1 else 'matrices'}"
    groups = {**run.by_projection, "all": run.total}
    title = f"[bold]{shown(name)}[/]{method}: means over {count}{reference}"
    table = new_table("", *groups, title=title)
    for measure in _measures():
        if measure.key in run.total:
            table.add_row(measure.heading, *(_mean(found, measure) for found in groups.values()))
    return table


def _overview(runs: Mapping[str, AnalysedRun]) -> Table:
    """All runs, means over all matrices."""
    columns = [measure for measure in _compared() if any(measure.key in run.total for run in runs.values())]
    headings = [measure.heading for measure in columns]
    table = new_table("run", *headings, title="all runs: means over all matrices")
    for name, run in runs.items():
        table.add_row(shown(name), *(_mean(run.total, measure) for measure in columns))
    return table


def _mean(found: Mapping[str, MeasureSummary], measure: Measure) -> str:
    return _WRITE[measure.format](found[measure.key].mean) if measure.key in found else ""
