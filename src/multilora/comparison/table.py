"""What a comparison found: per task and on average, means over seeds, paired differences, resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from multilora.comparison.cell_results import CellResults, is_done
from multilora.comparison.grid import Cell, Grid
from multilora.comparison.record import (
    AVERAGE,
    ComparedMethod,
    ComparisonResults,
    PairedDifference,
    RegimeResults,
    Trial,
)
from multilora.comparison.statistics import Floats, MeanOverSeeds, PairedTask, mean_over_seeds, paired_difference
from multilora.evaluation.results import STATISTICS
from multilora.recipe.method_names import NamedMethod
from multilora.runs.layout import MIXED


def summary(
    grid: Grid, finals: Sequence[Cell], tried: Mapping[str, Sequence[Trial]], chosen: Mapping[str, float]
) -> ComparisonResults:
    """All figures of a comparison, of the cells that are done.

    Args:
        grid: the comparison.
        finals: its cells that count.
        tried: of each swept method its trials.
        chosen: and the learning rate they led to.
    """
    done = [CellResults(cell) for cell in finals if is_done(cell)]
    regimes = {"mixed": [MIXED], "single": list(grid.recipe.tasks)}
    return ComparisonResults(
        recipe_hash=grid.recipe.recipe_hash(),
        comparison_hash=grid.hash(),
        limit=grid.section.limit,
        methods={
            method.name: ComparedMethod(
                section=method.section.model_dump(mode="json"),
                total_rank=method.total_rank,
                learning_rates=tuple(sorted({r.cell.learning_rate for r in done if r.cell.method == method})),
                trials=tuple(tried.get(method.name, ())),
                chosen=chosen.get(method.name),
                **_resources(_of_one_regime([r for r in done if r.cell.method == method])),
            )
            for method in grid.methods
        },
        regimes={
            name: _regime(grid, [r for r in done if r.cell.regime in regimes[name]]) for name in grid.section.regimes
        },
    )


def _regime(grid: Grid, done: Sequence[CellResults]) -> RegimeResults:
    by_method = {method.name: [r for r in done if r.cell.method == method] for method in grid.methods}
    tasks = [task for task in grid.recipe.tasks if any(task in r.scores for r in done)]
    return RegimeResults(
        metrics={task: next(r.scores[task][0] for r in done if task in r.scores) for task in tasks},
        scores={name: _scores(results, tasks) for name, results in by_method.items() if results},
        validation_losses={name: _losses(results) for name, results in by_method.items() if results},
        differences=tuple(
            difference
            for method in grid.methods
            if (other := grid.equal_rank_lora(method)) is not None and other != method
            if (difference := _difference(method, other, by_method, tasks)) is not None
        ),
    )


def _by_seed(results: Sequence[CellResults], tasks: Sequence[str]) -> dict[int, dict[str, CellResults]]:
    """By seed, the cell that has each task's score; only seeds that have all tasks."""
    seeds: dict[int, dict[str, CellResults]] = {}
    for result in results:
        for task in result.scores:
            seeds.setdefault(result.cell.seed, {})[task] = result
    return {seed: cells for seed, cells in sorted(seeds.items()) if all(task in cells for task in tasks)}


def _scores(results: Sequence[CellResults], tasks: Sequence[str]) -> dict[str, MeanOverSeeds]:
    seeds = _by_seed(results, tasks)
    if not seeds or not tasks:
        return {}
    values = {task: [cells[task].scores[task][1] for cells in seeds.values()] for task in tasks}
    averages = [float(np.mean(of_seed)) for of_seed in zip(*values.values(), strict=True)]
    return {name: mean_over_seeds(of) for name, of in (values | {AVERAGE: averages}).items()}


def _losses(results: Sequence[CellResults]) -> dict[str, MeanOverSeeds]:
    values: dict[str, list[float]] = {}
    for result in results:
        for name, task in result.validation.tasks.items() if result.validation else ():
            values.setdefault(name, []).append(task.loss)
    return {task: mean_over_seeds(of) for task, of in values.items()}


def _difference(
    method: NamedMethod, other: NamedMethod, by_method: Mapping[str, Sequence[CellResults]], tasks: Sequence[str]
) -> PairedDifference | None:
    """Of two methods, over the seeds that both have: each task and their average."""
    first, second = (_by_seed(by_method[name], tasks) for name in (method.name, other.name))
    seeds = sorted(first.keys() & second.keys())
    if not seeds or not tasks:
        return None
    pairs = {
        task: _pair(task, [first[seed][task] for seed in seeds], [second[seed][task] for seed in seeds])
        for task in tasks
    }
    found = {task: paired_difference([pair]) for task, pair in pairs.items()}
    found[AVERAGE] = paired_difference(list(pairs.values()))
    return PairedDifference(method=method.name, minus=other.name, seeds=len(seeds), tasks=found)


def _pair(task: str, first: Sequence[CellResults], second: Sequence[CellResults]) -> PairedTask:
    answers = [[result.answers(task) for result in results] for results in (first, second)]
    shared = set.intersection(*(set(of_seed) for of_method in answers for of_seed in of_method))
    ids = [id for id in answers[0][0] if id in shared]  # rows that some could not take are left out for all
    metric = STATISTICS[first[0].scores[task][0]]
    statistics = [[metric([of_seed[id] for id in ids]) for of_seed in of_method] for of_method in answers]
    one, other = (np.stack([of_seed.units for of_seed in of_method]) for of_method in statistics)

    def of_sums(sums: Floats) -> Floats:
        return statistics[0][0].of_sums(sums)

    return PairedTask(one, other, of_sums)


def _of_one_regime(done: Sequence[CellResults]) -> list[CellResults]:
    """The mixed trainings where there are any: resources and forgetting of one task's training are other figures."""
    mixed = [result for result in done if result.cell.regime == MIXED]
    return mixed or list(done)


def _resources(done: Sequence[CellResults]) -> dict[str, Any]:
    if not done:
        return {}
    forgetting = [value for r in done if (value := r.training.forgetting) is not None]
    return {
        "trainable_parameters": done[0].training.parameters.trainable,
        "weights_bytes": done[0].weights_bytes,
        "tokens_per_second": median(r.training.tokens_per_second for r in done),
        "peak_memory_bytes": max(r.training.peak_memory_bytes for r in done),
        "forgetting": mean_over_seeds(forgetting) if forgetting else None,
    }
