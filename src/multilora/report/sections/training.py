"""Training loss per task; and what training took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multilora.comparison.record import ComparedMethod
from multilora.comparison.statistics import MeanOverSeeds
from multilora.report.figures import Control, Figure, Panel, Section, swatch
from multilora.report.markup import Html, el, table
from multilora.report.numbers import NONE, counted, short, whole
from multilora.report.page_data import PageData
from multilora.report.run_record import RunRecord
from multilora.report.sections.costs import costs
from multilora.runs.records import RunResults

_POINTS = 200
_ALL = "all tasks"


def losses(page: PageData) -> Section:
    """Lines over steps, chosen by task and seed."""
    section = Section("losses", "Training loss")
    runs = {run.name: run for run in page.inputs.runs if run.metrics}
    if not runs:
        section.left_out = "no given run has a record of its training (metrics.jsonl)."
        return section
    section.lead = (
        "The mean loss of the completions' tokens between one logged step and the next. Lower is better; a task whose "
        "line stays flat is not learnt, one whose line rises is being unlearnt."
    )
    tasks = list(dict.fromkeys(task for run in runs.values() for line in run.metrics for task in line.tasks))
    choices = [_ALL, *tasks] if len(tasks) > 1 else tasks or [_ALL]
    groups = page.lineup.groups
    views: dict[tuple[int, ...], list[Panel]] = {}
    rows: list[Sequence[str]] = []
    series: set[int] = set()
    for group, label in enumerate(groups):
        shown = [(m.series, runs[m.run.name]) for m in page.lineup.in_group(group) if m.run.name in runs]
        for number, task in enumerate(choices):
            curves = [(s, run, curve) for s, run in shown if (curve := _curve(run, task))]
            if not curves:
                continue
            series |= {s for s, _, _ in curves}
            ends = [(page.lineup.labels[s], curve) for s, _, curve in curves]
            rows += [
                (task, *([label] if len(groups) > 1 else []), name, whole(curve[-1][0]), short(curve[0][1], 4),
                 short(min(loss for _, loss in curve), 4), short(curve[-1][1], 4))
                for name, curve in ends
            ]  # fmt: skip
            said = "; ".join(f"{name} from {short(c[0][1])} to {short(c[-1][1])}" for name, c in ends)
            views[group, number] = [
                Panel(f"Training loss of {task}, nats per token: {said}.", [_line(s, c) for s, _, c in curves], _LAYOUT)
            ]
    heads = ("task", *(["seed"] if len(groups) > 1 else []), "method", "steps", "first", "lowest", "last")
    section.parts.append(
        Figure(
            id="loss",
            title="Training loss per task",
            views=views,
            controls=[Control("Seed", groups), Control("Task", choices)],
            series=sorted(series),
            table=table("Training loss, nats per token", heads, rows, texts=len(heads) - 4),
        )
    )
    return section


_LAYOUT: dict[str, Any] = {
    "height": 340,
    "xaxis": {"title": {"text": "optimizer step"}, "rangemode": "tozero"},
    "yaxis": {"title": {"text": "loss, nats per token"}},
}


def _line(series: int, curve: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(curve) > 30 else "lines+markers",
        "s": series,
        "x": [step for step, _ in curve],
        "y": [loss for _, loss in curve],
        "hovertemplate": "step %{x}: %{y:.4g}<extra></extra>",
    }


def _curve(run: RunRecord, task: str) -> list[tuple[float, float]]:
    """(step, loss), at most `_POINTS`: neighbours are averaged by their tokens."""
    found: list[tuple[int, float, float]] = []
    for line in run.metrics:
        if task in line.tasks:
            found.append((line.step, line.tasks[task].loss, line.tasks[task].tokens))
        elif task == _ALL or not line.tasks:
            found.append((line.step, line.loss, 1))
    width = -(-len(found) // _POINTS)
    parts = [found[start : start + width] for start in range(0, len(found), width)] if found else []
    return [(part[-1][0], sum(x * n for _, x, n in part) / sum(n for *_, n in part)) for part in parts]


def resources(page: PageData) -> Section:
    """A row for each method or run."""
    section = Section("resources", "Resources")
    rows: list[Sequence[str]] = []
    for comparison in page.inputs.comparisons:
        for name, method in comparison.results.methods.items() if comparison.results else ():
            if method.is_trained:
                rows.append((_named(page, page.lineup.series_of(name, comparison.folder)), *_of_method(method)))
    for run in page.inputs.runs:
        if run.results and not run.comparison:
            shown = page.lineup.members[run.name]
            rows.append((_named(page, shown.series), *_of_run(shown.run, run.results)))
    beside = costs(page)
    if not rows and not beside:
        section.left_out = (
            "no given run has results of its training (results.json), and no bench was given (`multilora bench`)."
        )
    if not rows:
        section.parts += beside
        return section
    section.lead = (
        "What was trained and what it took: median speed and largest memory over seeds, as measured on the machine "
        "that trained. Forgetting is how much higher the loss on general text is after training than before."
    )
    heads = (
        "method", "trained parameters", "weights, MB", "tokens per second", "peak memory, MiB", "peak GPU memory, MiB",
        "forgetting, nats per token",
    )  # fmt: skip
    kept = [column for column in range(len(heads)) if column == 0 or any(row[column] != NONE for row in rows)]
    shown = [[row[column] for column in kept] for row in rows]
    section.parts.append(table("Resources of training", [heads[column] for column in kept], shown))
    section.parts.append(el("p", _machines(page), class_="note"))
    section.parts += beside
    return section


def _named(page: PageData, series: int) -> Html:
    return el("span", swatch(series), el("span", page.lineup.labels[series]), class_="named")


def _of_method(method: ComparedMethod) -> tuple[str, ...]:
    return (
        whole(method.trainable_parameters),
        _megabytes(method.weights_bytes),
        whole(method.tokens_per_second),
        _mebibytes(method.peak_memory_bytes),
        NONE,
        _forgetting(method.forgetting),
    )


def _of_run(run: RunRecord, results: RunResults) -> tuple[str, ...]:
    forgetting = results.forgetting
    return (
        whole(results.parameters.trainable),
        _megabytes(run.analysed.weights_bytes if run.analysed else None),
        whole(results.tokens_per_second),
        _mebibytes(results.peak_memory_bytes),
        _mebibytes(results.peak_cuda_memory_bytes),
        NONE if forgetting is None else f"{forgetting:+.3f}",
    )


def _forgetting(found: MeanOverSeeds | None) -> str:
    if found is None:
        return NONE
    interval = "" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.mean:+.3f}{interval}"


def _megabytes(count: int | None) -> str:
    return NONE if count is None else short(count / 1e6)


def _mebibytes(count: float | None) -> str:
    return NONE if count is None else whole(count / 2**20)


def _machines(page: PageData) -> str:
    found = dict.fromkeys(
        f"{run.results.device}, {counted(run.results.threads, 'thread')}, "
        f"{counted(run.results.processes, 'process', 'processes')}"
        for run in page.inputs.runs
        if run.results
    )
    return f"Measured on: {'; '.join(found)}. Memory is that of the main process." if found else ""
