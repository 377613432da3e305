"""What a cell that is done has written."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from multilora.comparison.grid import Cell
from multilora.errors import InputError
from multilora.evaluation.results import Answer


def is_done(cell: Cell) -> bool:
    """The cell has ended, with all its results.

    Raises:
        InputError: its folder holds the results of another recipe, such as one with another learning rate.
    """
    if not result_file(cell).is_file():
        return False
    found = json.loads((cell.folder / "results.json").read_text(encoding="utf-8"))["recipe_hash"]
    if found != cell.recipe.recipe_hash():
        raise InputError(
            f"{str(cell.folder)!r} holds results of another recipe (its learning rate, perhaps) than the comparison "
            "asks for; results of different recipes are never mixed: choose another --out, or remove that folder"
        )
    return True


def result_file(cell: Cell) -> Path:
    """What the cell writes last."""
    return cell.folder / "results.json" if cell.trial else cell.folder / "eval-test" / "results.json"


class CellResults:
    """The results of a cell that is done, read when they are asked for."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @cached_property
    def training(self) -> dict[str, Any]:
        """The run's results.json."""
        return _json(self.cell.folder / "results.json")

    @cached_property
    def scores(self) -> dict[str, tuple[str, float]]:
        """Of each scored task its main metric and the value."""
        tasks = _json(result_file(self.cell))["tasks"]
        found: dict[str, tuple[str, float]] = {}
        for name, task in tasks.items():
            for metric, score in list(task.get("metrics", {}).items())[:1]:
                if score["value"] is not None:
                    found[name] = (metric, score["value"])
        return found

    def answers(self, task: str) -> dict[str, Answer]:
        """The answers to a task's rows, by the rows' ids."""
        file = result_file(self.cell).parent / "predictions" / f"{task}.jsonl"
        with file.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        return {record["id"]: Answer.of_record(record) for record in records}

    @property
    def average_score(self) -> float | None:
        """The mean of the tasks' main metrics; None: no task is scored."""
        values = [value for _, value in self.scores.values()]
        return sum(values) / len(values) if values else None

    @property
    def weights_bytes(self) -> int:
        """Size of the weights that the run wrote."""
        folder = self.cell.folder / ("model" if self.cell.method.section.name == "full" else "adapter")
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    @property
    def forgetting(self) -> float | None:
        """How much higher the loss on general text is after training, in nats per token."""
        validation = self.training.get("validation") or {}
        before, after = (
            ((validation.get(when) or {}).get("general_text") or {}).get("loss") for when in ("before", "after")
        )
        return None if before is None or after is None else after - before

    @property
    def validation_losses(self) -> dict[str, float]:
        """The tasks' losses on validation rows after training."""
        after = (self.training.get("validation") or {}).get("after") or {}
        return {name: task["loss"] for name, task in after.get("tasks", {}).items()}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
