"""Evaluating a model in memory: the harness runs it on our tasks, and on its own where they are named."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from multilora.errors import InputError
from multilora.evaluation.definitions import harness_task, require_harness
from multilora.evaluation.long_prompts import (
    Needs,
    OnLongPrompt,
    context_length,
    needs_of_choices,
    needs_of_generation,
    sort_out,
)
from multilora.evaluation.records import Evaluation, Groups, TaskEvaluation
from multilora.evaluation.results import Answer, score
from multilora.evaluation.rows import OnBadRow, read_rows, unit_of
from multilora.evaluation.runner import Runner, modes_as_before, quiet
from multilora.evaluation.saved import AnswerLine, BatchSize
from multilora.tasks.example import EvalSplit, Example, NoSplitError, Task

if TYPE_CHECKING:
    from multilora.evaluation.stock import StockTasks

MAX_NEW_TOKENS = 256  # the harness's own
_MARGIN = 8  # tokens: another tokenization of the answer, blanks around it, eos


def _silent(text: str) -> None: ...


def evaluate_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    *,
    split: EvalSplit = "test",
    limit: int | None = None,
    batch_size: BatchSize = "auto",
    on_long_prompt: OnLongPrompt = "drop",
    max_length: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    harness_tasks: Sequence[str] | StockTasks = (),
    on_bad_row: Mapping[str, OnBadRow] | None = None,
    seed: int = 0,
    note: Callable[[str], None] = _silent,
) -> Evaluation:
    """Score a model on tasks. Model and tokenizer are afterwards as before, and no random number is drawn.

    Args:
        model: a causal language model of transformers, or a PEFT model around one, on its device.
        tokenizer: the model's.
        tasks: ours. One without a score or without the split is reported as not scored, with the reason.
        split: which rows of our tasks.
        limit: a fixed sample of at most so many rows of each task (`rows.read_rows`); None: all.
        batch_size: rows at a time; auto: on CUDA as many as fit, and 16 elsewhere.
        on_long_prompt: what to do with a row that does not fit into the context: leave it out, cut off the prompt's
            beginning as the harness does by itself, or stop. They are counted.
        max_length: tokens of the context; None: what the model can take.
        max_new_tokens: of our tasks' generated answers.
        harness_tasks: names of the harness's own tasks, run by its own definitions with its own metrics; or what
            `stock.find_stock` made of them.
        on_bad_row: by a task's name: stop at a bad row (the default), or skip and count it.
        seed: of the bootstrap.
        note: receives a line for each thing that a user should know.

    Raises:
        InputError: lm-evaluation-harness is not installed; bad rows or long prompts, where they are to stop it; a model
            or tokenizer that cannot be scored; an unknown task of the harness, or one whose data cannot be had.
    """
    require_harness()
    from multilora.evaluation.stock import StockTasks, evaluate_stock, find_stock

    _check(limit, batch_size, max_new_tokens)
    stock = harness_tasks if isinstance(harness_tasks, StockTasks) else find_stock(harness_tasks)
    found: dict[str, TaskEvaluation] = {}
    with modes_as_before(model):
        runner = Runner(model, tokenizer, batch_size, context_length(model.config, tokenizer, max_length))
        for task in tasks:
            began = time.monotonic()
            on_bad = (on_bad_row or {}).get(task.name, "fail")
            try:
                one = _evaluate(runner, task, split, limit, on_long_prompt, max_new_tokens, on_bad, seed, note)
            except NoSplitError as error:
                one = TaskEvaluation(not_scored=str(error))
            if one.not_scored:
                note(f"{task.name}: not scored: {one.not_scored}")
            found[task.name] = replace(one, seconds=time.monotonic() - began)
        found |= evaluate_stock(runner, stock, limit, on_long_prompt, seed, note)
    return Evaluation(found, version("lm_eval"), runner.max_length, batch_size)


def _evaluate(
    runner: Runner,
    task: Task,
    split: EvalSplit,
    limit: int | None,
    on_long_prompt: OnLongPrompt,
    max_new_tokens: int,
    on_bad_row: OnBadRow,
    seed: int,
    note: Callable[[str], None],
) -> TaskEvaluation:
    if task.scoring.kind == "none":
        return TaskEvaluation(not_scored="free text, for which the task has no score")
    rows = read_rows(task, split, limit, on_bad_row)
    if rows.counts.skipped:
        note(f"{task.name}: {rows.counts.skipped:,} bad rows skipped: {rows.counts.skipped_text()}")
    if task.scoring.kind == "exact_text":  # what is longer than every answer is wrong already
        answers = {answer for row in rows.examples for answer in row.answers}
        longest = max((len(runner.lm.tok_encode(f" {answer}")) for answer in answers), default=0)
        max_new_tokens = min(max_new_tokens, longest + _MARGIN)
    needs = _needs(runner, task, rows.examples, max_new_tokens)
    kept, long = sort_out(
        needs,
        runner.max_length,
        on_long_prompt,
        [unit_of(task, row) for row in rows.examples],
        [f"tasks.{task.name}: {row.source}" for row in rows.examples],
    )
    if text := long.note(task.name, len(rows.examples)):
        note(text)
    examples = [rows.examples[number] for number in kept]
    note(f"{task.name}: evaluating {len(examples):,} rows" if examples else f"{task.name}: no row is left")
    answers = _answers(runner, task, examples, max_new_tokens, int(needs.tokens[kept].max())) if examples else []
    metrics = {name: score(name, answers, seed) for name in task.scoring.metrics}
    records = [AnswerLine.of(answer) for answer in answers]
    return TaskEvaluation(metrics, _groups(task, answers, seed), records, len(rows.examples), long, rows.counts)


def _needs(runner: Runner, task: Task, examples: Sequence[Example], max_new_tokens: int) -> Needs:
    """Of each row: what its longest choice, or its answer, needs."""
    places = [f"tasks.{task.name}: {row.source}" for row in examples]
    if task.scoring.kind != "choices":
        return needs_of_generation(
            runner.lm, [row.prompt for row in examples], [max_new_tokens] * len(examples), places
        )
    owners = [number for number, row in enumerate(examples) for _ in row.choices]
    pairs = [(row.prompt, choice) for row in examples for choice in row.choices]
    return needs_of_choices(runner.lm, pairs, [places[owner] for owner in owners]).largest_by(owners)


def _answers(runner: Runner, task: Task, examples: Sequence[Example], max_new_tokens: int, needed: int) -> list[Answer]:
    with quiet():
        task_of_harness = harness_task(task, examples, max_new_tokens)
    results = runner.run({task.name: task_of_harness}, needed)
    answers: list[Answer] = []
    for sample in results["samples"][task.name]:
        example, responses = examples[sample["doc_id"]], sample["filtered_resps"]
        if task.scoring.kind != "choices":
            answers.append(Answer(example, generated=responses[0], whole=task.scoring.kind == "exact_text"))
            continue
        log_likelihoods = tuple(float(log_likelihood) for log_likelihood, _ in responses)
        if not all(map(math.isfinite, log_likelihoods)):
            raise InputError(
                f"tasks.{task.name}: {example.source}: the model's log-likelihoods are not finite numbers "
                f"{log_likelihoods}; are its weights whole, and is its precision enough for it (fp32)?"
            )
        answers.append(Answer(example, log_likelihoods))
    return answers


def _groups(task: Task, answers: Sequence[Answer], seed: int) -> Groups:
    """The scores of the task's groups, by kind and name; of each kind the names in order."""
    members: dict[str, dict[str, list[Answer]]] = {}
    for answer in answers:
        for kind, name in task.groups(answer.example).items():
            members.setdefault(kind, {}).setdefault(name, []).append(answer)
    return {
        kind: {
            name: {metric: score(metric, own, seed) for metric in task.scoring.metrics}
            for name, own in sorted(named.items())
        }
        for kind, named in members.items()
    }


def _check(limit: int | None, batch_size: BatchSize, max_new_tokens: int) -> None:
    for name, value in (("limit", limit), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if isinstance(value, int) and value < 1:
            raise InputError(f"{name}: must be at least 1; got {value}")
