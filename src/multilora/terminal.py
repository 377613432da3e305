"""What a person sees besides results: progress, durations as text, and silence from the libraries."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from logging import getLogger
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a training (in optimizer steps), a merge (in bytes) or an analysis (in matrices)."""

    def note(self, text: str) -> None:
        """A line for the user: what is being done, what was skipped, a warning."""
        ...

    def start(self, total: int, done: int) -> None:
        """`done` of `total` were done before: 0, unless this resumes earlier work."""
        ...

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        """`done` of the total are done.

        Args:
            done: counted as in `start`, so that no call adds to another.
            metrics: of a training's logged step: loss, tokens_per_second and so on.
            name: of the matrix that was the last.
        """
        ...

    def stop(self) -> None:
        """The work has ended, well or not. Also called if it never began."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def note(self, text: str) -> None: ...

    def start(self, total: int, done: int) -> None: ...

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None: ...

    def stop(self) -> None: ...


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
