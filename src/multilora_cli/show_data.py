"""What `multilora data check` and `multilora data preview` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from multilora_cli.tables import new_console, new_table

if TYPE_CHECKING:
    from multilora.data.leakage import LeakReport, Pair
    from multilora.training.preview import Preview, SamplePart, TaskPreview

_NAMED = 5
# A terminal shows this many characters of a part of a sample, from both its ends; JSON has all.
_SHOWN_HEAD, _SHOWN_TAIL = 900, 300


def show_check(report: LeakReport, every: bool) -> None:
    """The leaks by pair of splits with their first rows, or all; what else is shared; what was compared."""
    console = new_console()
    trained = sum(count for split, count in report.read.items() if split.endswith("/train"))
    evaluated = sum(count for split, count in report.read.items() if split.endswith(("/validation", "/test")))
    compared = f"{trained:,} training rows compared with {evaluated:,} evaluation rows"
    if report.leaks:
        console.print(f"[bold red]{report.leaked_rows:,} training rows equal evaluation rows[/]; {compared}")
        _show_pairs(console, report.leaks, every)
        console.print("mixture.on_leak: drop leaves these training rows out")
    else:
        console.print(f"[bold green]no training row equals an evaluation row[/]; {compared}")
    if report.shared:
        console.print("\nwithin the evaluation data (nothing is trained on; the data sets are so):")
        _show_pairs(console, report.shared, every)


def _show_pairs(console: Console, pairs: Sequence[Pair], every: bool) -> None:
    for pair in pairs:
        console.print(f"  [bold]{escape(pair.first)} → {escape(pair.second)}[/]: {pair.first_rows:,}", soft_wrap=True)
        shown = pair.matches if every else pair.matches[:_NAMED]
        for one, other in shown:
            console.print(f"    {escape(str(one))} = {escape(str(other))}", soft_wrap=True)
        if len(shown) < len(pair.matches):
            console.print(f"    and {len(pair.matches) - len(shown):,} more; --all names them")


def show_preview(preview: Preview) -> None:
    """Samples of every task first, then the tables: what a terminal shows last is read first."""
    console = new_console()
    for name, task in preview.tasks.items():
        for number, sample in enumerate(task.samples, start=1):
            console.rule(f"{name} [{number} of {len(task.samples)}]".replace("[", r"\["), align="left", style="dim")
            console.print(_rendered(sample, colour=console.color_system is not None and not console.no_color))
    if any(task.samples for task in preview.tasks.values()):
        console.rule(style="dim")
    console.print(_rows_table(preview))
    console.print(_training_table(preview))
    for line in _lines(preview):
        console.print(line, soft_wrap=True, markup=False)
    for note in preview.notes:
        console.print(note, soft_wrap=True, markup=False)
    for warning in preview.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False, style="yellow")


def _rendered(sample: Sequence[SamplePart], colour: bool) -> Text:
    """The tokens as text; tokens in the loss are highlighted, or bracketed without colour."""
    text = Text()
    for part in sample:
        shown = _printable(_shortened(part.text))
        if not part.learnt:
            text.append(shown, style="dim")
        elif colour:
            text.append(shown, style="bold green")
        else:
            text.append(f"⟦{shown}⟧")
    return text


def _shortened(text: str) -> str:
    left_out = len(text) - _SHOWN_HEAD - _SHOWN_TAIL
    if left_out <= 100:
        return text
    return f"{text[:_SHOWN_HEAD]}\n… {left_out:,} characters …\n{text[-_SHOWN_TAIL:]}"


def _printable(text: str) -> str:
    """Control characters as their pictures, so that data cannot steer the terminal."""
    return "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else "␡" if c == "\x7f" else c for c in text)


def _rows_table(preview: Preview) -> Table:
    table = new_table(
        "task", "examples", "tokens", "min", "median", "p95", "max", f"> {preview.max_length:,}", "skipped"
    )
    for name, task in preview.tasks.items():
        lengths = (f"{task.lengths[which]:,}" for which in ("min", "median", "p95", "max"))
        counts = task.counts
        table.add_row(
            escape(name),
            f"{task.examples:,}",
            f"{counts['tokens']:,}",
            *lengths,
            _percent(task.too_long),
            f"{counts['skipped']:,}",
        )
    return table


def _training_table(preview: Preview) -> Table:
    table = new_table("task", "rate", "of examples", "of tokens", "epochs", "changed by the tokenizer")
    for name, task in preview.tasks.items():
        table.add_row(
            escape(name),
            f"{task.rate:.4g}",
            _percent(task.share_of_examples),
            _percent(task.share_of_tokens),
            "?" if task.epochs is None else f"{task.epochs:.2f}",
            _changed(task),
        )
    return table


def _changed(task: TaskPreview) -> str:
    trip = task.round_trip
    return f"{trip.differing:,} of {trip.rows:,} ({_percent(trip.share)})"


def _lines(preview: Preview) -> list[str]:
    long = {"drop": "dropped", "truncate": "truncated", "fail": "an error"}[preview.on_long_example]
    rows = f"packed into rows of {preview.row_length:,} tokens" if preview.packing else "padded to a batch's longest"
    special = ", ".join(f"{kind} {token or 'none'}" for kind, token in preview.special_tokens.items())
    pad = "" if preview.special_tokens["pad"] else f"; padded with eos {preview.padded_with}, which neither attention "
    return [
        f"{preview.steps:,} steps see {preview.examples:,} examples in one process, {rows}: "
        f"{_percent(preview.useful_positions)} of the positions hold tokens",
        f"lengths are tokens of the examples kept; examples longer than {preview.max_length:,}: {long}",
        f"special tokens: {special}" + (pad and f"{pad}nor loss sees"),
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
