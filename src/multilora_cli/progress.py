"""Progress output: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from multilora.terminal import Progress, Silent, duration
from multilora_cli.tables import shown


class Notes(Silent):
    """Prints notes as they are, and nothing else."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bar(Notes):
    """A training's bar for a terminal: steps, loss, tokens per second, time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Bars(
            BarColumn(bar_width=24),  # with the rest it fits into 80 columns
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
        )

    def start(self, total: int, done: int) -> None:
        self._task = self._bar.add_task("training", total=total, completed=done, loss="…", speed="…")
        self._bar.start()

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        if metrics is None:
            self._bar.update(self._task, completed=done)
        else:
            loss, speed = f"{metrics['loss']:.4f}", f"{metrics['tokens_per_second']:,.0f}"
            self._bar.update(self._task, completed=done, loss=loss, speed=speed)

    def stop(self) -> None:
        self._bar.stop()


class Lines(Notes):
    """A training as plain lines for a file or a pipe, one per logged step, no control codes."""

    def start(self, total: int, done: int) -> None:
        self._total, self._first, self._began = total, done, time.monotonic()

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        if metrics is None:
            return
        seconds = (time.monotonic() - self._began) / max(done - self._first, 1) * (self._total - done)
        self.note(
            f"step {done}/{self._total}  loss {metrics['loss']:.4f}  "
            f"{metrics['tokens_per_second']:,.0f} tokens/s  {duration(seconds)} left"
        )


class PassingBar(Notes):
    """A bar on stderr that is removed at the end; shows the name of the last item."""

    def __init__(self, what: str, *columns: ProgressColumn) -> None:
        super().__init__(Console(stderr=True))
        shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
        self._bar = Bars(*shown, console=self._console, transient=True)
        self._task = self._bar.add_task(what, total=None)

    def start(self, total: int, done: int) -> None:
        self._bar.update(self._task, total=total, completed=done)
        self._bar.start()

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        self._bar.update(self._task, completed=done, description=None if name is None else shown(name))

    def stop(self) -> None:
        self._bar.stop()


def merge_bar() -> Progress:
    """A progress bar of bytes with the writing speed."""
    return PassingBar("merging", DownloadColumn(), TransferSpeedColumn())


def analysis_bar() -> Progress:
    """A progress bar of matrices."""
    return PassingBar("", MofNCompleteColumn())


def progress_for(console: Console) -> Progress:
    """A training's bar on a terminal, plain lines elsewhere."""
    return Bar(console) if console.is_terminal else Lines(console)
