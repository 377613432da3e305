"""`multilora train` and `multilora schema`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.terminal import duration
from multilora.training.processes import Processes
from multilora.training.results import RunResult
from multilora.training.run import train
from multilora_cli.progress import progress_for


def train_recipe(path: Path, overrides: Sequence[str], resume: bool, overwrite: bool, console: Console) -> RunResult:
    """Train a recipe, with progress on the console.

    Raises:
        InputError: as `load_recipe` and `train` say.
    """
    with Processes.current().together():
        recipe = load_recipe(path, overrides)
    return train(recipe, resume=resume, overwrite=overwrite, progress=progress_for(console))


def summary(result: RunResult) -> list[str]:
    """A finished run in a few lines, with what to try next."""
    figures = result.results
    lines = [
        f"{result.folder}{': this run was finished before; nothing to do' if result.finished_before else ''}",
        f"  loss {figures.final_loss:.4f} after {figures.steps:,} steps{_epochs(figures.epochs)}",
        f"  {figures.tokens:,} tokens in {duration(figures.seconds)}, {figures.tokens_per_second:,.0f} per second",
        f"  peak memory {figures.peak_memory_bytes / 2**20:,.0f} MiB",
    ]
    if figures.method == "multilora":
        adapter, out = (shlex.quote(str(path)) for path in (result.weights, result.folder / "lora"))
        lines.append(f"  try: multilora export {adapter} {out}")
    return lines


def _epochs(count: float | None) -> str:
    return "" if count is None else f" ({count:.2f} epochs)"  # unknown of a stream


def schema() -> str:
    """The JSON schema of a recipe, for editors and people."""
    return json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False)
