"""What `multilora analyze` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from multilora_cli.tables import new_console, new_table, shown

if TYPE_CHECKING:
    from multilora.report.analyze import AnalyzeReport

_NAMED_FAULTS = 10


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _plain(value: float) -> str:
    return f"{value:.2f}"


Write = Callable[[float], str]

# Heading, measure, how it is written. What no matrix has is left out.
_MEASURES: tuple[tuple[str, str, Write], ...] = (
    ("‖ΔW‖", "frobenius_norm", _short),
    ("‖ΔW‖ / ‖W‖", "relative_norm", _short),
    ("rank", "rank", _short),
    ("energy of top 1, %", "energy_share_1", _percent),
    ("energy of top 8, %", "energy_share_8", _percent),
    ("energy of top 32, %", "energy_share_32", _percent),
    ("stable rank", "stable_rank", _plain),
    ("effective rank", "effective_rank", _plain),
    ("Gini", "gini", _plain),
    *((f"φ({k},{k}) {side}", f"similarity_{side}_{k}", _plain) for k in (1, 8) for side in ("left", "right")),
    ("modules' φ left", "module_similarity_left", _plain),
    ("modules' φ right", "module_similarity_right", _plain),
    ("amplification, top 4", "amplification_4", _short),
    ("error of bf16 merge, %", "merge_error_bfloat16", _percent),
    ("intruders in top 10", "intruders", _plain),
)
_OVERVIEW = ("effective_rank", "stable_rank", "energy_share_8", "gini", "similarity_left_8", "similarity_right_8")


def show_analysis(report: AnalyzeReport) -> None:
    """A table per run, all runs side by side, what could not be analysed, and where the results are."""
    console = new_console()
    runs = {name: run for name, run in report.data["runs"].items() if run["matrices"]}
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
    console.print(f"[bold green]page[/] {shown(str(report.page))}", soft_wrap=True)


def _table(name: str, run: Mapping[str, Any]) -> Table:
    """Measures by projection."""
    reference = f"; φ to {shown(run['reference'])}" if run["reference"] else ""
    method = "" if run["method"] in name else f" ({shown(run['method'])})"
    count = f"{run['matrices']:,} {'matrix' if run['matrices'] == 1 else 'matrices'}"
    groups = {**run["by_projection"], "all": run["total"]}
    title = f"[bold]{shown(name)}[/]{method}: means over {count}{reference}"
    table = new_table("", *groups, title=title)
    for heading, measure, write in _MEASURES:
        if measure in run["total"]:
            table.add_row(heading, *(_mean(found, measure, write) for found in groups.values()))
    return table


def _overview(runs: Mapping[str, Any]) -> Table:
    """All runs, means over all matrices."""
    columns = [column for column in _MEASURES if column[1] in _OVERVIEW]
    columns = [column for column in columns if any(column[1] in run["total"] for run in runs.values())]
    headings = [heading for heading, _, _ in columns]
    table = new_table("run", *headings, title="all runs: means over all matrices")
    for name, run in runs.items():
        table.add_row(shown(name), *(_mean(run["total"], measure, write) for _, measure, write in columns))
    return table


def _mean(found: Mapping[str, Any], measure: str, write: Write) -> str:
    return write(found[measure]["mean"]) if measure in found else ""
