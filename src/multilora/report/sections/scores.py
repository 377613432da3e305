"""Results per task, with intervals, and the paired differences to LoRA of equal rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from multilora.comparison.record import AVERAGE, RegimeResults
from multilora.comparison.statistics import MeanOverSeeds
from multilora.report.dots import Dot, dot_layout, dot_traces, share_range
from multilora.report.figures import Figure, Panel, Section
from multilora.report.inputs import ComparedMethods
from multilora.report.markup import el, table
from multilora.report.numbers import NONE, percent, points, short
from multilora.report.page_data import PageData
from multilora.report.run_record import RunRecord
from multilora.runs.layout import MIXED

_TEST = "eval-test"
_REGIMES = {"mixed": "one training for all tasks", "single": "one training for each task"}
Interval = tuple[float | None, float | None]


def results(page: PageData) -> Section:
    """A plot for each comparison and regime, one of its differences, and one of the runs that were tested alone."""
    section = Section("results", "Results per task")
    for comparison in page.inputs.comparisons:
        name = f"{PurePath(comparison.folder).name}: " if len(page.inputs.comparisons) > 1 else ""
        for regime, found in comparison.results.regimes.items() if comparison.results else ():
            number = len(section.figures)
            if any(found.scores.values()):
                title = f"{name}Test scores, {_REGIMES.get(regime, regime)}"
                section.parts.append(_scores(page, comparison, regime, found, title, f"scores-{number}"))
                if found.differences:
                    title = f"{name}Difference to LoRA of equal rank, {_REGIMES.get(regime, regime)}"
                    section.parts.append(_differences(page, comparison, found, title, f"differences-{number}"))
                elif len(found.scores) > 1:
                    text = "No LoRA of equal rank is among the methods, so nothing is compared with one."
                    section.parts.append(el("p", text, class_="note"))
    section.parts += _alone(page)
    if not section.parts:
        section.left_out = (
            "no run given has test results; `multilora eval RUN` or `multilora compare RECIPE` makes them."
        )
    section.lead = (
        "Each dot is a method's score on a task's test rows, in percent of the best possible; the line is its 95 % "
        "interval. Where intervals overlap much, the difference may be chance; the paired differences, which cancel "
        "what methods share, are more precise."
    )
    return section


def _scores(
    page: PageData, comparison: ComparedMethods, regime: str, found: RegimeResults, title: str, id: str
) -> Figure:
    metrics = found.metrics
    rows = [*metrics, AVERAGE]
    scored = {
        page.lineup.series_of(method, comparison.folder): (method, of) for method, of in found.scores.items() if of
    }
    seeds = max(len(of[AVERAGE].values) for _, of in scored.values())
    dots: list[tuple[int, list[Dot]]] = []
    cells: dict[str, list[str]] = {task: [task, metrics.get(task, "mean over tasks")] for task in rows}
    for series, (method, of) in scored.items():
        own: list[Dot] = []
        for number, task in enumerate(rows):
            mean, (low, high) = of[task].mean, _interval(page, comparison, regime, method, task, of[task])
            said = _with_interval(mean, low, high)
            own.append(Dot(number, 100 * mean, f"{task}, {method}: {said}", _times(low), _times(high)))
            cells[task].append(said)
        dots.append((series, own))
    labels = [page.lineup.labels[series] for series in scored]
    averages = (f"{label} {cells[AVERAGE][2 + number]}" for number, label in enumerate(labels))
    alt = f"Test scores in percent of {len(scored)} methods on {len(metrics)} tasks. Average: {'; '.join(averages)}."
    of_seeds = f"Means over {seeds} seeds; intervals by Student's t." if seeds > 1 else (
        "One seed: the intervals cover the choice of test rows, not the training."
    )  # fmt: skip
    return Figure(
        id=id,
        title=title,
        views={
            (): [
                Panel(
                    alt,
                    dot_traces(dots),
                    dot_layout(rows, len(dots), "score, %", ends=share_range(dot for _, of in dots for dot in of)),
                )
            ]
        },
        table=table(f"{title}, in %", ("task", "metric", *labels), cells.values(), texts=2),
        series=list(scored),
        note=of_seeds,
    )


def _interval(
    page: PageData, comparison: ComparedMethods, regime: str, method: str, task: str, score: MeanOverSeeds
) -> Interval:
    """Over seeds; with one seed over the test's rows, from the run's own evaluation."""
    if score.low is not None or task == AVERAGE:
        return score.low, score.high
    for run in page.inputs.runs:
        wanted = (comparison.folder, method, task if regime == "single" else MIXED)
        if (run.comparison, run.method, run.regime) == wanted:
            tested = run.tests[_TEST].tasks.get(task) if _TEST in run.tests else None
            own = next(iter(tested.metrics.values()), None) if tested else None
            return own.interval if own and own.interval else (None, None)
    return None, None


def _differences(page: PageData, comparison: ComparedMethods, found: RegimeResults, title: str, id: str) -> Figure:
    rows = [*found.metrics, AVERAGE]
    dots: list[tuple[int, list[Dot]]] = []
    cells: list[tuple[str, ...]] = []
    alts: list[str] = []
    for difference in found.differences:
        series = page.lineup.series_of(difference.method, comparison.folder)
        names = f"{difference.method} minus {difference.minus}"
        own: list[Dot] = []
        for number, task in enumerate(rows):
            of = difference.tasks[task]
            said = f"{points(of.mean)} ({points(of.low)} to {points(of.high)})"
            own.append(Dot(number, 100 * of.mean, f"{task}, {names}: {said}", 100 * of.low, 100 * of.high))
            cells.append((names, task, points(of.mean), points(of.low), points(of.high), short(of.p_value)))
        dots.append((series, own))
        alts.append(f"{names}, average: {own[-1].says.rpartition(': ')[2]} points")
    heads = ("methods", "task", "difference", "from", "to", "p")
    return Figure(
        id=id,
        title=title,
        views={
            (): [
                Panel(
                    f"Paired differences in percentage points with 95 % intervals. {'; '.join(alts)}.",
                    dot_traces(dots),
                    dot_layout(rows, len(dots), "difference, percentage points", zero=True),
                )
            ]
        },
        table=table(f"{title}, in percentage points, with 95 % interval", heads, cells, texts=2),
        series=[series for series, _ in dots],
        note="Right of zero: better than LoRA. Both had the same seeds and test rows, resampled together. An interval "
        "that contains zero: no difference shown. p-values need five seeds.",
    )


def _alone(page: PageData) -> list[Figure]:
    """Runs outside of comparisons, a figure for each kind of test that they were put to."""
    alone = [run for run in page.inputs.runs if not run.comparison]
    kinds = sorted({kind for run in alone for kind in run.tests if not kind.endswith("-base")})
    return [_tested(page, kind, [run for run in alone if kind in run.tests]) for kind in kinds]


def _tested(page: PageData, kind: str, runs: Sequence[RunRecord]) -> Figure:
    scores: dict[str, dict[str, tuple[float, Interval]]] = {}  # task, run
    metrics: dict[str, str] = {}
    for run in runs:
        for task, of in run.tests[kind].tasks.items():
            for metric, score in list(of.metrics.items())[:1]:
                if score.value is not None:
                    scores.setdefault(task, {})[run.name] = score.value, score.interval or (None, None)
                    metrics.setdefault(task, metric)
    rows = list(scores)
    dots: list[tuple[int, list[Dot]]] = []
    cells = {task: [task, metrics[task]] for task in rows}
    for run in runs:
        own: list[Dot] = []
        for number, task in enumerate(rows):
            if run.name not in scores[task]:
                cells[task].append(NONE)
                continue
            value, (low, high) = scores[task][run.name]
            said = _with_interval(value, low, high)
            own.append(Dot(number, 100 * value, f"{task}, {run.name}: {said}", _times(low), _times(high)))
            cells[task].append(said)
        dots.append((page.lineup.members[run.name].series, own))
    split = kind.removeprefix("eval-")
    said = "; ".join(f"{task}: {', '.join(cells[task][2:])}" for task in rows)
    title = f"Scores on {split} rows"
    series = [page.lineup.members[run.name].series for run in runs]
    labels = [page.lineup.labels[number] for number in series]
    return Figure(
        id=f"alone-{split}",
        title=title,
        views={
            (): [
                Panel(
                    f"{title} in percent of {', '.join(labels)}. {said}.",
                    dot_traces(dots),
                    dot_layout(rows, len(dots), "score, %", ends=share_range(dot for _, of in dots for dot in of)),
                )
            ]
        },
        table=table(f"{title}, in %", ("task", "metric", *labels), cells.values(), texts=2),
        series=series,
        note="The intervals cover the choice of test rows, not the training.",
    )


def _with_interval(mean: float, low: float | None, high: float | None) -> str:
    return percent(mean) if low is None else f"{percent(mean)} ({percent(low)} to {percent(high)})"


def _times(share: float | None) -> float | None:
    return None if share is None else 100 * share
