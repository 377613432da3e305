"""What `multilora eval` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from multilora_cli.tables import new_console, new_table

if TYPE_CHECKING:
    from multilora.evaluation.evaluate import EvalReport
    from multilora.evaluation.results import Score
    from multilora.evaluation.saved import TaskScores


def show_eval(report: EvalReport) -> None:
    """The scores as a table, what was not scored, and where the results are."""
    console = new_console()
    headings = ("metric", "score ± s.e.", "95 % interval", "count", "too long")
    table = new_table("task", *headings, left=("metric",), whole=True)
    for name, task in report.results.tasks.items():
        if not task.not_scored:
            _add(table, name, task)
    if table.rows:
        console.print(table)
    for name, task in report.results.tasks.items():
        if task.not_scored:
            console.print(f"{name} is not scored: {task.not_scored}", markup=False, soft_wrap=True)
        elif not task.scored and task.long_prompts is not None:
            length = task.long_prompts.max_length
            console.print(
                f"{name} has no score: none of its {task.rows:,} rows fits into {length:,} tokens; --on-long-prompt "
                "truncate_left cuts their prompts' beginnings off",
                markup=False,
                soft_wrap=True,
            )
    console.print(f"[bold green]results[/] {escape(str(report.folder))}", soft_wrap=True)


def _add(table: Table, name: str, task: TaskScores) -> None:
    share = "" if task.long_prompts is None else f"{100 * task.long_prompts.share:.1f} %"
    for number, (metric, score) in enumerate(task.metrics.items()):
        first = number == 0
        table.add_row(escape(name) if first else "", escape(metric), *_cells(score), share if first else "")
    for category, metrics in task.groups.get("category", {}).items():
        for score in metrics.values():
            table.add_row("", f"[dim]{escape(category)}[/]", *_cells(score), "")


def _cells(score: Score) -> tuple[str, str, str]:
    return (
        "none"
        if score.value is None
        else f"{score.value:.3f}" + ("" if score.standard_error is None else f" ± {score.standard_error:.3f}"),
        "" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}",
        f"{score.count:,}",
    )
