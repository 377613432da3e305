"""`multilora train`, `compare`, `plan` and `schema`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe: a YAML file. `multilora schema` describes it.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: training.steps=10. May be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of this recipe.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
) -> None:
    """Train a recipe into a run folder."""
    from rich.console import Console

    from multilora_cli.show_train import summary, train_recipe

    try:
        result = train_recipe(recipe, overrides or [], resume, overwrite, Console())
    except KeyboardInterrupt:
        typer.echo("interrupted; --resume continues from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    if is_main_process():
        for line in summary(result):
            typer.echo(line)


def compare(
    recipe: Annotated[Path, typer.Argument(help="The recipe; its section `comparison` says what is compared.")],
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated: full, lora@24, multilora, multilora@3x8:scaling=scalar.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds each method is trained with.")] = None,
    regimes: Annotated[
        str | None, typer.Option(help="mixed (one adapter for all tasks), single (one for each), or mixed,single.")
    ] = None,
    lr_sweep: Annotated[
        str | None,
        typer.Option(help="Comma-separated learning rates to try on validation rows, for every method alike."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Test rows per task. Default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The comparison's folder. Default: beside the recipe's output.")
    ] = None,
    analysis: Annotated[
        bool, typer.Option(help="End with the analysis of what training changed, and the page.")
    ] = True,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, as for train.")
    ] = None,
) -> None:
    """Train and test a recipe with several methods and seeds, and print one table. Resumes where it was interrupted."""
    from rich.console import Console

    from multilora.comparison.compare import CompareOptions, compare
    from multilora_cli.comparing import progress_for, write_page
    from multilora_cli.show_compare import failed_lines, show_comparison

    options = CompareOptions(
        methods=listed(methods),
        seeds=seeds,
        regimes=listed(regimes),
        learning_rates=_numbers("--lr-sweep", lr_sweep),
        limit=limit,
        out=out,
    )
    progress = progress_for(Console())
    page: Path | None = None
    try:
        comparison = compare(recipe, overrides or [], options, progress)
        if analysis and comparison.has_tested_cells:
            page = write_page(comparison.folder, progress)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue with the remaining cells", err=True)
        raise typer.Exit(130) from None
    show_comparison(comparison, page)
    for line in failed_lines(comparison.failures):
        typer.secho(f"failed: {line}", fg=typer.colors.RED, err=True)
    if comparison.failures:
        raise typer.Exit(1)


def listed(text: str | None) -> list[str] | None:
    """Comma-separated names; a comma inside a method's options belongs to them."""
    return None if text is None else [name.strip() for name in re.split(r",(?![\w]+=)", text) if name.strip()]


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option}: comma-separated numbers, such as 1e-3,3e-3; got {text!r}") from None


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: hardware.devices=8. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; sizes in bytes.")] = False,
) -> None:
    """Estimate a recipe's parameters and memory, and whether it fits. Reads no weights and no data."""
    import json

    from multilora.resources.plan import plan_recipe
    from multilora_cli.show_plan import show_plan

    planned = plan_recipe(recipe, overrides or [])
    if as_json:
        typer.echo(json.dumps(planned.facts(), indent=2, ensure_ascii=False))
    else:
        show_plan(planned)


def schema() -> None:
    """Print the JSON schema of a recipe: every key, its type, default and meaning."""
    from multilora_cli.show_train import schema

    typer.echo(schema())


def is_main_process() -> bool:
    """Whether this is the first of torchrun's processes; True without torchrun."""
    return os.environ.get("RANK", "0") == "0"
