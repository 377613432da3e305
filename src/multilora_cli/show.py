"""What `multilora export` and `multilora targets` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from multilora_cli.tables import new_console, new_table, size

if TYPE_CHECKING:
    from multilora.adapter.export.common import ExportReport
    from multilora.adapter.export.describe import ErrorTable
    from multilora.base.targets import TargetGroup


def show_export(report: ExportReport) -> None:
    """The truncation's errors, what was written, and how to load and serve it."""
    from multilora.adapter.export.describe import error_table, loading_lines, server_lines
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


def _error_table(content: ErrorTable, rank: int) -> Table:
    table = new_table(*content.columns, title=f"relative error of each layer's ΔW at rank {rank}, in %")
    for row in content.rows:
        table.add_row(*map(escape, row))
    return table
