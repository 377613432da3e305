"""What `multilora compare` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from multilora.comparison.record import AVERAGE
from multilora_cli.tables import new_console, new_table

if TYPE_CHECKING:
    from multilora.comparison.compare import Comparison
    from multilora.comparison.record import ComparedMethod, PairedDifference, RegimeResults
    from multilora.comparison.runner import Failure
    from multilora.comparison.statistics import MeanOverSeeds


def show_comparison(comparison: Comparison, page: Path | None) -> None:
    """Scores by task and method, differences to LoRA of equal rank, resources, and where everything is."""
    console = new_console()
    results = comparison.results
    for regime, found in results.regimes.items():
        if any(found.scores.values()):
            console.print(_scores(regime, found))
            for line in _differences(found.differences):
                console.print(line)
            console.print()
    if any(method.is_trained for method in results.methods.values()):
        console.print(_resources(results.methods))
    console.print(f"[bold green]comparison[/] {escape(str(comparison.folder))}", soft_wrap=True)
    if page is not None:
        console.print(f"[bold green]page[/] {escape(str(page))}", soft_wrap=True)


def failed_lines(failures: Sequence[Failure]) -> list[str]:
    """Cells that failed, why, and where to read more."""
    return [f"{failure.cell.title}: {failure.reason}\n    {failure.log}" for failure in failures]


def _scores(regime: str, found: RegimeResults) -> Table:
    methods = [name for name, scores in found.scores.items() if scores]
    seeds = max(len(found.scores[name][AVERAGE].values) for name in methods)
    spread = "mean and 95 % interval over seeds" if seeds > 1 else "one seed, so no interval"
    kind = "one training for all tasks" if regime == "mixed" else "one training for each task"
    table = new_table("task", *methods, title=f"test scores in %, {kind}; {spread}")
    for task in (*found.metrics, AVERAGE):
        best = max(found.scores[name][task].mean for name in methods)
        cells = [_with_interval(found.scores[name][task], best) for name in methods]
        table.add_row(escape(task), *cells, end_section=task == [*found.metrics][-1])
    return table


def _with_interval(score: MeanOverSeeds, best: float) -> str:
    mean = f"{100 * score.mean:.1f}"
    mean = f"[bold]{mean}[/]" if score.mean == best else mean
    return (
        mean if score.low is None or score.high is None else f"{mean} [dim]± {100 * (score.high - score.mean):.1f}[/]"
    )


def _differences(differences: Sequence[PairedDifference]) -> list[str]:
    if not differences:
        return ["[dim]no LoRA of equal rank is among the methods, so nothing is compared with one[/]"]
    lines: list[str] = []
    for difference in differences:
        average = difference.tasks[AVERAGE]
        seeds = difference.seeds
        over = f"{seeds} seeds, paired" if seeds > 1 else "1 seed, paired; the interval is of the test's rows alone"
        p_value = "" if average.p_value is None else f", p = {average.p_value:.3f}"
        lines.append(
            f"{escape(difference.method)} minus {escape(difference.minus)} (equal rank), average: "
            f"[bold]{100 * average.mean:+.1f}[/] points, 95 % interval {100 * average.low:+.1f} to "
            f"{100 * average.high:+.1f}{p_value} ({over})"
        )
    return lines


def _resources(methods: Mapping[str, ComparedMethod]) -> Table:
    headings = ("trained", "weights\nMB", "learning\nrate", "tokens/s", "peak\nMiB", "forgetting\nnats")
    table = new_table("method", *headings, title="training")
    for name, method in methods.items():
        if method.tokens_per_second is None or method.weights_bytes is None or method.peak_memory_bytes is None:
            table.add_row(escape(name), *[""] * 6)
            continue
        forgetting = method.forgetting
        table.add_row(
            escape(name),
            f"{method.trainable_parameters:,}",
            f"{method.weights_bytes / 1e6:,.2f}",
            ", ".join(f"{rate:g}" for rate in method.learning_rates),
            f"{method.tokens_per_second:,.0f}",
            f"{method.peak_memory_bytes / 2**20:,.0f}",
            "" if forgetting is None else f"{forgetting.mean:+.3f}",
        )
    return table
