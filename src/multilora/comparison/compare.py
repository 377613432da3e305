"""`multilora compare`: a recipe's methods, seeds and regimes, one training each, and one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multilora.base.loading import ModelSource
from multilora.comparison.cell_results import is_done
from multilora.comparison.grid import Grid, single_steps
from multilora.comparison.record import ComparisonResults
from multilora.comparison.runner import ComparisonProgress, Failure, choose_rates, open_folder, run_cells
from multilora.comparison.table import summary
from multilora.data.encoder import PromptCompletionEncoder
from multilora.errors import InputError
from multilora.evaluation.definitions import require_harness
from multilora.recipe import Recipe
from multilora.recipe.comparison import ComparedMethod, ComparisonSection
from multilora.recipe.file import load_recipe
from multilora.recipe.method_names import named_method
from multilora.runs.layout import ComparisonLayout
from multilora.terminal import quiet_libraries
from multilora.training.prepare import encode_mixture, open_tasks, steps_of


@dataclass(frozen=True)
class CompareOptions:
    """What differs from the recipe's `comparison` section; None: as it says.

    Attributes:
        methods: short names of methods.
        seeds: how many.
        regimes: mixed, single.
        learning_rates: to sweep.
        limit: test rows per task.
        out: the comparison's folder; None: `comparison` beside the recipe's output.
    """

    methods: Sequence[str] | None = None
    seeds: int | None = None
    regimes: Sequence[str] | None = None
    learning_rates: Sequence[float] | None = None
    limit: int | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` made.

    Attributes:
        folder: with comparison.json, results.json and the cells.
        results: the content of results.json.
        failures: the cells that did not end well.
        has_tested_cells: there is something to analyse or to show.
    """

    folder: Path
    results: ComparisonResults
    failures: Sequence[Failure]
    has_tested_cells: bool = False


def compare(path: Path, overrides: Sequence[str], options: CompareOptions, progress: ComparisonProgress) -> Comparison:
    """Run a comparison, or resume it: finished cells are not repeated.

    Args:
        path: the recipe.
        overrides: `key=value` each, as for `train`.
        options: what differs from the recipe's `comparison` section.
        progress: receives its progress.

    Raises:
        InputError: the recipe or the options are not right, or the folder holds another comparison.
    """
    require_harness()
    recipe = load_recipe(path, overrides)
    out = options.out or recipe.training.output.with_name(f"{recipe.training.output.name}-comparison")
    grid = Grid(recipe, _section(recipe, options), out)
    for task in (tasks := open_tasks(recipe)):
        if task.scoring.kind != "none":
            task.check("test")
    steps = _single_steps(recipe, tasks) if "single" in grid.section.regimes else {}
    open_folder(grid)
    test = {"limit": grid.section.limit, "max_new_tokens": grid.section.max_new_tokens}
    try:
        trials = grid.trials()
        todo = [cell for cell in trials if not is_done(cell)]
        finals = grid.finals({}, steps)
        failures = run_cells(todo, test, progress, after=len(finals))
        if failures:  # a learning rate chosen among fewer trials would not be a fair one
            return Comparison(out, summary(grid, [], {}, {}), failures)
        chosen, tried = choose_rates(grid, trials)
        finals = grid.finals(chosen, steps)
        left = [cell for cell in finals if not is_done(cell)]
        if done := len(trials) - len(todo) + len(finals) - len(left):
            progress.note(f"{done} of {len(trials) + len(finals)} cells were done before")
        failures += run_cells(left, test, progress, before=len(todo))
    finally:
        progress.stop()
    results = summary(grid, finals, tried, chosen)
    results.write(ComparisonLayout(out).results)
    return Comparison(out, results, failures, any(map(is_done, finals)))


def _section(recipe: Recipe, options: CompareOptions) -> ComparisonSection:
    section = recipe.comparison or ComparisonSection.model_validate({})
    given: dict[str, Any] = {
        "seeds": options.seeds,
        "regimes": list(options.regimes) if options.regimes else None,
        "learning_rates": list(options.learning_rates) if options.learning_rates else None,
        "limit": options.limit,
    }
    if options.methods:
        given["methods"] = {
            name: section.methods.get(name, ComparedMethod.model_validate({})).model_dump() for name in options.methods
        }
        for name in options.methods:
            named_method(name, recipe.method)
    data = section.model_dump() | {key: value for key, value in given.items() if value is not None}
    if options.learning_rates:  # for every method alike
        data["methods"] = {name: of | {"learning_rates": None} for name, of in data["methods"].items()}
    try:
        return ComparisonSection.model_validate(data)
    except ValueError as error:
        raise InputError(f"comparison: {error}") from error


def _single_steps(recipe: Recipe, tasks: Sequence[Any]) -> dict[str, int]:
    with quiet_libraries():
        encoder = PromptCompletionEncoder(ModelSource.find(recipe.model).tokenizer())
        mixture = encode_mixture(recipe, tasks, encoder)
    means = [float(task.lengths.mean()) for task in mixture.tasks]
    steps = single_steps(steps_of(recipe, mixture), mixture.rates, means, recipe.training.packing)
    return dict(zip(recipe.tasks, steps, strict=True))
