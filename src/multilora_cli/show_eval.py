"""What `multilora eval` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from multilora_cli.tables import new_console, new_table

if TYPE_CHECKING:
    from multilora.evaluation.evaluate import EvalReport


def show_eval(report: EvalReport) -> None:
    """The scores as a table, what was not scored, and where the results are."""
    console = new_console()
    headings = ("metric", "score ± s.e.", "95 % interval", "count", "too long")
    table = new_table("task", *headings, left=("metric",), whole=True)
    for name, task in report.results["tasks"].items():
        if "not_scored" not in task:
            _add(table, name, task)
    if table.rows:
        console.print(table)
    for name, task in report.results["tasks"].items():
        if "not_scored" in task:
            console.print(f"{name} is not scored: {task['not_scored']}", markup=False, soft_wrap=True)
        elif not task["scored"] and "long_prompts" in task:
            length = task["long_prompts"]["max_length"]
            console.print(
                f"{name} has no score: none of its {task['rows']:,} rows fits into {length:,} tokens; --on-long-prompt "
                "truncate_left cuts their prompts' beginnings off",
                markup=False,
                soft_wrap=True,
            )
    console.print(f"[bold green]results[/] {escape(str(report.folder))}", soft_wrap=True)


def _add(table: Table, name: str, task: Mapping[str, Any]) -> None:
    long = task.get("long_prompts")
    share = "" if long is None else f"{100 * long['share']:.1f} %"
    for number, (metric, score) in enumerate(task["metrics"].items()):
        first = number == 0
        table.add_row(escape(name) if first else "", escape(metric), *_cells(score), share if first else "")
    for category, metrics in task.get("by_category", {}).items():
        for score in metrics.values():
            table.add_row("", f"[dim]{escape(category)}[/]", *_cells(score), "")


def _cells(score: Mapping[str, Any]) -> tuple[str, str, str]:
    value, error, interval = score["value"], score["standard_error"], score["interval"]
    return (
        "none" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}"),
        "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        f"{score['count']:,}",
    )
