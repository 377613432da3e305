"""`train`: from a recipe to a run folder."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed

from multilora.base.loading import ModelSource, weights_dtype
from multilora.data.encoder import PromptCompletionEncoder
from multilora.data.limits import ModelLimits
from multilora.errors import InputError
from multilora.recipe import FullMethod, Recipe
from multilora.runs.card import write_run_card
from multilora.runs.layout import RunLayout
from multilora.runs.records import MetricsLine, RunResults, ValidationLine
from multilora.storage.folders import written_aside
from multilora.terminal import Progress, Silent, quiet_libraries
from multilora.training.checkpoints import checkpoint_step
from multilora.training.loading import Loading, loading_of
from multilora.training.metrics import LogAtCheckpoints, MetricsCallback, cut_lines
from multilora.training.model import ParameterCounts, apply_method, check_packing, check_trainable
from multilora.training.prepare import TrainingData, batch_shape, check_same_data, open_tasks, prepare_data, row_rules
from multilora.training.processes import Processes, is_sharded
from multilora.training.results import RunResult, results_of
from multilora.training.run_folder import RunFolder
from multilora.training.sft import SftTrainer, sft_arguments
from multilora.training.sharding import shard
from multilora.training.trainer import save_weights
from multilora.training.validation import Validation
from multilora.training.validation_callback import RECORD, ValidationCallback, before_and_after, read_best

__all__ = ["RunResult", "train"]


def train(recipe: Recipe, resume: bool = False, overwrite: bool = False, progress: Progress | None = None) -> RunResult:
    """Train what the recipe says. Nothing is written before everything has been checked.

    The run folder holds recipe.yaml (resolved), data.json, `adapter/` (`model/` for full fine-tuning), metrics.jsonl,
    validation.jsonl, results.json, `checkpoints/` and `best/`.

    Under torchrun every process calls this; the main one writes and reports to `progress`, and all return the same.

    Args:
        recipe: the recipe.
        resume: continue the run in the output folder, or start one if there is none yet.
        overwrite: replace the run in the output folder.
        progress: receives the run's progress; None to show no progress.

    Raises:
        InputError: the recipe does not fit the data, the model or the output folder, or the loss is not a number.
    """
    processes = Processes.current()
    sharded = is_sharded(recipe.hardware, recipe.model.quantization is not None, processes)
    if progress is None or not processes.main:
        progress = Silent()
    weights = RunLayout(recipe.training.output).weights(recipe.method.name)
    folder = processes.by_main(lambda: RunFolder.check(recipe, resume, overwrite, processes.count))
    if folder.finished:
        if not weights.is_dir():
            raise InputError(
                f"training.output: {str(folder.path)!r} holds a finished run without its {weights.name}/; overwrite it "
                "(--overwrite, overwrite=True) to train it again"
            )
        results = RunResults.read(folder.results)
        return RunResult(folder.path, weights, results, finished_before=True)
    run = _Run(recipe, folder, weights, processes, sharded, progress)
    with quiet_libraries():
        try:
            return run.result()
        finally:
            progress.stop()


@dataclass(frozen=True)
class _Inputs:
    """What a run reads: its data, and where its model is."""

    source: ModelSource
    tokenizer: Any
    data: TrainingData
    validation: Validation | None


@dataclass(frozen=True)
class _Model:
    """A model with its method, before any trainer has changed its configuration."""

    model: Any
    limits: ModelLimits
    use_cache: bool


@dataclass(frozen=True)
class _Run:
    """A run that has not ended; `result` has its steps in their order."""

    recipe: Recipe
    folder: RunFolder
    weights: Path
    processes: Processes
    sharded: bool
    progress: Progress

    def result(self) -> RunResult:
        """Prepare the data, adapt the model, train it, and write what came of it."""
        with self.processes.together():
            inputs = self._read()
            adapted = self._adapt(inputs)
            loading = self._load(inputs, adapted.limits)
        check_same_data(inputs.data.mixture, self.processes)
        trainer = self._trainer(inputs, adapted.model, loading)
        counts = ParameterCounts.of(adapted.model)
        self.progress.note(
            f"training {counts.trainable:,} of {counts.total:,} parameters for {inputs.data.steps:,} steps"
        )
        self._train(inputs, trainer)
        adapted.model.config.use_cache = adapted.use_cache  # the trainer has its own, which is not the model's
        return self._record(inputs, adapted.model, trainer, loading, counts)

    # Read and check, and write nothing --------------------------------------------------------------------------------

    def _read(self) -> _Inputs:
        recipe, processes, note = self.recipe, self.processes, self.progress.note
        tasks = open_tasks(recipe)
        source = ModelSource.find(recipe.model)
        source.check_config()
        tokenizer = source.tokenizer()
        encoder = PromptCompletionEncoder(tokenizer)
        data = prepare_data(recipe, tasks, encoder, (processes.index, processes.count), note)
        self.folder.check_data(data.mixture)
        validation = None
        if recipe.validation is not None:
            rules, batch_size = row_rules(recipe), recipe.training.batch_size
            validation = Validation(recipe.validation, tasks, tokenizer, encoder, rules, batch_size, note)
        return _Inputs(source, tokenizer, data, validation)

    def _adapt(self, inputs: _Inputs) -> _Model:
        method, training = self.recipe.method, self.recipe.training
        set_seed(training.seed)
        has_weights = self.processes.main or not self.sharded
        model = inputs.source.model(weights_dtype(method, training.precision), empty=not has_weights)
        limits = ModelLimits.of(model)
        inputs.data.mixture.check(limits)
        if training.packing and has_weights:
            check_packing(model)
        model, warnings = apply_method(model, method)
        for warning in warnings:
            self.progress.note(f"warning: {warning}")
        return _Model(model, limits, model.config.use_cache)

    def _load(self, inputs: _Inputs, limits: ModelLimits) -> Loading:
        tokenizer, data = inputs.tokenizer, inputs.data
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        shape, seed = batch_shape(self.recipe), self.recipe.training.seed
        return loading_of(data.mixture, shape, limits, data.steps, seed, pad_id, self.processes)

    def _trainer(self, inputs: _Inputs, model: Any, loading: Loading) -> SftTrainer:
        training, processes, folder = self.recipe.training, self.processes, self.folder
        autocast = training.precision == "bf16" and isinstance(self.recipe.method, FullMethod)
        if self.sharded:
            shard(model, processes, compute_in_bf16=autocast)
        with folder.created_by_the_trainer() if processes.main else nullcontext(), processes.together():
            trainer = SftTrainer(
                model,
                # Adapters need no autocast: a bf16 base computes in bf16 by itself.
                sft_arguments(training, inputs.data.steps, folder.path, autocast),
                list(self.recipe.tasks),
                loading,
                inputs.tokenizer,
                processes,
                self.sharded,
                scaling_lr_ratio=training.scaling_lr_ratio,
                keep_checkpoints=training.keep_checkpoints,
            )
            check_trainable(model)
        if not processes.main:  # dropout masks differ per process; all else has been drawn
            set_seed((training.seed + processes.index) % 2**32)
        return trainer

    # Train, and write -------------------------------------------------------------------------------------------------

    def _train(self, inputs: _Inputs, trainer: SftTrainer) -> None:
        folder, progress = self.folder, self.progress
        last, before = self.processes.by_main(lambda: self._begin(inputs, trainer))
        if folder.resumes:
            progress.note(f"resuming from {last}" if last else "no checkpoint yet: from the beginning")
        if folder.dealt_before is not None:
            progress.note(
                f"begun with {folder.dealt_before}: each step has the same rows, but dropout's masks and the last "
                "digits are not those of a run in one go"
            )
        trainer.add_callback(LogAtCheckpoints())
        metrics = MetricsCallback(folder.metrics, progress, before)
        if self.processes.main:
            trainer.add_callback(metrics)
        if inputs.validation is not None:
            files = folder.validation, folder.best
            trainer.add_callback(
                ValidationCallback(inputs.validation, trainer, *files, progress.note, metrics.not_training)
            )
        try:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            metrics.close()

    def _begin(self, inputs: _Inputs, trainer: SftTrainer) -> tuple[Path | None, MetricsLine | None]:
        """The first that is written. Returns the checkpoint to resume from, and the last line of the metrics then."""
        folder, checkpoints = self.folder, trainer.checkpoints
        folder.claim(self.recipe, inputs.data.mixture, self.processes.count)
        last = checkpoints.last()
        checkpoints.clean()
        step = checkpoint_step(last) if last else 0
        lines = cut_lines(MetricsLine, folder.metrics, step)
        if inputs.validation is not None:
            cut_lines(ValidationLine, folder.validation, step)
        return last, lines[-1] if lines else None

    def _record(
        self, inputs: _Inputs, model: Any, trainer: SftTrainer, loading: Loading, counts: ParameterCounts
    ) -> RunResult:
        recipe, folder, processes = self.recipe, self.folder, self.processes
        tasks = loading.counts()
        for name, rows in inputs.data.leaked.items():
            tasks[name]["leaked"] = len(rows)
        best = processes.by_main(lambda: read_best(folder.best))
        whole = trainer.whole_weights() if best is None else None

        def end() -> RunResults:
            with written_aside(self.weights) as aside:
                if best is not None:
                    shutil.copytree(folder.best, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
                else:
                    save_weights(model, aside, whole)
                if isinstance(recipe.method, FullMethod):
                    inputs.tokenizer.save_pretrained(str(aside))
            metrics = MetricsLine.read_all(folder.metrics)
            validation = None
            if inputs.validation is not None:
                validation = before_and_after(ValidationLine.read_all(folder.validation), best)
            results = results_of(recipe, tasks, counts, metrics, inputs.data.steps, processes.count, validation)
            write_run_card(recipe, results, self.weights)
            results.write(folder.results)
            return results

        return RunResult(folder.path, self.weights, processes.by_main(end))
