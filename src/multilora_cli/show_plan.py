"""What `multilora plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multilora_cli.tables import new_console, new_table, size

if TYPE_CHECKING:
    from multilora.resources.plan import Plan


def show_plan(plan: Plan) -> None:
    """Parameters, memory by part at the peak, whether it fits, and what the figures rest on."""
    console = new_console()
    recipe = plan.recipe
    console.print(
        f"[bold]{escape(recipe.model.path)}[/] (shape from {plan.shape_from}), method {recipe.method.name}, "
        f"{recipe.training.precision}",
        soft_wrap=True,
    )
    console.print(_parameters(plan))
    console.print(_memory(plan))
    _show_fit(console, plan)
    for note in plan.notes():
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)


def _parameters(plan: Plan) -> Table:
    table = new_table("parameters", "number", "share of base", whole=True)
    base = plan.parameters.base_total
    table.add_row("base model", f"{base:,}", "")
    for kind, count in plan.parameters.trained.items():
        table.add_row(f"  trained: {kind}", f"{count:,}", _percent(count / base))
    table.add_section()
    table.add_row("trained", f"{plan.parameters.trainable:,}", _percent(plan.parameters.trainable / base))
    table.add_row("written", size(plan.parameters.file_bytes), "")
    return table


def _memory(plan: Plan) -> Table:
    memory = plan.memory
    table = new_table(f"memory per device at its peak, in {memory.peak.name}", "GiB", whole=True)
    for part, count in memory.peak.parts.items():
        table.add_row(f"  {part.replace('_', ' ')}", f"{count / 2**30:,.2f}")
    if memory.overhead:
        table.add_row("  overhead (assumed)", f"{memory.overhead / 2**30:,.2f}")
    table.add_section()
    table.add_row("total" if memory.activations_known else "at least", f"{memory.total / 2**30:,.2f}")
    return table


def _show_fit(console: Console, plan: Plan) -> None:
    hardware, spare = plan.recipe.hardware, plan.spare
    if hardware.memory_gib is None or spare is None:
        return
    sharded = ", sharded" if hardware.sharding == "full" else ""
    on = f"{hardware.devices} x {hardware.memory_gib:g} GiB{sharded}"
    if plan.fits is None:
        console.print(f"[bold]not known whether it fits[/] on {on}")
    elif plan.fits:
        console.print(f"[bold green]fits[/] on {on}: {spare / 2**30:,.1f} GiB spare on each")
    else:
        console.print(f"[bold red]does not fit[/] on {on}: {-spare / 2**30:,.1f} GiB lacking on each")
        for change in plan.changes:
            settings = " ".join(f"--set {setting}" for setting in change.settings)
            reservation = "" if change.trainable else " (to plan with; quantised weights are not divided in training)"
            console.print(
                f"  with [cyan]{escape(settings)}[/]: {change.total / 2**30:,.1f} GiB{reservation}", soft_wrap=True
            )
        if not plan.changes:
            console.print("  neither checkpointing nor smaller batches nor sharding is enough; shorten the rows")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
