"""What `multilora bench` prints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multilora_cli.tables import new_console, new_table

if TYPE_CHECKING:
    from multilora.bench.record import AtLength, BenchRecord

_KINDS = ("weights", "activations", "gradients", "optimizer", "peak")
_WRITTEN_WIDTH = 120


def show_bench(record: BenchRecord, out: Path | None) -> None:
    """A table for each length, how memory grows, and whether the machine was quiet.

    With `out` the same goes into its bench.txt.
    """
    console = new_console()
    _print(console, record)
    if out is not None:
        written = new_console(file=io.StringIO(), record=True, width=_WRITTEN_WIDTH)
        _print(written, record)
        from multilora.storage.folders import write_text

        write_text(out / "bench.txt", written.export_text())
        console.print(f"[bold green]bench[/] {escape(str(out))}", soft_wrap=True)


def _print(console: Console, record: BenchRecord) -> None:
    for length, at in record.lengths.items():
        console.print(_speeds(length, at, record.reference))
        console.print(_memory(length, at))
    for line in _growth(record):
        console.print(line)
    if not record.is_quiet:
        share = record.others_cpu
        took = "an unknown share" if share is None else f"up to {100 * share:.0f} %"
        console.print(
            f"[bold red]others took {took} of the cores' time meanwhile: times are provisional, bytes are not[/]"
        )
    for fault in record.faults:
        console.print(f"[red]{escape(fault.method)}, {fault.length} tokens: {escape(fault.message)}[/]")


def _speeds(length: str, at: AtLength, reference: str | None) -> Table:
    title = f"{at.tokens:,} tokens in rows of {length}: tokens per second, medians of rounds in turns"
    compared = [f"over {reference}"] if reference else []
    table = new_table("method", "trained", "adapter, MiB", "forward", "whole step", *compared, title=title)
    for name, method in at.methods.items():
        speed, ratio = method.tokens_per_second, method.tokens_per_second.over_reference
        adapter = method.adapter_bytes
        over = f"{ratio.median:.2f} [dim]({ratio.q1:.2f}-{ratio.q3:.2f})[/]" if ratio else ""
        table.add_row(
            escape(name),
            f"{method.trainable_parameters:,}",
            "" if adapter is None else _mib(adapter),
            f"{speed.forward:,.0f}",
            f"{speed.step:,.0f}",
            *([over] if reference else []),
        )
    return table


def _memory(length: str, at: AtLength) -> Table:
    table = new_table("method", *_KINDS, title=f"{at.tokens:,} tokens in rows of {length}: memory, MiB")
    for name, method in at.methods.items():
        table.add_row(escape(name), *(_mib(getattr(method.bytes, kind)) for kind in _KINDS))
    return table


def _growth(record: BenchRecord) -> list[str]:
    lines: list[str] = []
    growth = record.growth
    for length, grown in growth.modules.items() if growth else ():
        per_token = grown.per_module / record.lengths[length].tokens
        lines.append(
            f"a module more keeps {grown.per_module / 1024:,.0f} KiB more for backward in rows of {length}: "
            f"{per_token:,.0f} bytes per token"
        )
    if growth and growth.per_token:
        least = ", ".join(f"{escape(name)} {value:,.0f}" for name, value in sorted(growth.per_token.items()))
        lines.append(f"bytes kept per token more: {least}")
    return lines


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f}"
