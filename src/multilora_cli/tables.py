"""Shared output helpers of the console script: the console, tables, text from files, sizes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDTH_OF_A_FILE = 120  # a pipe or a file has none


def new_console(**options: Any) -> Console:
    """A console for results; at least 120 columns wide if the output is not a terminal."""
    found = Console(highlight=False, **options)
    if not found.is_terminal:
        found.width = max(found.width, _WIDTH_OF_A_FILE)
    return found


def new_table(
    first: str, *others: str, title: str | None = None, left: Collection[str] = (), whole: bool = False
) -> Table:
    """A table without rows yet: names in bold, then numbers, flush right. Its cells are markup.

    Args:
        first: heading of the names. Headings are plain text.
        others: headings of the numbers.
        title: markup.
        left: those of `others` that are text, flush left.
        whole: no number is broken where the terminal is too narrow, but cut off.
    """
    found = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    found.add_column(shown(first), style="bold", overflow="fold")
    for heading in others:
        if heading in left:
            found.add_column(shown(heading), overflow="fold")
        else:
            found.add_column(shown(heading), justify="right", no_wrap=whole, overflow="fold")
    return found


def shown(text: str) -> str:
    """Escape text from files: no markup and no terminal control codes."""
    return escape("".join(char if char.isprintable() or char == "\n" else "�" for char in text))


def size(count: int) -> str:
    """Bytes as people read them."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} GB"
