"""The harness's own tasks, by its own definitions: prompts, shots, metrics, groups."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from multilora.errors import InputError, nearest
from multilora.evaluation.long_prompts import (
    LongPrompts,
    Needs,
    OnLongPrompt,
    needs_of_choices,
    needs_of_generation,
    sort_out,
)
from multilora.evaluation.records import TaskEvaluation
from multilora.evaluation.results import Score, mean_of, score_of
from multilora.evaluation.rows import in_hash_order
from multilora.evaluation.runner import Runner, quiet
from multilora.evaluation.saved import HarnessAnswerLine

_RESAMPLES = 300  # of a metric of the harness's that is no mean: each resample is a call of its Python function


@dataclass(frozen=True)
class StockTasks:
    """Tasks of the harness, loaded with their data.

    Attributes:
        tasks: by name.
        groups: by name, such as mmlu, whose scores are made of those of tasks.
    """

    tasks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    groups: Mapping[str, Any] = field(default_factory=dict[str, Any])


def find_stock(names: Sequence[str], others: Iterable[str] = ()) -> StockTasks:
    """Load the harness's tasks with their data, which may come from the hub.

    Args:
        names: of tasks, groups or tags of the harness.
        others: names that could have been meant too, for messages.

    Raises:
        InputError: the harness knows no such task, or its data cannot be had.
    """
    if not names:
        return StockTasks()
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for name in names:
        if name not in manager.task_index:
            near = nearest(name, [*others, *manager.all_tasks])
            raise InputError(f"no task {name!r}, neither in the recipe nor in lm-evaluation-harness{near}")
    try:
        with quiet():
            loaded = manager.load(list(names))
    except OSError as error:  # no network, no such data set, a file that is not there
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{', '.join(names)}: the data of the harness's own task cannot be had: {reason}. It needs the Hugging "
            "Face hub, or the data in its cache"
        ) from error
    except ImportError as error:
        raise InputError(
            f"{', '.join(names)}: the harness's own definition does not run here: {error}; install what it needs"
        ) from error
    except ValueError as error:  # such as a task that is part of two of the groups
        raise InputError(f"{', '.join(names)}: lm-evaluation-harness: {error}") from error
    return StockTasks(loaded["tasks"], loaded.get("groups", {}))


def evaluate_stock(
    runner: Runner,
    stock: StockTasks,
    limit: int | None,
    on_long_prompt: OnLongPrompt,
    seed: int,
    note: Callable[[str], None],
) -> dict[str, TaskEvaluation]:
    """Run the harness's tasks together, so that it can make its groups' scores.

    Raises:
        InputError: a row does not fit into the context, and that is to stop it.
    """
    if not stock.tasks:
        return {}
    began = time.monotonic()
    samples: dict[str, list[int]] = {}
    longs: dict[str, LongPrompts] = {}
    rows: dict[str, int] = {}
    needed = 1
    for name, task in stock.tasks.items():
        chosen = _sample(name, task, limit)
        requests = _requests(task, chosen)
        needs = _needs(runner, task, requests, name)
        rows[name] = len(chosen)
        kept, longs[name] = sort_out(
            needs,
            runner.max_length,
            on_long_prompt,
            [str(number) for number in chosen],
            [f"{name}: row {number}" for number in chosen],
        )
        if text := longs[name].note(name, len(chosen)):
            note(text)
        samples[name] = [chosen[number] for number in kept]
        if kept:
            needed = max(needed, int(needs.tokens[kept].max()))
            _built_before(task, requests, kept)
    left = {name: task for name, task in stock.tasks.items() if samples[name]}
    whole = len(left) == len(stock.tasks)
    for name in stock.tasks:
        note(f"{name}: evaluating {len(samples[name]):,} rows" if name in left else f"{name}: no row is left")
    results = _run(runner, left, samples, stock.groups if whole else {}, needed) if left else {}
    found: dict[str, TaskEvaluation] = {}
    for name, task in stock.tasks.items():
        logged = results["samples"][name] if name in left else []
        metrics = _metrics(results["results"][name], task, logged, seed) if name in left else _no_scores(task)
        records = [_record(sample) for sample in logged]
        found[name] = TaskEvaluation(metrics, {}, records, rows[name], longs[name])
    for name, group in stock.groups.items():
        found[name] = _group(name, group, results, left, whole, rows, seed)
    first = next(iter(found))
    found[first] = replace(found[first], seconds=time.monotonic() - began)
    return found


def _sample(name: str, task: Any, limit: int | None) -> list[int]:
    count = len(task.eval_docs)
    return sorted(in_hash_order(name, count)[: count if limit is None else limit])


def _requests(task: Any, chosen: list[int]) -> list[list[Any]]:
    """Each row's requests, as `lm_eval.evaluator` builds them, with the shots that its own seed draws."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    with quiet():
        task.build_all_requests(samples=chosen)
    by_row: list[list[Any]] = [[] for _ in chosen]
    for request in task.instances:
        by_row[request.doc_id].append(request)
    return by_row


def _needs(runner: Runner, task: Any, requests: Sequence[Sequence[Any]], name: str) -> Needs:
    flat = [(number, request) for number, some in enumerate(requests) for request in some]
    owners = [number for number, _ in flat]
    places = [f"{name}: row {number}" for number in owners]
    kind = task.OUTPUT_TYPE
    if kind in ("multiple_choice", "loglikelihood"):
        needs = needs_of_choices(runner.lm, [request.args for _, request in flat], places)
    elif kind == "generate_until":
        from lm_eval.models.utils import normalize_gen_kwargs

        room = [
            normalize_gen_kwargs(request.args[1], runner.lm.max_gen_toks).get("max_gen_toks", 0) for _, request in flat
        ]
        needs = needs_of_generation(runner.lm, [request.args[0] for _, request in flat], room, places)
    else:  # whole texts, which the harness reads in windows
        window = np.full(len(flat), min(runner.max_length, runner.lm.max_length), dtype=np.int64)
        needs = Needs(window, np.ones_like(window))
    return needs.largest_by(owners)


def _built_before(task: Any, requests: Sequence[Sequence[Any]], kept: Sequence[int]) -> None:
    """Have the evaluation use the requests of the kept rows: built anew, they would have other shots."""
    for number, row in enumerate(kept):
        for request in requests[row]:
            request.doc_id = number
    task._instances = [request for row in kept for request in requests[row]]
    task.build_all_requests = lambda **kwargs: None


def _run(
    runner: Runner, tasks: Mapping[str, Any], samples: Mapping[str, list[int]], groups: Mapping[str, Any], needed: int
) -> Any:
    try:
        return runner.run(tasks, needed, samples={name: samples[name] for name in tasks}, groups=dict(groups))
    finally:
        for task in tasks.values():
            del task.build_all_requests


# Its metrics ------------------------------------------------------------------------------------------------------


def _metrics(found: Mapping[str, Any], task: Any, logged: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for key, value in found.items():
        name, comma, filter_name = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        values = [sample[name] for sample in logged if sample["filter"] == filter_name and name in sample]
        aggregate = task.aggregation().get(name, np.mean)
        scores[_metric_name(name, filter_name)] = _score(float(value), values, aggregate, seed)
    return scores


def _score(value: float, values: Sequence[Any], aggregate: Callable[[Any], Any], seed: int) -> Score:
    """The harness's value, with the standard error and interval of that metric."""
    if _is_mean(value, values):
        return replace(score_of(mean_of([float(one) for one in values]), seed), value=value)
    if len(values) < 2:
        return Score(value, None, None, len(values))
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(values), size=len(values)) for _ in range(_RESAMPLES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that a draw does not have
        resampled = [float(aggregate([values[number] for number in draw])) for draw in draws]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Score(value, float(np.std(resampled, ddof=1)), (float(low), float(high)), len(values))


def _is_mean(value: float, values: Sequence[Any]) -> bool:
    numbers = bool(values) and all(isinstance(one, (bool, int, float, np.number)) for one in values)
    return numbers and math.isclose(float(np.mean(values)), value, rel_tol=1e-9, abs_tol=1e-12)


def _group(
    name: str,
    group: Any,
    results: Any,
    left: Mapping[str, Any],
    whole: bool,
    rows: Mapping[str, int],
    seed: int,
) -> TaskEvaluation:
    """The harness's scores of the group; with an error and an interval only where they are means of its rows."""
    members: list[str] = [task.task_name for task in group.get_all_tasks()]
    count = sum(rows[member] for member in members)
    if not whole:
        return TaskEvaluation(rows=count, not_scored="a group of tasks, of one of which no row is left")
    scores: dict[str, Score] = {}
    for key, value in results["results"][name].items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        values = [
            sample[metric]
            for member in members
            for sample in results["samples"][member]
            if sample["filter"] == filter_name and metric in sample
        ]
        mean = _is_mean(float(value), values)
        score = score_of(mean_of(values), seed) if mean else Score(None, None, None, len(values))
        scores[_metric_name(metric, filter_name)] = replace(score, value=float(value))
    reason = "" if scores else "a group of tasks without a score of its own"
    return TaskEvaluation(scores, rows=count, not_scored=reason)


def _no_scores(task: Any) -> dict[str, Score]:
    return {name: Score(None, None, None, 0) for name in task.aggregation()}


def _metric_name(name: str, filter_name: str) -> str:
    return name if filter_name == "none" else f"{name},{filter_name}"


def _record(sample: Mapping[str, Any]) -> HarnessAnswerLine:
    metrics = {name: _plain(sample[name]) for name in sample["metrics"]}
    return HarnessAnswerLine(
        id=str(sample["doc_id"]),
        filter=sample["filter"],
        target=_plain(sample["target"]),
        responses=_plain(sample["filtered_resps"]),
        **metrics,
    )


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
