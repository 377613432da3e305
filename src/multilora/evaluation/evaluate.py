"""`multilora eval`: a run, an adapter or a model on a recipe's tasks and on the harness's own, into a folder."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from multilora.errors import InputError
from multilora.evaluation.card import renew_card
from multilora.evaluation.definitions import require_harness
from multilora.evaluation.evaluated_model import EvaluatedModel
from multilora.evaluation.harness import MAX_NEW_TOKENS, evaluate_tasks
from multilora.evaluation.long_prompts import OnLongPrompt
from multilora.evaluation.records import Evaluation, TaskEvaluation
from multilora.evaluation.saved import (
    PREDICTIONS,
    BadRows,
    BatchSize,
    EvaluationResults,
    TaskScores,
    predictions_name,
)
from multilora.evaluation.stock import StockTasks, find_stock
from multilora.recipe import Recipe
from multilora.runs.layout import RESULTS_FILE, RunLayout
from multilora.storage.folders import new_folder
from multilora.tasks.example import EvalSplit, NoSplitError, Task
from multilora.terminal import quiet_libraries


@dataclass(frozen=True)
class EvalOptions:
    """What to evaluate on, and how.

    Attributes:
        tasks: names of tasks of the recipe, or of the harness's own; empty: all of the recipe.
        recipe: names the tasks; None: the run's own.
        split: which rows of the recipe's tasks.
        limit: a fixed sample of at most so many rows of each task; None: all.
        batch_size: rows at a time; auto: on CUDA as many as fit, and 16 elsewhere.
        on_long_prompt: what to do with a row that does not fit into the context.
        max_length: tokens of the context; None: what the model can take.
        max_new_tokens: of generated answers.
        out: folder for the results; None: `eval-SPLIT` in the run folder, or beside the adapter.
        overwrite: replace earlier results there.
        base: the base model, without the adapter.
        trust_remote_code: run code that comes with the model.
    """

    tasks: Sequence[str] = ()
    recipe: Path | None = None
    split: EvalSplit = "test"
    limit: int | None = None
    batch_size: BatchSize = "auto"
    on_long_prompt: OnLongPrompt = "drop"
    max_length: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    out: Path | None = None
    overwrite: bool = False
    base: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class EvalReport:
    """What `evaluate` wrote.

    Attributes:
        folder: with results.json and predictions/.
        results: the content of results.json.
    """

    folder: Path
    results: EvaluationResults


def evaluate(target: str, options: EvalOptions, note: Callable[[str], None]) -> EvalReport:
    """Evaluate a run, an adapter or a model. What can be checked is checked before any weights are read.

    Args:
        target: a run folder, a folder with an adapter or a model, or a model's id on the hub.
        options: what to evaluate on, and how.
        note: receives a line for each thing that a user should know.

    Raises:
        InputError: as `EvaluatedModel.find` and `evaluate_tasks` say; unknown tasks; results that are there already.
    """
    require_harness()
    subject = EvaluatedModel.find(target, options.recipe, options.base, options.trust_remote_code)
    tasks, others = _choose(subject.recipe, options.tasks)
    _check(tasks, options.split, alone=not others)
    out = options.out or _default_out(subject, options)
    with (
        quiet_libraries(),
        new_folder(out, overwrite=options.overwrite, replaceable=(RESULTS_FILE, PREDICTIONS)) as folder,
    ):
        began = time.monotonic()
        stock = find_stock(others, subject.recipe.tasks if subject.recipe else ()) if others else StockTasks()
        note(f"loading {subject.source.location}" + (f" with {subject.adapter}" if subject.adapter else ""))
        model, tokenizer = subject.load()
        evaluation = evaluate_tasks(
            model,
            tokenizer,
            tasks,
            split=options.split,
            limit=options.limit,
            batch_size=options.batch_size,
            on_long_prompt=options.on_long_prompt,
            max_length=options.max_length,
            max_new_tokens=options.max_new_tokens,
            harness_tasks=stock,
            on_bad_row={name: task.on_bad_row for name, task in subject.recipe.tasks.items()} if subject.recipe else {},
            note=note,
        )
        results = _results(subject, options, evaluation, model, time.monotonic() - began)
        _write(folder, evaluation, results)
    renew_card(target, out, note)
    return EvalReport(out, results)


def _choose(recipe: Recipe | None, names: Sequence[str]) -> tuple[list[Task], list[str]]:
    """The recipe's tasks among the names, and the names that are left for the harness."""
    if recipe is None and not names:
        raise InputError(
            "nothing says which tasks to evaluate on: name a recipe (--recipe), or tasks of lm-evaluation-harness "
            "(--tasks)"
        )
    sections = recipe.tasks if recipe else {}
    chosen = dict.fromkeys(names or sections)
    return (
        [sections[name].build(name) for name in chosen if name in sections],
        [name for name in chosen if name not in sections],
    )


def _check(tasks: Sequence[Task], split: EvalSplit, alone: bool) -> None:
    """Every file can be opened, and something can be scored."""
    faults: list[str] = []
    reasons: list[str] = []
    for task in tasks:
        if task.scoring.kind == "none":
            reasons.append(f"{task.name}: free text, for which the task has no score")
            continue
        try:
            task.check(split)
        except NoSplitError as error:
            reasons.append(str(error))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    if alone and len(reasons) == len(tasks):
        raise InputError("\n".join(["no task can be scored:", *(f"  {reason}" for reason in reasons)]))


def _default_out(subject: EvaluatedModel, options: EvalOptions) -> Path:
    folder, prefix = subject.place
    name = RunLayout(folder).evaluation(options.split).name
    return folder / f"{prefix}{name}{'-base' if options.base else ''}"


# What is written --------------------------------------------------------------------------------------------------


def _results(
    subject: EvaluatedModel, options: EvalOptions, evaluation: Evaluation, model: Any, seconds: float
) -> EvaluationResults:
    recipe = subject.precision
    return EvaluationResults(
        model=subject.source.location,
        revision=subject.source.options.get("revision"),
        adapter=str(subject.adapter.resolve()) if subject.adapter else None,
        recipe_hash=recipe.recipe_hash() if recipe else None,
        split=options.split,
        limit=options.limit,
        batch_size=options.batch_size,
        on_long_prompt=options.on_long_prompt,
        max_length=evaluation.max_length,
        max_new_tokens=options.max_new_tokens,
        dtype=str(model.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name() if model.device.type == "cuda" else model.device.type,
        tasks={name: _scores(task) for name, task in evaluation.tasks.items()},
        versions={
            "python": platform.python_version(),
            "lm_eval": evaluation.harness,
            **{name: version(name) for name in ("multilora", "torch", "transformers", "peft")},
        },
        seconds=round(seconds, 2),
    )


def _scores(task: TaskEvaluation) -> TaskScores:
    seconds = round(task.seconds, 2)
    if task.not_scored:
        return TaskScores(not_scored=task.not_scored, seconds=seconds)
    optional: dict[str, Any] = {}
    if task.long_prompts is not None:
        optional["long_prompts"] = task.long_prompts
    if task.counts is not None:
        optional["bad_rows"] = BadRows(count=task.counts.skipped, named=task.counts.skipped_named)
    return TaskScores(
        metrics=task.metrics,
        rows=task.rows,
        scored=len(task.predictions),
        **optional,
        groups=task.groups,
        seconds=seconds,
    )


def _write(folder: Path, evaluation: Evaluation, results: EvaluationResults) -> None:
    (folder / RESULTS_FILE).write_text(results.text(), encoding="utf-8")
    (folder / PREDICTIONS).mkdir()
    for name, task in evaluation.tasks.items():
        if task.predictions:
            text = "".join(line.text(ascii_only=False) for line in task.predictions)
            (folder / PREDICTIONS / predictions_name(name)).write_text(text, encoding="utf-8")
