"""What a run ends with: its folder, its weights and its figures."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from multilora.recipe import Recipe
from multilora.runs.records import MetricsLine, ParameterNumbers, RunResults, TaskRows, ValidationSummary
from multilora.training.model import ParameterCounts


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
    results: RunResults
    finished_before: bool = False


def results_of(
    recipe: Recipe,
    tasks: Mapping[str, Mapping[str, Any]],
    counts: ParameterCounts,
    metrics: Sequence[MetricsLine],
    steps: int,
    processes: int,
    validation: ValidationSummary | None,
) -> RunResults:
    """The content of results.json.

    Args:
        recipe: the recipe.
        tasks: what became of each task's rows.
        counts: of the model's parameters.
        metrics: the lines of metrics.jsonl.
        steps: optimizer steps of the whole run.
        processes: how many trained; memory is that of the main one.
        validation: None if the recipe has no validation.
    """
    last = metrics[-1]
    unit = 1 if sys.platform == "darwin" else 1024
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    packages = ["multilora", "torch", "transformers", "peft", "trl", "accelerate"]
    if recipe.model.quantization is not None:
        packages.append("bitsandbytes")
    optional: dict[str, Any] = {} if validation is None else {"validation": validation}
    return RunResults(
        recipe_hash=recipe.recipe_hash(),
        method=recipe.method.name,
        seed=recipe.training.seed,
        steps=steps,
        epochs=last.epoch,
        final_loss=last.loss,
        parameters=ParameterNumbers(trainable=counts.trainable, total=counts.total),
        tokens=last.tokens,
        seconds=last.seconds,
        tokens_per_second=round(last.tokens / last.seconds, 1),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        peak_cuda_memory_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        device=device,
        threads=torch.get_num_threads(),
        processes=processes,
        tasks={name: TaskRows.model_validate(rows) for name, rows in tasks.items()},
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
        **optional,
    )
