"""What was trained: base, methods, mixture, recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from multilora.comparison.record import ComparedMethod
from multilora.report.figures import Section, swatch
from multilora.report.markup import Html, details, el, table
from multilora.report.numbers import NONE, counted, listed, percent, short, whole
from multilora.report.page_data import PageData
from multilora.report.run_record import RunRecord
from multilora.runs.records import TaskRows
from multilora.spectral.record import AnalysedRun

Plain = Mapping[str, Any]  # a recipe, or a part of one


def trained(page: PageData) -> Section:
    """Base, methods, mixture, settings and the recipes themselves."""
    section = Section("trained", "What was trained")
    inputs = page.inputs
    recipes = _recipes(page)
    rows = _method_rows(page)
    if not rows:
        section.left_out = "no run and no comparison was given."
        return section
    base = inputs.data.base if inputs.data else None
    base = base or next((recipe["model"]["path"] for _, recipe in recipes), None)
    on = f"the base model {PurePath(base).name}" if base else "an unnamed base model"
    section.lead = (
        f"{counted(len(rows), 'method')} on {on}, "
        f"{counted(len(page.lineup.members), 'training')} in all. "
        "The colour and marker of a method are the same in every plot."
    )
    heads = ("method", "kind", "modules × rank", "scale", "learning rate", "trained parameters", "seeds")
    section.parts.append(table("Methods", heads, rows, texts=2))
    if not recipes:
        section.parts.append(el("p", "No recipe was found, so the tasks and settings are unknown.", class_="note"))
    for title, recipe in recipes:
        section.parts += _of_recipe(page, title if len(recipes) > 1 else "", recipe)
    return section


def _recipes(page: PageData) -> list[tuple[str, Plain]]:
    """One of each comparison, and of each run outside of them."""
    inputs = page.inputs
    found: list[tuple[str, Plain]] = []
    for comparison in inputs.comparisons:
        recipe = (comparison.record.recipe if comparison.record else None) or next(
            (run.recipe for run in inputs.runs if run.comparison == comparison.folder and run.recipe), None
        )
        if recipe:
            found.append((PurePath(comparison.folder).name, recipe))
    return found + [(run.name, run.recipe) for run in inputs.runs if not run.comparison and run.recipe]


def _method_rows(page: PageData) -> list[Sequence[str]]:
    """A row for each series."""
    rows: list[Sequence[str]] = []
    lineup = page.lineup
    for number, label in enumerate(lineup.labels[: lineup.trained]):
        members = [m.run for m in lineup.members.values() if m.series == number]
        names = {run.name for run in members}
        runs = [run for run in page.inputs.runs if run.name in names]
        compared = _compared(page, number)
        analysed = next((run.analysed for run in members if run.analysed), None)
        method: Plain = (compared.section if compared else None) or next(
            (run.recipe["method"] for run in runs if run.recipe), {}
        )
        rows.append(
            (
                el("span", swatch(number), el("span", label), class_="named"),
                str(method.get("name") or (analysed.kind if analysed else NONE)),
                _ranks(method, analysed),
                str(method.get("scaling") or NONE),
                _learning_rates(compared, runs),
                whole((compared.trainable_parameters if compared else None) or _trained_parameters(runs)),
                _seeds(page, number),
            )
        )
    return rows


def _compared(page: PageData, series: int) -> ComparedMethod | None:
    """The method in a comparison's results."""
    for comparison in page.inputs.comparisons:
        for name, method in comparison.results.methods.items() if comparison.results else ():
            if page.lineup.series_of(name, comparison.folder) == series:
                return method
    return None


def _ranks(method: Plain, analysed: AnalysedRun | None) -> str:
    r, n = method.get("r"), method.get("num_loras")
    if analysed is not None:
        r, n = r or analysed.r, n or analysed.num_loras
    if r is None and "full" in (method.get("name"), analysed.kind if analysed else None):
        return "full rank"
    return f"{n or 1} × {r}" if r else NONE


def _learning_rates(compared: ComparedMethod | None, runs: Sequence[RunRecord]) -> str:
    rates = (compared.learning_rates if compared else None) or sorted(
        {run.recipe["training"]["learning_rate"] for run in runs if run.recipe}
    )
    return ", ".join(f"{rate:g}" for rate in rates) or NONE


def _trained_parameters(runs: Sequence[RunRecord]) -> int | None:
    return next((run.results.parameters.trainable for run in runs if run.results), None)


def _seeds(page: PageData, series: int) -> str:
    names = page.lineup.averaged(series)
    return str(len(names)) if names else NONE


def _of_recipe(page: PageData, title: str, recipe: Plain) -> list[Html]:
    training, prefix = recipe["training"], f"{title}: " if title else ""
    counts = _task_counts(page, recipe)
    rates = {name: float(task.get("rate", 1.0)) for name, task in recipe["tasks"].items()}
    rule = recipe.get("mixture", {}).get("rates", "explicit")
    known = rule in ("explicit", "equal")
    rows = [
        (
            name,
            str(task.get("task") or "rows of a file"),
            short(rates[name]) if rule == "explicit" else rule,
            percent(rates[name] / sum(rates.values())) if known else NONE,
            whole(counts[name].kept if name in counts else None),
            whole(counts[name].tokens if name in counts else None),
        )
        for name, task in recipe["tasks"].items()
    ]
    heads = ("task", "kind", "rate", "share, %", "training rows", "their tokens")
    length = f"{training['epochs']:g} epochs" if training.get("epochs") else f"{whole(training.get('steps'))} steps"
    batch = training.get("batch_size", 1) * training.get("gradient_accumulation", 1)
    settings = [
        length,
        f"{batch} rows a step",
        f"up to {training.get('max_length')} tokens a row" + (", packed" if training.get("packing") else ""),
        f"{training.get('scheduler')} schedule after {percent(training.get('warmup'), 0)} % warm-up",
        f"precision {training.get('precision')}",
    ]
    return [
        table(f"{prefix}The mixture", heads, rows, texts=2),
        el("p", f"{prefix}{listed(settings)}.", class_="note"),
        details(
            f"{prefix}the whole recipe",
            el("pre", yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True), tabindex=0),
        ),
    ]


def _task_counts(page: PageData, recipe: Plain) -> Mapping[str, TaskRows]:
    """Rows and tokens of each task, from a training on all of them."""
    tasks = set(recipe["tasks"])
    found = (run.results.tasks for run in page.inputs.runs if run.results)
    return next((counts for counts in found if set(counts) == tasks), {})


def _plain(value: Any) -> Any:
    """What YAML's safe dump takes, whatever kind of mapping it came in."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
