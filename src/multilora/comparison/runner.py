"""Runs the cells of a comparison, one process after the other, and resumes an interrupted comparison."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from multilora.comparison.cell_results import CellResults, is_done
from multilora.comparison.grid import Cell, Grid, best_trial
from multilora.comparison.record import ComparisonRecord, Trial
from multilora.errors import InputError
from multilora.recipe.differences import differing
from multilora.recipe.method import as_recorded
from multilora.runs.layout import ComparisonLayout
from multilora.storage.folders import is_empty
from multilora.terminal import Progress, duration

_LOG = "cell.log"


class ComparisonProgress(Progress, Protocol):
    """Receives the progress of a comparison: its cells, and what each of them notes, starts and does."""

    def cell(self, number: int, total: int, title: str) -> None:
        """Cell `number` of `total` (from 1) begins."""
        ...


@dataclass(frozen=True)
class Failure:
    """A cell that did not end well.

    Attributes:
        cell: the cell.
        reason: the last line that it said.
        log: everything that it said.
    """

    cell: Cell
    reason: str
    log: Path


def open_folder(grid: Grid) -> None:
    """Make the comparison's folder, or find that it holds this comparison.

    Raises:
        InputError: it holds something else.
    """
    record, out = ComparisonLayout(grid.out).record, grid.out
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {str(out)!r} is a file; choose a folder")
    if record.is_file():
        found = ComparisonRecord.read(record)
        recorded = found.shared | {"recipe": as_recorded(found.shared["recipe"])}
        if differences := differing(recorded, grid.record().shared):
            raise InputError(
                f"--out: {str(out)!r} holds the comparison of another recipe ({', '.join(differences[:5])} differ), "
                "and results of different recipes are never mixed; choose another folder"
            )
        return
    if not is_empty(out):
        raise InputError(f"--out: {str(out)!r} is not empty and holds no comparison; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    grid.record().write(record)


def run_cells(
    cells: Sequence[Cell], test: Mapping[str, Any], progress: ComparisonProgress, before: int = 0, after: int = 0
) -> list[Failure]:
    """Run cells, one after the other. A cell that fails is reported, and the others run.

    Args:
        cells: the cells, in order; none that is done.
        test: how cells are tested: fields of `EvalOptions`.
        progress: receives its progress.
        before, after: cells that run before and after these, for the progress.
    """
    failures: list[Failure] = []
    for number, cell in enumerate(cells, start=1):
        progress.cell(before + number, before + len(cells) + after, cell.title)
        began = time.monotonic()
        if (failure := _run(cell, test, progress)) is not None:
            progress.note(f"failed: {failure.reason}")
            failures.append(failure)
        else:
            progress.note(f"{cell.title}: {_outcome(cell)} in {duration(time.monotonic() - began)}")
    return failures


def choose_rates(grid: Grid, cells: Sequence[Cell]) -> tuple[dict[str, float], dict[str, list[Trial]]]:
    """The learning rate of each swept method, and what all its trials came to.

    Raises:
        InputError: no trial of a method has a value.
    """
    chosen: dict[str, float] = {}
    tried: dict[str, list[Trial]] = {}
    for method in grid.swept:
        own = [cell for cell in cells if cell.method == method]
        values = [_trial_value(cell, grid.section.select_by) for cell in own]
        best = best_trial(own, values, grid.section.select_by)
        if best is None:
            raise InputError(
                f"comparison.learning_rates: no trial of {method.name} has a {grid.section.select_by} on validation "
                "rows; lower the learning rates, or set comparison.select_by to loss"
            )
        chosen[method.name] = best.learning_rate
        tried[method.name] = [
            Trial(learning_rate=cell.learning_rate, value=value) for cell, value in zip(own, values, strict=True)
        ]
    return chosen, tried


def _outcome(cell: Cell) -> str:
    """What the cell came to, in a few words."""
    found = CellResults(cell)
    if cell.trial:
        after = found.validation
        assert after is not None
        return f"validation loss {after.loss:.3f}" + ("" if after.score is None else f", score {after.score:.3f}")
    score = found.average_score
    return "no task is scored" if score is None else f"average test score {score:.3f}"


def _trial_value(cell: Cell, select_by: str) -> float | None:
    if not is_done(cell) or (after := CellResults(cell).validation) is None:
        return None
    return after.score if select_by == "score" else after.loss


def _run(cell: Cell, test: Mapping[str, Any], progress: ComparisonProgress) -> Failure | None:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    log = cell.folder.with_name(f"{cell.folder.name}.{_LOG}")
    fault: str | None = None
    with log.open("a", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "multilora.comparison.cell"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            order = {"recipe": cell.recipe.resolved(), "trial": cell.trial, "test": dict(test)}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if message["kind"] == "fault":
                    fault = message["text"]
                else:
                    said.write(f"{time.strftime('%H:%M:%S')} {message}\n")
                    _pass_on(message, progress)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    if code == 0 and is_done(cell):
        log.unlink()
        return None
    return Failure(cell, fault or _last_line(log, code), log)


def _pass_on(message: Mapping[str, Any], progress: ComparisonProgress) -> None:
    match message["kind"]:
        case "note":
            progress.note(message["text"])
        case "start":
            progress.start(message["steps"], message["done"])
        case "step":
            progress.step(message["step"], message["metrics"])
        case kind:
            raise ValueError(f"a cell sent a message of the unknown kind {kind!r}")


def _last_line(log: Path, code: int) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {lines[-1].strip()}" if lines and code > 0 else ended
