"""`train`: from a recipe to a run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed

from multilora.base.loading import ModelSource, weights_dtype
from multilora.data.encoded_mixture import EncodedMixture
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.guard import LeakedRows
from multilora.data.limits import ModelLimits
from multilora.data.streaming import StreamedMixture
from multilora.errors import InputError
from multilora.recipe import FullMethod, Recipe
from multilora.storage.folders import write_text, written_aside
from multilora.terminal import Progress, Silent, quiet_libraries
from multilora.training.best import RECORD, ValidationCallback, before_and_after, read_best
from multilora.training.checkpoints import checkpoint_step
from multilora.training.loading import Loading, loading_of
from multilora.training.metrics import LogAtCheckpoints, MetricsCallback, cut_metrics, read_metrics
from multilora.training.model import ParameterCounts, apply_method, check_packing, check_trainable
from multilora.training.prepare import open_tasks, prepare_data, row_rules
from multilora.training.processes import Processes
from multilora.training.results import RunResult, results_of
from multilora.training.run_folder import RunFolder
from multilora.training.sharding import is_sharded, shard
from multilora.training.trainer import MixtureTrainer, save_weights
from multilora.training.validation import Validation

__all__ = ["RunResult", "train"]


def train(recipe: Recipe, resume: bool = False, overwrite: bool = False, progress: Progress | None = None) -> RunResult:
    """Train what the recipe says. Nothing is written before everything has been checked.

    The run folder holds recipe.yaml (resolved), data.json, `adapter/` (`model/` for full fine-tuning), metrics.jsonl,
    validation.jsonl, results.json, `checkpoints/` and `best/`.

    Under torchrun every process calls this; the main one writes and tells `progress`, and all return the same.

    Args:
        recipe: the recipe.
        resume: go on with the run in the output folder, or begin where there is none yet.
        overwrite: replace the run in the output folder.
        progress: is told how it goes; None: nobody.

    Raises:
        InputError: the recipe does not fit the data, the model or the output folder, or the loss is not a number.
    """
    processes = Processes.current()
    sharded = is_sharded(recipe, processes)
    if progress is None or not processes.main:
        progress = Silent()
    weights_name = "model" if isinstance(recipe.method, FullMethod) else "adapter"
    folder = processes.by_main(lambda: RunFolder.check(recipe, resume, overwrite, processes.count))
    if folder.finished:
        if not (folder.path / weights_name).is_dir():
            raise InputError(
                f"training.output: {str(folder.path)!r} holds a finished run without its {weights_name}/; --overwrite "
                "trains it again"
            )
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        return RunResult(folder.path, folder.path / weights_name, results, finished_before=True)
    with quiet_libraries():
        try:
            run = _prepare(recipe, folder, processes, sharded, progress)
            return _train(run, progress, folder.path / weights_name)
        finally:
            progress.stop()


@dataclass(frozen=True)
class _Run:
    """A run that can begin."""

    recipe: Recipe
    folder: RunFolder
    processes: Processes
    tokenizer: Any
    leaked: Mapping[str, LeakedRows]
    mixture: EncodedMixture | StreamedMixture
    validation: Validation | None
    model: Any
    steps: int
    loading: Loading
    trainer: MixtureTrainer
    use_cache: bool


def _prepare(recipe: Recipe, folder: RunFolder, processes: Processes, sharded: bool, progress: Progress) -> _Run:
    """Read and check everything; nothing is written."""
    training = recipe.training
    with processes.together():
        tasks = open_tasks(recipe)
        source = ModelSource.find(recipe.model)
        source.check_config()
        tokenizer = source.tokenizer()
        encoder = PromptCompletionEncoder(tokenizer)
        data = prepare_data(recipe, tasks, encoder, (processes.index, processes.count), progress.note)
        leaked, mixture, steps = data.leaked, data.mixture, data.steps
        folder.check_data(mixture)
        validation = (
            Validation(
                recipe.validation, tasks, tokenizer, encoder, row_rules(recipe), training.batch_size, progress.note
            )
            if recipe.validation
            else None
        )

        set_seed(training.seed)
        has_weights = processes.main or not sharded
        model = source.model(weights_dtype(recipe.method, training.precision), empty=not has_weights)
        limits = ModelLimits.of(model)
        mixture.check(limits)
        if training.packing and has_weights:
            check_packing(model)
        model, warnings = apply_method(model, recipe.method)
        for warning in warnings:
            progress.note(f"warning: {warning}")
        use_cache = model.config.use_cache
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        loading = loading_of(recipe, mixture, limits, steps, pad_id, processes)
    _check_same_data(mixture, processes)
    if sharded:
        shard(model, processes, compute_in_bf16=training.precision == "bf16" and isinstance(recipe.method, FullMethod))
    with folder.created_by_the_trainer() if processes.main else nullcontext(), processes.together():
        trainer = MixtureTrainer(model, recipe, steps, folder.path, loading, tokenizer, processes, sharded)
        check_trainable(model)
    if not processes.main:  # dropout's masks of its own; all else has been drawn
        set_seed((training.seed + processes.index) % 2**32)
    return _Run(
        recipe, folder, processes, tokenizer, leaked, mixture, validation, model, steps, loading, trainer, use_cache
    )


def _train(run: _Run, progress: Progress, weights: Path) -> RunResult:
    recipe, folder, processes, trainer, model = run.recipe, run.folder, run.processes, run.trainer, run.model
    counts = ParameterCounts.of(model)
    progress.note(f"training {counts.trainable:,} of {counts.total:,} parameters for {run.steps:,} steps")

    def begin() -> tuple[Path | None, dict[str, Any] | None]:
        folder.claim(recipe, run.mixture, processes.count)  # nothing was written until here
        last = trainer.checkpoints.last()
        trainer.checkpoints.clean()
        step = checkpoint_step(last) if last else 0
        lines = cut_metrics(folder.metrics, step)
        if run.validation is not None:
            cut_metrics(folder.validation, step)
        return last, lines[-1] if lines else None

    last, before = processes.by_main(begin)
    if folder.resumes:
        progress.note(f"resuming from {last}" if last else "no checkpoint yet: from the beginning")
    if folder.dealt_before is not None:
        progress.note(
            f"begun with {folder.dealt_before}: each step has the same rows, but dropout's masks and the last digits "
            "are not those of a run in one go"
        )
    trainer.add_callback(LogAtCheckpoints())
    metrics = MetricsCallback(folder.metrics, progress, before)
    if processes.main:
        trainer.add_callback(metrics)
    if run.validation is not None:
        trainer.add_callback(
            ValidationCallback(
                run.validation, trainer, folder.validation, folder.best, progress.note, metrics.not_training
            )
        )
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        metrics.close()
    tasks = run.loading.counts()
    for name, rows in run.leaked.items():
        tasks[name]["leaked"] = len(rows)
    model.config.use_cache = run.use_cache  # the trainer has its own, which is not the model's

    best = processes.by_main(lambda: read_best(folder.best))
    whole = trainer.whole_weights() if best is None else None

    def end() -> dict[str, Any]:
        with written_aside(weights) as aside:
            if best is not None:
                shutil.copytree(folder.best, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
            else:
                save_weights(model, aside, whole)
            if isinstance(recipe.method, FullMethod):
                run.tokenizer.save_pretrained(str(aside))
        results = results_of(recipe, tasks, counts, read_metrics(folder.metrics), run.steps, processes.count)
        if run.validation is not None:
            results["validation"] = before_and_after(read_metrics(folder.validation), best)
        write_text(folder.results, json.dumps(results, indent=2) + "\n")
        return results

    return RunResult(folder.path, weights, processes.by_main(end))


def _check_same_data(mixture: EncodedMixture | StreamedMixture, processes: Processes) -> None:
    if processes.count == 1:
        return
    records = [
        {name: task[mixture.RESUME_KEY] for name, task in record.items()}
        for record in processes.gather(mixture.record())
    ]
    if differing := [name for name, record in records[0].items() if any(r[name] != record for r in records)]:
        raise InputError(
            f"the rows of {', '.join(differing)} are not the same in all processes; give all machines the same files"
        )
