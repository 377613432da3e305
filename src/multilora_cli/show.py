"""What `multilora export` and `multilora targets` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from multilora.adapter.export.common import ExportReport
    from multilora.adapter.export.describe import ErrorTable
    from multilora.base.targets import TargetGroup


def show_export(report: ExportReport) -> None:
    """The truncation's errors, what was written, and how to load and serve it."""
    from multilora.adapter.export.describe import error_table, loading_lines, server_lines
    from multilora.storage.safetensors import dtype_name

    console = Console(highlight=False)
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
    what = "MLX adapter" if report.format == "mlx" else "plain PEFT LoRA"
    console.print(f"[bold green]exported[/] {escape(str(report.out_dir))}", soft_wrap=True)
    console.print(
        f"  {what}, [bold]rank {report.rank}[/]{padding}; {kind}; {len(report.layers)} layers, "
        f"{dtype_name(report.dtype)}, {size(report.size)}\n",
        soft_wrap=True,
    )
    loader = "mlx-lm" if report.format == "mlx" else "PEFT"
    console.print(f"load it with {loader} (multilora need not be installed):")
    for line in loading_lines(report):
        console.print(f"  {escape(line)}", style="cyan", soft_wrap=True)
    console.print("\nserve it:")
    for server, line in server_lines(report):
        console.print(f"  {server:<10} [cyan]{escape(line)}[/]", soft_wrap=True)


def show_targets(groups: list[TargetGroup], every: bool) -> None:
    """The groups as a table, or every name on a line of its own."""
    console = Console(highlight=False)
    if every:
        for group in groups:
            for name in group.names:
                console.print(escape(name), soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("target_modules", style="bold", no_wrap=True)
    for heading in ("layers", "d_in", "d_out"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
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


def _error_table(content: ErrorTable, rank: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"relative error of each layer's ΔW at rank {rank}, in %",
        title_justify="left",
        pad_edge=False,
    )
    first, *others = content.columns
    table.add_column(escape(first), style="bold", overflow="fold")
    for heading in others:
        table.add_column(escape(heading), justify="right", overflow="fold")
    for row in content.rows:
        table.add_row(*map(escape, row))
    return table


def size(count: int) -> str:
    """Bytes as people read them."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} GB"
