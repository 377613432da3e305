"""What `multilora export` and `multilora targets` print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from multilora_cli.tables import new_console, new_table, size

if TYPE_CHECKING:
    from multilora.adapter.exporting import ExportReport, Format, LayerExport
    from multilora.base.targets import Targets


_WIDEST_GRID = 8  # columns that fit into a terminal


def show_export(report: ExportReport, form: Format) -> None:
    """The truncation's errors, what was written, and how to load and serve it."""
    from multilora.storage.safetensors import dtype_name

    console = new_console()
    if report.truncated_to is not None:
        console.print(_error_table(error_table(report.layers), report.truncated_to))
        worst = max(report.layers, key=lambda layer: layer.relative_error)
        console.print(
            f"over all layers [bold]{100 * report.relative_error:.2f} %[/], "
            f"largest {100 * worst.relative_error:.2f} % ({escape(worst.name)})\n"
        )
    kind = "exact" if report.truncated_to is None else f"truncated to rank {report.truncated_to}"
    wanted = report.truncated_to or max(layer.total_rank for layer in report.layers)
    padding = f" ({wanted}, padded with zeros to a multiple of 16)" if report.rank != wanted else ""
    console.print(f"[bold green]exported[/] {escape(str(report.out_dir))}", soft_wrap=True)
    console.print(
        f"  {form.title}, [bold]rank {report.rank}[/]{padding}; {kind}; {len(report.layers)} layers, "
        f"{dtype_name(report.dtype)}, {size(report.size)}\n",
        soft_wrap=True,
    )
    console.print(f"load it with {form.loader} (multilora need not be installed):")
    for line in form.loading_lines(report):
        console.print(f"  {escape(line)}", style="cyan", soft_wrap=True)
    console.print("\nserve it:")
    for server, line in form.server_lines(report):
        console.print(f"  {server:<10} [cyan]{escape(line)}[/]", soft_wrap=True)


@dataclass(frozen=True)
class ErrorTable:
    """Relative errors in percent: a row per block and a column per kind of layer, or a row per layer.

    Attributes:
        columns: headings; the first is of the row's name.
        rows: cells; "" where a block lacks a layer.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def error_table(layers: Sequence[LayerExport]) -> ErrorTable:
    """The relative error of every layer, as compact as the layers' names allow."""
    matches = [re.fullmatch(r"(\D*?)(\d+)\.(.+)", layer.name) for layer in layers]
    places = [(match[1], match[2], match[3]) for match in matches if match]
    kinds = list(dict.fromkeys(kind for _, _, kind in places))
    if len(places) < len(layers) or len({stem for stem, _, _ in places}) > 1 or len(kinds) > _WIDEST_GRID:
        return ErrorTable(("layer", "error"), tuple((layer.name, _percent(layer.relative_error)) for layer in layers))
    cells: dict[str, dict[str, str]] = {}
    for (_, block, kind), layer in zip(places, layers, strict=True):
        cells.setdefault(block, {})[kind] = _percent(layer.relative_error)
    last = [kind.rpartition(".")[2] for kind in kinds]
    names = last if len(set(last)) == len(last) else kinds
    return ErrorTable(
        ("block", *names), tuple((block, *(row.get(kind, "") for kind in kinds)) for block, row in cells.items())
    )


def _percent(error: float) -> str:
    return f"{100 * error:.2f}" if error else "0"


def show_targets(targets: Targets, every: bool) -> None:
    """The groups as a table, and what no adapter reaches; or one name per line."""
    groups = targets.groups
    console = new_console()
    if every:
        for group in groups:
            for name in group.names:
                console.print(escape(name), soft_wrap=True)
        return
    table = new_table("target_modules", "layers", "d_in", "d_out", "where", left=("where",), whole=True)
    for group in groups:
        where = f"{escape(group.where)}" + (" [dim](output layer)[/]" if group.output_layer else "")
        table.add_row(escape(group.ending), f"{len(group.names):,}", f"{group.d_in:,}", f"{group.d_out:,}", where)
    console.print(table)
    adapted = sum(len(group.names) for group in groups if not group.output_layer)
    console.print(
        f"target_modules='all-linear' adapts {adapted:,} of these layers"
        + (", all but the output layer" if any(group.output_layer for group in groups) else "")
        + ". A list takes endings ('q_proj', 'mlp.c_proj') or whole names (--all)."
    )
    if targets.left_out:
        console.print("It leaves out what cannot be adapted:")
        for each in targets.left_out:
            where = f"{escape(each.where)} ({len(each.names):,})"
            console.print(f"  {where}: {escape(each.reason)}", soft_wrap=True)
    if targets.unreached:
        share = sum(each.share for each in targets.unreached)
        console.print(f"No adapter reaches {share:.1%} of the weights, which are in parameters of no linear layer:")
        for each in targets.unreached:
            shape = " × ".join(map(str, each.shape))
            console.print(f"  {escape(each.where)} ({len(each.names):,} of {shape}): {each.share:.1%}", soft_wrap=True)


def _error_table(content: ErrorTable, rank: int) -> Table:
    table = new_table(*content.columns, title=f"relative error of each layer's ΔW at rank {rank}, in %")
    for row in content.rows:
        table.add_row(*map(escape, row))
    return table
