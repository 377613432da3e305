"""`train`: from a recipe to a run folder."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from multilora.data.encoding import EncodedTask
from multilora.data.example import Task
from multilora.data.prepare import EncodedMixture, encode_mixture, open_tasks, steps_of
from multilora.errors import InputError
from multilora.folders import write_text, written_aside
from multilora.recipe import FullMethod, Recipe
from multilora.training.best import RECORD, ValidationCallback, before_and_after, read_best
from multilora.training.checkpoints import checkpoint_step
from multilora.training.metrics import MetricsCallback, cut_metrics, read_metrics
from multilora.training.model import (
    ModelSource,
    ParameterCounts,
    apply_method,
    check_packing,
    check_trainable,
    weights_dtype,
)
from multilora.training.progress import Silent, TrainingProgress, quiet_libraries
from multilora.training.run_folder import RunFolder
from multilora.training.trainer import MixtureTrainer, save_weights
from multilora.training.validation import Validation


@dataclass(frozen=True)
class RunResult:
    """What `train` made.

    Attributes:
        folder: the run folder.
        weights: the adapter's folder in it, or the model's for full fine-tuning.
        results: the content of results.json.
        finished_before: the run was complete already and nothing was done.
    """

    folder: Path
    weights: Path
    results: Mapping[str, Any]
    finished_before: bool = False


def train(
    recipe: Recipe, resume: bool = False, overwrite: bool = False, progress: TrainingProgress | None = None
) -> RunResult:
    """Train what the recipe says. Nothing is written before everything has been checked.

    The run folder holds recipe.yaml (resolved), data.json, `adapter/` (`model/` for full fine-tuning), metrics.jsonl,
    validation.jsonl, results.json, `checkpoints/` and `best/`.

    Args:
        recipe: the recipe.
        resume: go on with the run in the output folder, or begin where there is none yet.
        overwrite: replace the run in the output folder.
        progress: is told how it goes; None: nobody.

    Raises:
        InputError: the recipe does not fit the data, the model or the output folder, or the loss is not a number.
    """
    progress = progress or Silent()
    weights_name = "model" if isinstance(recipe.method, FullMethod) else "adapter"
    folder = RunFolder.check(recipe, resume, overwrite)
    if folder.finished:
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        return RunResult(folder.path, folder.path / weights_name, results, finished_before=True)
    _check_devices()
    tasks = open_tasks(recipe)
    source = ModelSource.find(recipe.model)
    with quiet_libraries():
        try:
            return _train(recipe, folder, tasks, source, progress, folder.path / weights_name)
        finally:
            progress.stop()


def _train(
    recipe: Recipe,
    folder: RunFolder,
    tasks: Sequence[Task],
    source: ModelSource,
    progress: TrainingProgress,
    weights: Path,
) -> RunResult:
    training = recipe.training
    source.check_config()
    tokenizer = source.tokenizer()
    progress.note(f"reading {', '.join(recipe.tasks)}")
    mixture = encode_mixture(recipe, tasks, tokenizer)
    for task in mixture.tasks:
        for note in task.counts.notes(task.name):
            progress.note(note)
    folder.check_data(mixture.tasks)
    steps = steps_of(recipe, mixture)
    validation = Validation(recipe, tasks, tokenizer, progress.note) if recipe.validation else None

    set_seed(training.seed)
    model = source.model(weights_dtype(recipe.method, training.precision))
    _check_fit(model, mixture)
    if training.packing:
        check_packing(model)
    model, warnings = apply_method(model, recipe.method)
    for warning in warnings:
        progress.note(f"warning: {warning}")
    use_cache = model.config.use_cache
    with folder.created_by_the_trainer():
        trainer = MixtureTrainer(model, recipe, steps, folder.path, mixture, tokenizer)
        check_trainable(model)

    folder.claim(recipe, mixture.tasks)  # nothing was written until here
    counts = ParameterCounts.of(model)
    progress.note(f"training {counts.trainable:,} of {counts.total:,} parameters for {steps:,} steps")
    last = trainer.checkpoints.last()
    trainer.checkpoints.clean()
    if folder.resumes:
        progress.note(f"resuming from {last}" if last else "no checkpoint yet: from the beginning")
    before = cut_metrics(folder.metrics, checkpoint_step(last) if last else 0)
    callback = MetricsCallback(folder.metrics, progress, before[-1] if before else None)
    trainer.add_callback(callback)
    if validation is not None:
        cut_metrics(folder.validation, checkpoint_step(last) if last else 0)
        trainer.add_callback(
            ValidationCallback(
                validation, trainer, folder.validation, folder.best, progress.note, callback.not_training
            )
        )
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        callback.close()

    model.config.use_cache = use_cache  # the trainer has its own, which is not the model's
    best = read_best(folder.best)
    with written_aside(weights) as aside:
        if best is not None:
            shutil.copytree(folder.best, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
        else:
            save_weights(model, aside)
        if isinstance(recipe.method, FullMethod):
            tokenizer.save_pretrained(str(aside))
    results = _results(recipe, mixture.tasks, counts, read_metrics(folder.metrics), steps)
    if validation is not None:
        results["validation"] = before_and_after(read_metrics(folder.validation), best)
    write_text(folder.results, json.dumps(results, indent=2) + "\n")
    return RunResult(folder.path, weights, results)


# What is checked before ------------------------------------------------------------------------------------------


def _check_devices() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("`multilora train` runs in one process for now; start it without torchrun")
    if torch.cuda.device_count() > 1:
        raise InputError(
            f"{torch.cuda.device_count()} GPUs are visible and training uses one; choose it, for example with "
            "CUDA_VISIBLE_DEVICES=0"
        )


def _check_fit(model: Any, mixture: EncodedMixture) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if mixture.highest_id >= rows:
        raise InputError(
            f"model: the tokenizer gives token id {mixture.highest_id}, and the model has embeddings for {rows} "
            "tokens; the folder's tokenizer is not this model's"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and mixture.longest > positions:
        raise InputError(
            f"training.max_length: the longest example has {mixture.longest:,} tokens and the model {positions:,} "
            f"positions; set training.max_length to {positions} or less"
        )


# What is reported after ------------------------------------------------------------------------------------------


def _results(
    recipe: Recipe,
    encoded: Sequence[EncodedTask],
    counts: ParameterCounts,
    metrics: Sequence[Mapping[str, Any]],
    steps: int,
) -> dict[str, Any]:
    last = metrics[-1]
    unit = 1 if sys.platform == "darwin" else 1024
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "recipe_hash": recipe.recipe_hash(),
        "method": recipe.method.name,
        "seed": recipe.training.seed,
        "steps": steps,
        "epochs": last["epoch"],
        "final_loss": last["loss"],
        "parameters": asdict(counts),
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "tokens_per_second": round(last["tokens"] / last["seconds"], 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_cuda_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "device": device,
        "threads": torch.get_num_threads(),
        "tasks": {task.name: asdict(task.counts) for task in encoded},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("multilora", "torch", "transformers", "peft", "trl", "accelerate")},
        },
    }
