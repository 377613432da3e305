"""What a person sees besides results: durations as text, and silence from the libraries."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from logging import getLogger


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
