"""Progress output of a comparison."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from multilora.comparison.runner import ComparisonProgress
from multilora.errors import InputError
from multilora.terminal import Progress, Silent, duration
from multilora_cli.progress import Notes

# What a cell says that is no news to who watches a whole comparison: shown while it lasts, and not kept.
_PASSING = re.compile(r"(?P<what>reading|training|resuming|loading|validation|testing)\b|(?P<task>.*): evaluating ")
_LINES = 5  # for a cell's training, in a file or a pipe


def _passing(text: str) -> str | None:
    """A short text for a transient line; None if the line is kept."""
    found = _PASSING.match(text)
    return None if found is None else found["what"] or f"testing {found['task']}"


class _Left(ProgressColumn):
    """Time left, from the cells that are done and the part of the one that runs."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("" if left is None else f"{duration(left)} left", style="cyan")


class TwoBars(Notes):
    """Two bars for a terminal: all cells, and the one that runs with its loss and tokens per second."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[about]}"),
            _Left(),
            console=console,
        )
        self._all = self._bars.add_task("all", total=None, about="", left=None)
        self._one = self._bars.add_task("", total=None, about="", left=None)
        self._clock = _Clock()

    def cell(self, number: int, total: int, title: str) -> None:
        self._bars.start()
        self._clock.cell(number, total)
        self._bars.update(self._all, total=total, completed=number - 1, about=f"cell {number} of {total}")
        self._bars.update(self._all, left=self._clock.left(0.0))
        self._bars.reset(self._one, description=escape(title), total=None, about="loading", left=None)

    def note(self, text: str) -> None:
        if (about := _passing(text)) is not None:
            self._bars.update(self._one, about=escape(about))
        else:
            self._console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def start(self, total: int, done: int) -> None:
        self._bars.update(self._one, total=total, completed=done, about="training")

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        self._bars.update(self._one, completed=done)
        if metrics is not None:
            about = f"loss {metrics['loss']:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s"
            self._bars.update(self._one, about=about)
        total = self._bars.tasks[self._one].total
        self._bars.update(self._all, left=self._clock.left(done / total if total else 0.0))

    def stop(self) -> None:
        self._bars.stop()


class ComparisonLines(Notes):
    """Plain lines for a file or a pipe."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._clock = _Clock()
        self._steps = self._next = 0

    def cell(self, number: int, total: int, title: str) -> None:
        self._clock.cell(number, total)
        left = self._clock.left(0.0)
        super().note(f"[{number}/{total}] {title}" + ("" if left is None else f" ({duration(left)} left)"))

    def note(self, text: str) -> None:
        if _passing(text) is None:
            super().note(text)

    def start(self, total: int, done: int) -> None:
        self._steps, self._next = total, done

    def step(self, done: int, metrics: Mapping[str, float] | None = None, name: str | None = None) -> None:
        if metrics is not None and done >= self._next:
            self._next = done + self._steps // _LINES
            super().note(
                f"  step {done}/{self._steps}  loss {metrics['loss']:.4f}  {metrics['tokens_per_second']:,.0f} tokens/s"
            )


class _Clock:
    """Estimates the time left from the mean time of the cells before."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None
        self._number = self._total = 0

    def cell(self, number: int, total: int) -> None:
        if self._first is None:
            self._first = number
            self._began = time.monotonic()
        self._number, self._total = number, total

    def left(self, part: float) -> float | None:
        """Seconds left when `part` of the cell's training is done; None if nothing was measured yet."""
        assert self._first is not None
        done = self._number - self._first + part
        if done < 0.1:
            return None
        return (time.monotonic() - self._began) / done * (self._total - self._number + 1 - part)


class _AnalysisNotes(Silent):
    """How many matrices an analysis has, as a note of the comparison."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, total: int, done: int) -> None:
        self._progress.note(f"analysing what training changed in {total:,} matrices")


def write_page(folder: Path, progress: Progress) -> Path:
    """Analyse a comparison's cells, and write the page; of results alone if there is nothing to analyse."""
    from multilora.report.page import REPORT_FILE, report_on
    from multilora.spectral.analyze import AnalyzeOptions, analyze
    from multilora_cli.pages import write_analysis_page

    out = folder / "analysis"
    try:
        report = analyze([str(folder)], out, AnalyzeOptions(), _AnalysisNotes(progress))
        return write_analysis_page(report, [str(folder)])
    except InputError as error:
        progress.note(f"no analysis: {error}")
    out.mkdir(exist_ok=True)
    report_on(out / REPORT_FILE, None, [folder])
    return out / REPORT_FILE


def progress_for(console: Console) -> ComparisonProgress:
    """Bars on a terminal, plain lines elsewhere."""
    return TwoBars(console) if console.is_terminal else ComparisonLines(console)
