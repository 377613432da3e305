"""`multilora data check` and `data preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: tasks.a.folder=there. May be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every row, not only the first of each pair.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every row.")] = False,
) -> None:
    """Find evaluation rows that occur in training. Exit code 1 if there are any, 2 if a split could not be read."""
    import json

    from multilora.training.check import check_facts, check_recipe
    from multilora_cli.show_data import show_check

    report = check_recipe(recipe, overrides or [])
    if as_json:
        typer.echo(json.dumps(check_facts(report), indent=2, ensure_ascii=False))
    else:
        show_check(report, every)
    for line in report.unread:
        typer.secho(f"error: {line}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1 if report.leaks else 2 if report.unread else 0)


def preview(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: training.steps=10. May be repeated."),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Samples of each task to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole samples.")] = False,
) -> None:
    """Show what a recipe trains on: sizes, lengths, shares, epochs, samples. Loads no weights."""
    import json

    from rich.console import Console

    from multilora.training.preview import preview_recipe
    from multilora_cli.show_data import show_preview

    with Console(stderr=True).status("reading and encoding the tasks"):
        found = preview_recipe(recipe, overrides or [], samples)
    if as_json:
        typer.echo(json.dumps(found.facts(), indent=2, ensure_ascii=False))
    else:
        show_preview(found)
