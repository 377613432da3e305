"""The names of the files and folders of runs and comparisons: writers and readers take them from here alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIXED = "mixed"  # the regime in which one model is trained on all tasks; of one task alone it is the task's name
RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "results.json"
METRICS_FILE = "metrics.jsonl"
_TRIALS = "trials"


@dataclass(frozen=True)
class RunLayout:
    """The run folder of `multilora train`.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE_FILE

    @property
    def data(self) -> Path:
        """Counts and fingerprints of the data that the run began with."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One line per logged step."""
        return self.path / METRICS_FILE

    @property
    def validation(self) -> Path:
        """One line per validation."""
        return self.path / "validation.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The complete checkpoints, `checkpoint-N` each."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best weights, if the recipe asks for them."""
        return self.path / "best"

    @property
    def results(self) -> Path:
        """The figures of the finished run; there only when everything else is."""
        return self.path / RESULTS_FILE

    def weights(self, method: str) -> Path:
        """The trained weights.

        Args:
            method: multilora, lora or full.
        """
        return self.path / ("model" if method == "full" else "adapter")

    def evaluations(self) -> list[Path]:
        """The folders of `multilora eval`, by name."""
        return sorted(file.parent for file in self.path.glob(f"eval-*/{RESULTS_FILE}"))

    def evaluation(self, split: str) -> Path:
        """The folder of the evaluation on a split.

        Args:
            split: validation or test.
        """
        return self.path / f"eval-{split}"


@dataclass(frozen=True)
class ComparisonLayout:
    """The folder of `multilora compare`.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """What all cells share."""
        return self.path / "comparison.json"

    @property
    def results(self) -> Path:
        """The table; there only when the comparison came to its end."""
        return self.path / RESULTS_FILE

    @property
    def analysis(self) -> Path:
        """The analysis of what training changed, and the page."""
        return self.path / "analysis"

    def cell(self, method: str, regime: str, seed: int) -> Path:
        """The run folder of one training.

        Args:
            method: its name, as `NamedMethod.folder` writes it.
            regime: `mixed`, or the only task.
            seed: counted from 0.
        """
        return self._cells / method / regime / f"seed-{seed}"

    def trial(self, method: str, learning_rate: float) -> Path:
        """The run folder of a training that only tries a learning rate."""
        return self._cells / method / _TRIALS / f"{learning_rate:g}"

    def cells(self) -> Iterator[tuple[Path, str, str, int]]:
        """The run folders of all cells but trials, with method's folder, regime and seed; the seed varies fastest."""
        found: list[tuple[str, str, int, Path]] = []
        for folder in self._cells.glob("*/*/seed-*"):
            if number := re.fullmatch(r"seed-(\d+)", folder.name):
                found.append((folder.parent.parent.name, folder.parent.name, int(number[1]), folder))
        for method, regime, seed, folder in sorted(found):
            yield folder, method, regime, seed

    @property
    def _cells(self) -> Path:
        return self.path / "cells"
