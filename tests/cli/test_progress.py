from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
from rich.console import Console

from multilora.terminal import Progress, duration, quiet_libraries
from multilora_cli.progress import Bar, Lines, analysis_bar, merge_bar, progress_for

METRICS = {"loss": 1.25, "tokens_per_second": 12345.6}


def test_a_pipe_gets_plain_lines_without_control_codes() -> None:
    out = io.StringIO()
    progress = progress_for(Console(file=out, width=40))
    assert isinstance(progress, Lines)
    progress.note("[red] a long note that is wider than the forty columns of this console, kept on one line")
    progress.start(10, 4)
    progress.step(5, None)
    progress.step(6, METRICS)
    progress.stop()
    note, line = out.getvalue().splitlines()
    assert note.startswith("[red] a long note")
    assert line.startswith("step 6/10  loss 1.2500  12,346 tokens/s  ")
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left() -> None:
    out = io.StringIO()
    progress = progress_for(Console(file=out, width=120, force_terminal=True))
    assert isinstance(progress, Bar)
    progress.start(10, 4)
    progress.step(6, METRICS)
    progress.stop()
    last = out.getvalue()
    for part in ("6/10", "loss 1.2500", "12,346 tokens/s", "left"):
        assert part in last


@pytest.mark.parametrize("new_bar", [merge_bar, analysis_bar])
def test_a_passing_bar_takes_names_and_notes_as_they_are(
    new_bar: Callable[[], Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = new_bar()
    bar.start(3, 1)
    bar.note("[red] a note[/b]")
    bar.step(2, name="h.0[/b]\x1b[2J")
    bar.stop()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("[red] a note[/b]\n")
    assert "\x1b" not in printed.err


def test_stopping_before_the_start_is_fine() -> None:
    for terminal in (True, False):
        progress_for(Console(file=io.StringIO(), force_terminal=terminal)).stop()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_libraries_are_quiet_and_afterwards_as_before() -> None:
    import datasets
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled())
    with quiet_libraries():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn("of ours", stacklevel=1)
        assert len(caught) == 1  # silence is for the libraries' deprecations, not for warnings
    assert before == (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        datasets.are_progress_bars_disabled(),
    )
