"""One cell in its own process: its peak memory is measured apart, and a crash stops no other cell.

Reads the cell from its standard input, as JSON in one line; reports progress on its standard output, as JSON lines;
ends when its standard input does, because then the process that started it has died.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from multilora.errors import InputError
from multilora.evaluation.evaluate import EvalOptions, evaluate
from multilora.recipe import Recipe
from multilora.runs.layout import RunLayout
from multilora.training.run import train


class _JsonProgress:
    """A `Progress` that writes JSON lines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def note(self, text: str) -> None:
        self._send(kind="note", text=text)

    def start(self, total: int, done: int) -> None:
        self._send(kind="start", steps=total, done=done)

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        self._send(kind="step", step=done, metrics=dict(metrics) if metrics else None)

    def stop(self) -> None: ...

    def fault(self, text: str) -> None:
        self._send(kind="fault", text=text)

    def _send(self, **message: Any) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def run_cell(recipe: Recipe, trial: bool, test: EvalOptions, progress: Any) -> None:
    """Train the cell, or resume it, and test it.

    Args:
        recipe: the cell's recipe.
        trial: do not test.
        test: how it is tested.
        progress: receives its progress.
    """
    result = train(recipe, resume=True, progress=progress)
    if not trial:
        progress.note("testing")
        evaluate(str(result.folder), test, progress.note)
    shutil.rmtree(RunLayout(result.folder).checkpoints, ignore_errors=True)


def _die_with_the_parent(stdin: TextIO) -> None:
    stdin.read()
    os._exit(1)


def main() -> int:
    """Run the cell that stands on the standard input. Returns the exit code."""
    cell = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_the_parent, args=(sys.stdin,), daemon=True).start()
    progress = _JsonProgress(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # whatever libraries print is no message of ours
    try:
        run_cell(
            Recipe.model_validate(cell["recipe"]), cell["trial"], EvalOptions(**cell["test"], overwrite=True), progress
        )
    except InputError as error:
        progress.fault(str(error))
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # not through the interpreter's end, which would wait for the thread that reads
