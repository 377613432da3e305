"""How a training run shows on a terminal: a bar there, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from multilora.terminal import duration
from multilora.training.progress import TrainingProgress


class Bar:
    """A progress bar for a terminal: steps, loss, tokens per second, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            BarColumn(bar_width=24),  # with the rest it fits into 80 columns
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
        )

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, steps: int, done: int) -> None:
        self._task = self._bar.add_task("training", total=steps, completed=done, loss="…", speed="…")
        self._bar.start()

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        if metrics is None:
            self._bar.update(self._task, completed=step)
        else:
            loss, speed = f"{metrics['loss']:.4f}", f"{metrics['tokens_per_second']:,.0f}"
            self._bar.update(self._task, completed=step, loss=loss, speed=speed)

    def stop(self) -> None:
        self._bar.stop()


class Lines:
    """Plain lines for a file or a pipe, one per logged step, no control codes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, steps: int, done: int) -> None:
        self._steps, self._first, self._began = steps, done, time.monotonic()

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        if metrics is None:
            return
        seconds = (time.monotonic() - self._began) / max(step - self._first, 1) * (self._steps - step)
        self.note(
            f"step {step}/{self._steps}  loss {metrics['loss']:.4f}  "
            f"{metrics['tokens_per_second']:,.0f} tokens/s  {duration(seconds)} left"
        )

    def stop(self) -> None: ...


def progress_for(console: Console) -> TrainingProgress:
    """A bar on a terminal, plain lines elsewhere."""
    return Bar(console) if console.is_terminal else Lines(console)
