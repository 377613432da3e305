"""What a cell that is done has written."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from multilora.comparison.grid import Cell
from multilora.errors import InputError
from multilora.evaluation.results import Answer
from multilora.evaluation.saved import PREDICTIONS, AnswerLine, EvaluationResults, predictions_name
from multilora.runs.layout import RESULTS_FILE, RunLayout
from multilora.runs.records import RunResults, ValidationLine


def is_done(cell: Cell) -> bool:
    """The cell has ended, with all its results.

    Raises:
        InputError: its folder holds the results of another recipe, such as one with another learning rate.
    """
    if not result_file(cell).is_file():
        return False
    found = RunResults.read(RunLayout(cell.folder).results).recipe_hash
    if found != cell.recipe.recipe_hash():
        raise InputError(
            f"{str(cell.folder)!r} holds results of another recipe (its learning rate, perhaps) than the comparison "
            "asks for; results of different recipes are never mixed: choose another --out, or remove that folder"
        )
    return True


def result_file(cell: Cell) -> Path:
    """What the cell writes last."""
    layout = RunLayout(cell.folder)
    return layout.results if cell.trial else layout.evaluation("test") / RESULTS_FILE


class CellResults:
    """The results of a cell that is done, read when they are asked for."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @cached_property
    def training(self) -> RunResults:
        """The run's results.json."""
        return RunResults.read(RunLayout(self.cell.folder).results)

    @cached_property
    def scores(self) -> dict[str, tuple[str, float]]:
        """Of each scored task its main metric and the value."""
        found: dict[str, tuple[str, float]] = {}
        for name, task in EvaluationResults.read(result_file(self.cell)).tasks.items():
            for metric, score in list(task.metrics.items())[:1]:
                if score.value is not None:
                    found[name] = (metric, score.value)
        return found

    def answers(self, task: str) -> dict[str, Answer]:
        """The answers to a task's rows, by the rows' ids."""
        lines = AnswerLine.read_all(result_file(self.cell).parent / PREDICTIONS / predictions_name(task))
        return {line.id: line.answer() for line in lines}

    @property
    def average_score(self) -> float | None:
        """The mean of the tasks' main metrics; None: no task is scored."""
        values = [value for _, value in self.scores.values()]
        return sum(values) / len(values) if values else None

    @property
    def weights_bytes(self) -> int:
        """Size of the weights that the run wrote."""
        folder = RunLayout(self.cell.folder).weights(self.cell.method.section.name)
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    @property
    def validation(self) -> ValidationLine | None:
        """The validation of the trained weights."""
        return self.training.validation.after if self.training.validation else None
