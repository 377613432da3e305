"""What a person sees while training runs, and silence from the libraries."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from logging import getLogger
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress(Protocol):
    """Gets told how a run goes. All steps are counted from the run's beginning, also when it is resumed."""

    def note(self, text: str) -> None:
        """A line for the user: what is being done, what was skipped, a warning."""
        ...

    def start(self, steps: int, done: int) -> None:
        """Training begins at step `done` of `steps`."""
        ...

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """A step is done; `metrics` where it is one that is logged: loss, tokens_per_second and so on."""
        ...

    def stop(self) -> None:
        """Training has ended, well or not. Also called where it never began."""
        ...


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None: ...

    def stop(self) -> None: ...


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


def duration(seconds: float) -> str:
    """Seconds as `1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def quiet_libraries() -> Generator[None]:
    """No progress bars, notices and deprecation warnings of the libraries; as before afterwards."""
    import datasets
    from transformers.utils import logging

    quantiser = getLogger("bitsandbytes")  # says at every forward of an 8-bit layer that it casts
    level = quantiser.level
    quantiser.setLevel("ERROR")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    dataset_bars = datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft|accelerate")
            yield
    finally:
        quantiser.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not dataset_bars:
            datasets.enable_progress_bars()
